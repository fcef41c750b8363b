"""What of a corpus is learned from and what is held out: one rule for packed rows, vocabularies, n-gram models and scores.

A document is held out by the hash of its text or because it stands in `validation_files`. Where several corpora are used together, a
document that one of them holds out is learned from none: neither by way of another corpus that holds a smaller share out, or none,
nor because it stands in the files of one and the validation files of another. What no corpus holds out is left out of none.
"""

from collections.abc import Iterator, Sequence

from zhllama_jax.data import config, documents


def learned(
    data: config.TextData, *, others: Sequence[config.TextData] = (), tally: documents.Tally | None = None
) -> Iterator[documents.Document]:
    """The documents that may be learned from: held out neither by their own corpus nor by one of `others`.

    Args:
      data: the corpus.
      others: corpora that are used together with it.
      tally: counts what was read; what stands in validation files, or another corpus holds out, counts as "dropped_held_out".

    Raises:
      FileNotFoundError, ValueError: see `documents.read`.
    """
    tally = documents.Tally() if tally is None else tally
    holding = dict.fromkeys([*([data] if data.validation_files else []), *config.holding_more(data, others)])
    apart = (document for each in holding for document in _apart(each) if not _by_hash(document, data))
    for document in documents.unique(_read(data, data.files, tally), tally, against=apart, repeats=not _deduplicates(data)):
        if not _by_hash(document, data):
            yield document


def held_out(data: config.TextData, *, tally: documents.Tally | None = None) -> Iterator[documents.Document]:
    """The documents of a corpus that are held out, in order; none where it says nothing of it.

    Raises:
      FileNotFoundError, ValueError: see `documents.read`.
    """
    tally = documents.Tally() if tally is None else tally
    found = _read(data, data.validation_files or data.files, tally)
    for document in documents.unique(found, tally) if _deduplicates(data) else found:
        if data.validation_files or _by_hash(document, data):
            yield document


def _apart(data: config.TextData) -> Iterator[documents.Document]:
    """What `held_out` gives, repeats and all: for sets, and in the memory of one document."""
    for document in _read(data, data.validation_files or data.files):
        if data.validation_files or _by_hash(document, data):
            yield document


def _by_hash(document: documents.Document, data: config.TextData) -> bool:
    return data.held_out > 0 and documents.is_held_out(document.text, data.held_out, data.salt)


def _deduplicates(data: config.TextData) -> bool:
    return data.deduplicate and data.packing != "reference"


def _read(data: config.TextData, paths: Sequence[str], tally: documents.Tally | None = None) -> Iterator[documents.Document]:
    """The documents of some files as the corpus wants them read: reference packing takes every line, blank ones too, for one."""
    reference = data.packing == "reference"
    return documents.read(
        paths,
        field=data.field,
        documents="line" if reference else data.documents,
        on_error=data.on_error,
        blanks=reference,
        tally=tally,
    )
