"""From a run's data sources to batches on the devices, and to the held-out rows beside them."""

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from zhllama_jax.convert import manifest
from zhllama_jax.data import account, batches, build, store
from zhllama_jax.data import config as data_config
from zhllama_jax.shard import place, rules
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config as config_lib
from zhllama_jax.train import log

Say = Callable[[str], None]
Evaluate = Callable[[batches.Batch], tuple[Any, Any]]


class HeldOut(NamedTuple):
    """Rows that are scored and never learnt.

    Attributes:
      name: the source's.
      rows: the rows.
      characters: Unicode characters that the targets spell; None where that is not known (see `build.spelled`).
      targets: predicted tokens of the whole split; None likewise.
    """

    name: str
    rows: batches.Rows
    characters: int | None
    targets: int | None


class Opened(NamedTuple):
    """A run's data.

    Attributes:
      sources: training rows of each source.
      names: what each source is called; no two alike, none a key of the log.
      held_out: validation rows of the sources that have some.
      length: tokens read per row.
      prompt: how instructions are put; None for plain text.
      identity: what the order and content of the rows depend on, beside seed and batch.
      taken: how many rows of each source take part: all, or what its caps leave.
    """

    sources: list[batches.Rows]
    names: list[str]
    held_out: list[HeldOut]
    length: int
    prompt: manifest.Prompt | None
    identity: list[dict[str, Any]]
    taken: list[int]

    @property
    def num_rows(self) -> int:
        """Training rows of all sources together, as far as they take part."""
        return sum(self.taken)


class Score(NamedTuple):
    """The cost of held-out rows.

    Attributes:
      loss: mean -ln p of a supervised token.
      bits_per_character: comparable across vocabularies; None where characters were not counted.
      tokens: supervised tokens that were scored.
    """

    loss: float
    bits_per_character: float | None
    tokens: float


class Promise(NamedTuple):
    """What the sources say of their rows before any of them is built.

    Attributes:
      length: tokens read per row.
      holds_out: whether any source has validation rows.
    """

    length: int
    holds_out: bool


def promised(data: config_lib.Data) -> Promise:
    """What `open_data` will find, as far as it is known without work.

    Raises:
      FileNotFoundError: a store is missing.
      ValueError: a store is none of ours, or the sources have rows of different lengths.
    """
    lengths, holds_out = set(), False
    for source in data.sources:
        if source.store is not None:
            metadata = store.read_metadata(source.store)
            lengths.add(int(metadata["length"]))
            holds_out |= build.VALIDATION in metadata.get("splits", {})
        else:
            made = source.text or source.sft
            assert made is not None, "a source is a store, a corpus or instructions"
            lengths.add(made.length)
            holds_out |= bool(made.held_out or made.validation_files)
    if len(lengths) > 1:
        given = " and ".join(map(str, sorted(lengths)))
        raise ValueError(f"the data sources have rows of {given} tokens: build them with one length")
    return Promise(lengths.pop(), holds_out)


def open_data(data: config_lib.Data, tokenizer: processor.Tokenizer, directory: Path, *, rebuild: bool = False, say: Say) -> Opened:
    """Opens every source; corpora and instruction files are built into stores under `directory`, once.

    Args:
      data: the sources.
      tokenizer: the model's.
      directory: the run's.
      rebuild: whether stores that are there from other inputs or choices are replaced: nothing was trained on them.
      say: tells the user a line.

    Raises:
      FileNotFoundError: a file or store is missing.
      ValueError: a fault in the data, a store of another tokenizer, rows of different lengths, or stores of other inputs or choices.
    """
    length = promised(data).length
    stores: list[store.Store] = []
    held_out: list[HeldOut] = []
    identity, prompts, used, names = [], [], [], _names(data)
    closed = False
    for number, (source, name) in enumerate(zip(data.sources, names, strict=True)):
        others = [other for other in data.sources if other is not source]
        train, validation = _open_source(source, name, others, tokenizer, directory / str(number), rebuild, say)
        metadata = train.metadata
        stores.append(train)
        if validation is not None:
            spelled = build.spelled(metadata, validation.split, separate=data.separate)
            held_out.append(HeldOut(name, validation, *(spelled or (None, None))))
        key = metadata.get("key") or hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
        identity.append({"key": key, "rows": len(train), "weight": source.share.weight, "max_epochs": source.share.max_epochs})
        used.append(_taken(train, source.share))
        if used[-1] < len(train):
            identity[-1]["taken"] = used[-1]
            say(f"data: {name}: {used[-1]:,} of its {len(train):,} rows are used ({_caps(source.share)})")
        if metadata.get("kind") == "sft":
            prompts.append(manifest.Prompt(metadata["options"]["template"], metadata["options"]["boundary"]))
            closed |= build.closed(metadata)
    if len(set(prompts)) > 1:
        raise ValueError(f"the data sources put instructions in different ways ({', '.join(map(str, set(prompts)))}): choose one")
    prompt = prompts[0]._replace(turns="closed" if closed else "open") if prompts else None
    for line in _unchecked(names, stores):
        say(line)
    return Opened(list(stores), names, held_out, length, prompt, identity, used)


def _taken(train: store.Store, share: data_config.Share) -> int:
    """How many rows of a store a share's caps leave; of instructions, examples and their tokens are counted."""
    counts = train.metadata.get("splits", {}).get(train.split, {}) if train.metadata.get("kind") == "sft" else {}
    return share.taken(len(train), length=train.length, examples=counts.get("examples"), tokens=counts.get("tokens"))


def _caps(share: data_config.Share) -> str:
    """A share's caps in words."""
    return ", ".join(f"{name} {value:,}" for name in ("max_rows", "max_tokens") if (value := getattr(share, name)) is not None)


def _names(data: config_lib.Data) -> list[str]:
    names: list[str] = []
    for number, source in enumerate(data.sources):
        name = source.name
        while name in (*log.KEYS, *names):
            name = f"{name}_{number}"
        names.append(name)
    return names


def _open_source(
    source: config_lib.Source,
    name: str,
    others: Sequence[config_lib.Source],
    tokenizer: processor.Tokenizer,
    directory: Path,
    rebuild: bool,
    say: Say,
) -> tuple[store.Store, store.Store | None]:
    """(training rows, validation rows or None) of one source; what others of the run hold out is not in the rows that are built here."""
    if source.store is not None:
        train = store.open_store(source.store, build.TRAIN, tokenizer_sha256=tokenizer.sha256)
        has_validation = build.VALIDATION in train.metadata.get("splits", {})
        return train, store.open_store(source.store, build.VALIDATION) if has_validation else None
    try:
        if source.text is not None:
            texts = [other.text for other in others if other.text is not None]
            built = build.text(source.text, tokenizer, directory, others=texts, overwrite=rebuild)
        else:
            assert source.sft is not None, "a source is a store, a corpus or instructions"
            rows = [other.sft for other in others if other.sft is not None]
            built = build.sft(source.sft, tokenizer, directory, others=rows, overwrite=rebuild)
    except build.OtherData:
        raise ValueError(
            f"{directory} holds what this run's checkpoints were trained on, built from other inputs or choices: choose another output"
        ) from None
    held_out = f", {len(built.validation):,} held out" if built.validation is not None else ""
    where = "written to" if built.fresh else "as they were built in"
    say(f"data: {name}: {len(built.train):,} rows of {built.train.length} tokens{held_out}, {where} {directory}")
    for line in (
        *account.shortened(built.metadata["splits"], length=built.train.length, setting="length"),
        *account.others(built.metadata),
    ):
        say(f"data: {name}: {line}")
    return built.train, built.validation


def _unchecked(names: Sequence[str], stores: Sequence[store.Store]) -> Iterator[str]:
    """A word on every source that was built without regard to what a store beside it, or beside which it is a store, holds out."""
    for name, opened in zip(names, stores, strict=True):
        if any(_disregards(opened.metadata, other.metadata) for other in stores):
            yield (
                f"data: {name}: note: what another source holds out may stand in its rows, which were built without regard to it; "
                "where no store but files are named for all sources, it is left out"
            )


def _disregards(built: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether data of the same kind were built without regard to what others hold out, by the metadata of both stores."""
    if built.get("kind") != other.get("kind"):
        return False
    (share, salt), apart = _rule(built), built.get("sources", {}).get("held_out_by_others", ())
    regarded = _held_out(built) | {(file["sha256"], file["held_out"], file["salt"]) for file in apart}
    # The hash holds a smaller share out too, wherever it stands (see `data.config.holding_more`).
    return any(not (wanted[2] == salt and 0 < wanted[1] <= share) for wanted in _held_out(other) - regarded)


def _held_out(metadata: dict[str, Any]) -> set[tuple[str, float, str]]:
    """What a store holds out: digest, share and salt of every file of which the hash chooses; those of validation, without salt, for 0."""
    (share, salt), sources = _rule(metadata), metadata.get("sources", {})
    name = "files" if share else "validation_files"
    return {(file["sha256"], share, salt) for file in sources.get(name, ())}


def _rule(metadata: dict[str, Any]) -> tuple[float, str]:
    """Share and salt by which a store holds out."""
    options = metadata.get("options", {})
    share = float(options.get("held_out", 0.0))
    return share, options.get("salt", "") if share else ""


def portions(data: Opened, source: batches.Batches, *, steps: int) -> list[str]:
    """What the run reads of each of its sources, a line each; of a single one there is nothing to say."""
    counts = source.counts(steps)
    if len(counts) == 1:
        return []
    total = max(sum(counts), 1)
    return [
        f"data: {name}: {100 * read / total:.1f} % of what the run reads: {read:,} rows, "
        f"each of its {taken:,} {account.times(read / taken)} times"
        for name, read, taken in zip(data.names, counts, data.taken, strict=True)
    ]


def train_batches(source: batches.Batches, mesh: Mesh, *, start: int, stop: int, accumulation: int) -> Generator[batches.Batch, None, None]:
    """The batches of steps `start` … `stop` - 1 as global arrays [A, B / A, T], the next one on its way while one is used."""
    local = source.iterate(start, stop, process_index=jax.process_index(), process_count=jax.process_count())
    ahead = None
    try:
        for rows in local:
            cut = jax.tree.map(lambda field: field.reshape(accumulation, -1, field.shape[-1]), rows)
            placed = place.batch(cut, mesh, rules.BATCH)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead
    finally:
        local.close()  # type: ignore[attr-defined]


def abstract_batch(mesh: Mesh, *, batch: int, accumulation: int, length: int) -> Any:
    """The shapes and shardings of what `train_batches` yields."""
    sharding = NamedSharding(mesh, rules.BATCH)
    dtypes = {**dict.fromkeys(batches.Batch._fields, np.int32), "loss_mask": np.float32}
    shape = (accumulation, batch // accumulation, length)
    fields: dict[str, Any] = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in dtypes.items()}
    return batches.Batch(**fields)


def score(held_out: HeldOut, evaluate: Evaluate, mesh: Mesh, *, batch: int, separate: bool, max_rows: int | None) -> Score:
    """Scores held-out rows, once each.

    Args:
      held_out: the rows.
      evaluate: gives (sum of -ln p, supervised tokens) of a batch [B, T].
      mesh: the devices.
      batch: rows per call, over all devices.
      separate: see `config.Data`.
      max_rows: rows at most; None for all.
    """
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    sums = [
        evaluate(place.batch(rows, mesh, rules.EVALUATION_BATCH))
        for rows in batches.in_order(held_out.rows, batch, separate=separate, limit=max_rows, **hosts)
    ]
    nats, tokens = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
    loss = float(nats / max(tokens, 1.0))
    bits = None
    if held_out.characters and held_out.targets:
        bits = loss / math.log(2) * held_out.targets / held_out.characters
    return Score(loss, bits, float(tokens))


def together(scores: Sequence[Score]) -> float:
    """The mean loss over the supervised tokens of several sources: what `keep: best` compares."""
    return sum(score.loss * score.tokens for score in scores) / max(sum(score.tokens for score in scores), 1.0)
