"""From files and a tokenizer to a store of packed rows, with counts of everything on the way.

The corpus is read once per split, a split is streamed, and memory holds a chunk of documents (and
about 100 bytes per document where duplicates are left out). What was built is named by a key over
the contents of the inputs, the choices and the tokenizer: a second build of the same is a look-up,
or, where its files are damaged, another build.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import files, lines, templates
from zhllama_jax.data import config, documents, holdout, instructions, pack, store
from zhllama_jax.tokenizer import processor

RECIPES = {"text": 5, "sft": 7}
"""Counts, for each kind of data, the changes of this code that make other rows of the same inputs."""

CHUNK_CHARACTERS = 1 << 20

TRAIN, VALIDATION = "train", "validation"

Others = Sequence[config.TextData | config.SftData]
"""Data of the same kind that are used together with some."""


class Progress(NamedTuple):
    """How far a build is."""

    split: str
    documents: int
    tokens: int


Report = Callable[[Progress], None]


class OtherData(ValueError):
    """The output holds a build of other inputs or choices."""


class Built(NamedTuple):
    """The opened splits of a build; `fresh` is false where it was there already."""

    train: store.Store
    validation: store.Store | None
    metadata: dict[str, Any]
    fresh: bool


def text(
    data: config.TextData,
    tokenizer: processor.Tokenizer,
    output: str | Path,
    *,
    others: Sequence[config.TextData] = (),
    overwrite: bool = False,
    progress: Report | None = None,
) -> Built:
    """Builds the store of a pre-training corpus in the directory `output`, or opens it if it is there.

    What one of `others`, the corpora that are used together with this one, holds out is not trained on.

    The metadata count, per split: documents, characters, bytes and tokens (without separators) that were packed, rows, targets
    (predicted tokens) and targets_separate (those that are predicted where documents of a row do not see each other); over the whole
    corpus: what was read and every fault, by kind.

    Raises:
      FileNotFoundError: a file is missing.
      OtherData: another build is in `output` and `overwrite` is false.
      ValueError: a fault in the corpus, a split without documents, or an output that has to do with an input or holds no store.
    """
    inputs = documents.expand(data.files)
    validation = documents.expand(data.validation_files) if data.validation_files else []
    holding = config.holding_more(data, others)
    metadata = _metadata("text", data, tokenizer, inputs, validation, holding)
    apart = [path for other in holding for path in telling(other)]
    if (ready := _ready(output, metadata["key"], overwrite, [*inputs, *validation, *apart])) is not None:
        return ready
    splits: dict[str, Iterable[pack.Row]] = {
        split: _text_rows(data, others, tokenizer, paths, split, metadata, progress)
        for split, paths in _split_files(data, inputs, validation)
    }
    return _write(output, splits, metadata, overwrite)


def sft(
    data: config.SftData,
    tokenizer: processor.Tokenizer,
    output: str | Path,
    *,
    others: Sequence[config.SftData] = (),
    overwrite: bool = False,
    progress: Report | None = None,
) -> Built:
    """Builds the store of instruction rows in the directory `output`, or opens it if it is there.

    Conversations that begin like one that `others`, the instructions that are used together with these, hold out are not trained on.

    The metadata count, per split: examples, turns (answers) learnt, characters of these answers, tokens, targets, rows, turns_cut
    (turns at the ends of conversations that did not fit), examples dropped (no answer left, or begun like one that is held out elsewhere)
    and cut (answer shortened); its rows of each form in each file, and faults of rows, by kind. They record template and boundary, which
    the model must be asked with; `closed` says whether conversations were learnt.

    Raises:
      FileNotFoundError: a file is missing.
      OtherData: another build is in `output` and `overwrite` is false.
      ValueError: a fault in a row, a split without examples, or an output that has to do with an input or holds no store.
    """
    templates.named(data.template)
    inputs = documents.expand(data.files, suffixes=instructions.SUFFIXES)
    validation = documents.expand(data.validation_files, suffixes=instructions.SUFFIXES) if data.validation_files else []
    holding = config.holding_more(data, others)
    metadata = _metadata("sft", data, tokenizer, inputs, validation, holding)
    apart = [path for other in holding for path in telling(other)]
    if (ready := _ready(output, metadata["key"], overwrite, [*inputs, *validation, *apart])) is not None:
        return ready
    splits: dict[str, Iterable[pack.Row]] = {
        split: _sft_rows(data, others, tokenizer, paths, split, metadata, progress)
        for split, paths in _split_files(data, inputs, validation)
    }
    return _write(output, splits, metadata, overwrite)


def key(
    kind: str,
    data: config.TextData | config.SftData,
    tokenizer: processor.Tokenizer,
    digests: Sequence[Sequence[str]],
    others: Others = (),
) -> str:
    """The name of a build: a digest over the recipe, the choices, the tokenizer and the contents (not the names) of the inputs.

    Of `others` those are given that may hold out what these data would train on.
    """
    choices = {name: value for name, value in dataclasses.asdict(data).items() if name not in ("files", "validation_files")}
    choices["others"] = [rule(other) for other in others]
    described = json.dumps([RECIPES[kind], store.FORMAT, kind, choices, tokenizer.sha256, digests], sort_keys=True)
    return hashlib.sha256(described.encode("utf-8")).hexdigest()


def rule(other: config.TextData | config.SftData) -> list[Any]:
    """What beside the contents of its files decides what other data hold out: the rule, and how these files are read."""
    if isinstance(other, config.SftData):
        return [other.held_out, other.salt, dataclasses.astuple(other.columns), other.on_error, other.template]
    return [other.held_out, other.salt, other.documents, other.field, other.packing, other.on_error]


class Spelled(NamedTuple):
    """What the predicted tokens of a split spell together.

    Attributes:
      characters: Unicode characters.
      targets: the tokens.
    """

    characters: int
    targets: int


def spelled(metadata: dict[str, Any], split: str, *, separate: bool) -> Spelled | None:
    """What a score of a whole split speaks of; None where its targets are not just the counted text.

    That is so of a store that says nothing of it, of reference packing, which drops text, and of documents without BOS, whose first
    token nothing stands before.

    Args:
      metadata: a store's.
      split: the split's name.
      separate: whether documents of a row see only themselves (see `batches.collate`).
    """
    counts, options = metadata.get("splits", {}).get(split, {}), metadata.get("options", {})
    targets = counts.get("targets_separate" if separate else "targets")
    whole = metadata.get("kind") == "sft" or (metadata.get("kind") == "text" and options["bos"] and options["packing"] != "reference")
    return Spelled(counts["characters"], targets) if whole and targets and counts.get("characters") else None


def closed(metadata: dict[str, Any]) -> bool:
    """Whether a store of instructions teaches conversations: earlier answers, with the EOS behind them, stand before later ones."""
    counts = metadata.get("splits", {}).get(TRAIN, {})
    return metadata.get("kind") == "sft" and counts.get("turns", 0) > counts.get("examples", 0)


def _metadata(
    kind: str,
    data: config.TextData | config.SftData,
    tokenizer: processor.Tokenizer,
    inputs: Sequence[Path],
    validation: Sequence[Path],
    others: Others,
) -> dict[str, Any]:
    sources = {name: list(map(_described, paths)) for name, paths in (("files", inputs), ("validation_files", validation))}
    sources["held_out_by_others"] = [
        {**_described(path), "held_out": other.held_out, "salt": other.salt if other.held_out else ""}
        for other in others
        for path in telling(other)
    ]
    digests = [[str(source["sha256"]) for source in part] for part in sources.values()]
    return {
        "kind": kind,
        "key": key(kind, data, tokenizer, digests, others),
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "length": data.length,
        "options": {name: value for name, value in dataclasses.asdict(data).items() if name not in ("files", "validation_files")},
        "sources": sources,
        "splits": {},
    }


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": files.sha256(path)}


def telling(other: config.TextData | config.SftData) -> list[Path]:
    """The files that tell what data hold out: those for validation, or those of which the hash chooses."""
    suffixes = instructions.SUFFIXES if isinstance(other, config.SftData) else lines.SUFFIXES
    return documents.expand(other.validation_files or other.files, suffixes=suffixes)


def _split_files(data: config.TextData | config.SftData, inputs: list[Path], validation: list[Path]) -> list[tuple[str, list[Path]]]:
    """The splits to make, and the files that each is read from."""
    splits = [(TRAIN, inputs)]
    if validation or data.held_out:
        splits.append((VALIDATION, validation or inputs))
    return splits


def _ready(output: str | Path, wanted: str, overwrite: bool, inputs: Sequence[Path]) -> Built | None:
    """The build in `output` if it is the wanted one and its files are as they were written.

    Raises:
      ValueError: another build, or an output that may not be written at all.
    """
    there = files.usable_directory(output, inputs=inputs)
    if all((there / name).is_file() for name in (store.CHECKSUMS, "metadata.json")):
        metadata = store.read_metadata(output)
        same = metadata.get("key") == wanted
        if same and not store.damage(output, contents=True):
            return _opened(output, metadata, fresh=False)
        if not same and not overwrite:
            raise OtherData(
                f"{output} holds data built from other inputs or choices: choose another output, or replace it with --overwrite"
            )
    files.free_directory(output, ours=store.written, overwrite=True, inputs=inputs)
    return None


def _write(output: str | Path, splits: dict[str, Iterable[pack.Row]], metadata: dict[str, Any], overwrite: bool) -> Built:
    # `_ready` has refused what is another build: a store that stands there now is this one, damaged.
    damaged = (Path(output) / "metadata.json").exists()
    store.write(output, splits, metadata=metadata, overwrite=overwrite or damaged)
    return _opened(output, store.read_metadata(output), fresh=True)


def _opened(output: str | Path, metadata: dict[str, Any], *, fresh: bool) -> Built:
    validation = store.open_store(output, VALIDATION) if VALIDATION in metadata["splits"] else None
    return Built(store.open_store(output, TRAIN), validation, metadata, fresh)


def _text_rows(
    data: config.TextData,
    others: Sequence[config.TextData],
    tokenizer: processor.Tokenizer,
    paths: Sequence[Path],
    split: str,
    metadata: dict[str, Any],
    progress: Report | None,
) -> Iterator[pack.Row]:
    """The rows of one split; its counts are in `metadata` when they are exhausted."""
    read, used = documents.Tally(), documents.Tally()
    texts = holdout.learned(data, others=others, tally=read) if split == TRAIN else holdout.held_out(data, tally=read)
    counts: Counter[str] = Counter()

    def tokenised() -> Iterator[tuple[str, list[int]]]:
        for chunk in _chunks(texts):
            for item, ids in zip(chunk, tokenizer.encode_batch([item.text for item in chunk]), strict=True):
                used.add(item.text)
                counts["tokens"] += len(ids)
                yield item.source, ids
            if progress is not None:
                progress(Progress(split, used.documents, counts["tokens"]))

    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id or 0}
    rows = pack.pack_corpus(tokenised(), data, **ends)
    yield from _counted(rows, counts)
    _require(used.documents, split, data.held_out, paths, read=f"documents read: {read.documents:,}")
    metadata["splits"][split] = {
        "documents": used.documents,
        "characters": used.characters,
        "bytes": used.bytes,
        **counts,
        "read": {"documents": read.documents, "characters": read.characters, "bytes": read.bytes},
        "faults": dict(read.faults),
        "located": read.located,
    }


def _sft_rows(
    data: config.SftData,
    others: Sequence[config.SftData],
    tokenizer: processor.Tokenizer,
    paths: Sequence[Path],
    split: str,
    metadata: dict[str, Any],
    progress: Report | None,
) -> Iterator[pack.Row]:
    """The rows of one split; its counts are in `metadata` when exhausted."""
    read = instructions.Tally()
    counts: Counter[str] = Counter(examples=0, turns=0, dropped_empty=0, dropped_overlong=0, dropped_held_out=0, cut=0, turns_cut=0)
    use_of = None if split == VALIDATION and data.validation_files else instructions.uses(data, others if split == TRAIN else ())
    forms: dict[str, Counter[str]] = {path.name: Counter() for path in paths}
    wanted = "train" if split == TRAIN else "held_out"

    def examples() -> Iterator[pack.Example]:
        for found in instructions.read(data, paths, tally=read):
            row = found.example
            if use_of is not None and (use := use_of(row)) != wanted:
                counts["dropped_held_out"] += use == "dropped_held_out"
                continue
            example = instructions.render(tokenizer, row, data)
            if example is None:
                counts["dropped_overlong" if row.output else "dropped_empty"] += 1
                continue
            learnt = instructions.learnt(tokenizer, row, example)
            forms[Path(found.source).name][found.form] += 1
            counts["examples"] += 1
            counts.update(learnt._asdict())
            counts["tokens"] += len(example.tokens)
            if progress is not None and counts["examples"] % 256 == 0:
                progress(Progress(split, counts["examples"], counts["tokens"]))
            yield example

    packed = pack.pack_examples(examples(), length=data.length, pad_id=tokenizer.pad_id or 0, several=data.packing == "several")
    yield from _counted(packed, counts)
    read_rows = f"rows read: {sum(rows.total() for rows in read.forms.values()):,}"
    _require(counts["examples"], split, data.held_out, paths, read=read_rows, left_out=_left_out(counts, data))
    by_form = {name: dict(rows) for name, rows in forms.items()}
    metadata["splits"][split] = {**counts, "forms": by_form, "faults": dict(read.faults), "located": read.located}


def _counted(rows: Iterable[pack.Row], counts: Counter[str]) -> Iterator[pack.Row]:
    for row in rows:
        counts["rows"] += 1
        counts["targets"] += int(row.loss_mask.sum())
        counts["targets_separate"] += int(row.loss_mask[1:][row.segment_ids[1:] == row.segment_ids[:-1]].sum())
        yield row


def _left_out(counts: Counter[str], data: config.SftData) -> str:
    """Why no row of a split is left, where rows were read."""
    longer = "are longer than" if data.overlong == "drop" else "have a prompt that fills"
    reasons = {
        "dropped_overlong": f"{longer} {data.length:,} tokens: raise length (in adapt: sequence_length)",
        "dropped_empty": "have an empty answer",
        "dropped_held_out": "begin like a row that is held out elsewhere: take them out of one of the two",
    }
    total = sum(counts[name] for name in reasons)
    return "; ".join(f"{counts[name]:,} of {total:,} rows {reason}" for name, reason in reasons.items() if counts[name])


def _require(number: int, split: str, held_out: float, paths: Sequence[Path], *, read: str, left_out: str = "") -> None:
    """Raises where a split came out empty; `read` says how much was read, `left_out` what became of it."""
    if number:
        return
    names = ", ".join(map(str, paths))
    if left_out:
        raise ValueError(f"{names}: no row is left to {'train' if split == TRAIN else 'validate'} on: {left_out}")
    if split == VALIDATION and held_out:
        raise ValueError(f"held_out {held_out} holds nothing out of {names} ({read}): raise it, or name validation_files")
    raise ValueError(f"{names}: nothing to train on in there" if split == TRAIN else f"{names}: nothing to validate on in there")


def _chunks(texts: Iterable[documents.Document]) -> Iterator[list[documents.Document]]:
    """Documents in lists of about `CHUNK_CHARACTERS`, to be tokenised on all cores at once."""
    chunk: list[documents.Document] = []
    size = 0
    for item in texts:
        chunk.append(item)
        size += len(item.text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
