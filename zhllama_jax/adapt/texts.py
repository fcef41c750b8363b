"""The named texts of a pipeline, split into what is learned from and what is held out, always in the same way."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from zhllama_jax.data import chat, documents
from zhllama_jax.data import config as data_config


def learned(text: data_config.TextData) -> Iterator[str]:
    """The documents that may be learned from, each once: none that is held out, and none that stands in `validation_files` too."""
    for document in _read(text, text.files, against=text.validation_files):
        if not documents.is_held_out(document.text, text.held_out, text.salt):
            yield document.text


def held_out(text: data_config.TextData, *, max_characters: int | None = None) -> list[str]:
    """The documents that are held out, from the start up to about `max_characters` (the document that passes it is cut).

    Raises:
      ValueError: the text holds nothing out.
    """
    kept: list[str] = []
    room = max_characters
    for document in _read(text, text.validation_files or text.files):
        if text.validation_files or documents.is_held_out(document.text, text.held_out, text.salt):
            kept.append(document.text if room is None else document.text[:room])
            room = None if room is None else room - len(document.text)
            if room is not None and room <= 0:
                break
    if not kept:
        raise ValueError(f"{', '.join(text.files)}: nothing is held out; set held_out or validation_files")
    return kept


def holds_out(text: data_config.TextData) -> bool:
    """Whether any part of the text is held out."""
    return bool(text.validation_files) or text.held_out > 0


def held_out_rows(rows: data_config.SftData) -> list[chat.SftExample]:
    """The held-out instruction rows, in order."""
    files: Sequence[Path] = documents.expand(rows.validation_files or rows.files, suffixes=chat.SUFFIXES)
    return [
        row
        for path in files
        for row in chat.read_sft(path)
        if rows.validation_files or documents.is_held_out(row.question, rows.held_out, rows.salt)
    ]


def _read(text: data_config.TextData, paths: Sequence[str], *, against: Sequence[str] = ()) -> Iterator[documents.Document]:
    """The documents of some files, each once and none of `against`, as `data.build` reads them; all where duplicates are kept."""
    tally = documents.Tally()
    read = functools.partial(documents.read, field=text.field, documents=text.documents, on_error=text.on_error)
    found = read(paths, tally=tally)
    return documents.unique(found, tally, against=read(against)) if text.deduplicate else found
