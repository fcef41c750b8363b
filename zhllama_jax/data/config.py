"""What may be chosen about data. No JAX here: the command line reads it at start."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from zhllama_jax import templates

Documents = Literal["blank_line", "line", "file"]
OnError = Literal["strict", "skip"]

MAX_LENGTH = 65_534
"""A row holds one token more, and as many segments, in uint16."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A source's part in a mixture.

    A cap takes a sample of the source, drawn by the run's seed and the same in every epoch; an epoch is one pass over the sample.

    Attributes:
      weight: rows in proportion to the other sources' weights, rounded to thousandths of the whole; None, for all sources or none: in
        proportion to the rows that take part, so that each pass over the whole reads every row once.
      max_epochs: how often the source may be gone through (also a fraction); None is as often as the run asks.
      max_rows: at most so many rows of the source are used: of instructions, examples (where several of them are packed into one row,
        by the mean number in a row), of text, packed rows.
      max_tokens: at most so many tokens of the source are used, padding not counted, by the mean number in a row.
    """

    weight: float | None = None
    max_epochs: float | None = None
    max_rows: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.weight is not None and not (self.weight > 0 and self.weight < float("inf")):
            problems.append(f"weight must be above 0, got {self.weight!r}: leave the source out instead")
        if self.max_epochs is not None and not self.max_epochs > 0:
            problems.append(f"max_epochs must be above 0 or none, got {self.max_epochs!r}")
        for name, value in (("max_rows", self.max_rows), ("max_tokens", self.max_tokens)):
            if value is not None and value < 1:
                problems.append(f"{name} must be at least 1 or none, got {value!r}: leave the source out instead")
        _raise(problems)

    def taken(self, rows: int, *, length: int, examples: int | None = None, tokens: int | None = None) -> int:
        """How many of a source's packed rows its caps leave, at least one.

        Worked example: 1,000 rows that hold 4,000 examples, `max_rows` 600: 150 rows.

        Args:
          rows: packed rows of the source.
          length: tokens read of each.
          examples: instruction examples in all rows together; None where rows are no examples.
          tokens: tokens in all rows together; None for full rows.
        """
        left = rows
        if self.max_rows is not None:
            left = min(left, self.max_rows * rows // max(examples or rows, 1))
        if self.max_tokens is not None:
            left = min(left, self.max_tokens * rows // max(tokens or rows * length, 1))
        return min(max(left, 1), rows)


def weighted(shares: Sequence[Share]) -> bool:
    """Whether sources are mixed by weights, not by their rows.

    Raises:
      ValueError: some of them have a weight and others have none.
    """
    given = sum(share.weight is not None for share in shares)
    if 0 < given < len(shares):
        raise ValueError(f"{given} of {len(shares)} sources have a share.weight: give one to each, or to none (then rows decide)")
    return given > 0


def epoch(shares: Sequence[Share]) -> str:
    """What one epoch of a mixture without weights reads, in words."""
    cut = any(share.max_epochs is not None and share.max_epochs < 1 for share in shares)
    return f"one epoch reads each row of each once{', but for what a share.max_epochs below 1 leaves unread' if cut else ''}"


@dataclasses.dataclass(frozen=True)
class TextData:
    """A pre-training corpus and how it becomes rows.

    Attributes:
      files: `.txt` and `.jsonl` files, also packed (.gz, .zst), directories of them, or glob patterns.
      validation_files: a corpus of its own for validation; excludes `held_out`.
      held_out: share of the documents that goes to validation, chosen by the hash of the text.
      salt: another salt holds other documents out.
      length: tokens that the model reads per row.
      documents: what a document of a `.txt` file is: paragraphs up to a blank line, one line, or the whole file.
      field: the key of the text in a `.jsonl` row.
      on_error: "strict" stops at the first fault that cannot be repaired without a doubt (bytes that are not UTF-8, a malformed
        `.jsonl` row, a text that is too long); "skip" counts it and goes on: such bytes become U+FFFD, such rows are left out.
      deduplicate: leave out documents whose text was there before.
      packing: "documents" loses nothing; "reference" makes the rows of the original Chinese-LLaMA-Alpaca scripts
        (every line a document that begins with BOS; of each file by itself, what remains of each 1,000 lines dropped):
        `documents`, `deduplicate`, `bos` and `eos` then play no part. `held_out` takes lines out before they are packed, where
        the originals held blocks out.
      bos: begin each document with BOS.
      eos: end each document with EOS.
    """

    files: tuple[str, ...]
    validation_files: tuple[str, ...] = ()
    held_out: float = 0.0
    salt: str = ""
    length: int = 512
    documents: Documents = "blank_line"
    field: str = "text"
    on_error: OnError = "strict"
    deduplicate: bool = True
    packing: Literal["documents", "reference"] = "documents"
    bos: bool = True
    eos: bool = True

    def __post_init__(self) -> None:
        problems = _common_problems(self.files, self.validation_files, self.held_out, self.length)
        if not (self.bos or self.eos):
            problems.append("bos and eos are both false: nothing would separate documents")
        _raise(problems)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The keys of instruction rows that have other names than Alpaca's: `prompt: question`, for one.

    Attributes:
      prompt: key of the instruction.
      query: key of what the instruction is about; a row may lack it.
      response: key of the answer.
      history: key of the earlier turns, a list of [instruction, answer] pairs; a row may lack it.
      system: key of the text that takes the place of the template's head; a row may lack it.
      messages: key of a whole conversation, a list of turns; by default conversations or messages, whichever a row has.
    """

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = "history"
    system: str = "system"
    messages: str | None = None

    def __post_init__(self) -> None:
        names = [name for name in dataclasses.astuple(self) if name is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        _raise([f"columns: the key {name!r} is named twice" for name in twice])


@dataclasses.dataclass(frozen=True)
class SftData:
    """Instruction rows and conversations, and how they become rows of ids.

    Rows in Alpaca's form, sharegpt's `conversations` and `messages` are told apart by their keys (see `instructions`).

    Attributes:
      files: `.json` (a list) and `.jsonl` files, also packed (.gz, .zst), directories of them, or glob patterns.
      validation_files: rows of their own for validation; what their conversations begin with is not trained on; excludes `held_out`.
      held_out: share of the rows that goes to validation, chosen by the hash of the first question.
      salt: another salt holds other rows out.
      length: tokens that the model reads per row.
      columns: keys of the rows where they are not Alpaca's.
      on_error: "strict" stops at rows that are malformed or no conversation of questions and answers; "skip" counts and leaves them out.
      template: what stands around a question: alpaca, llama_cpp, or none (the text as it is).
      boundary: how prompt and answer meet: "joined" encodes both as one text, "faithful" each by itself, as the original did.
      overlong: of a conversation that does not fit the last turns are left out; where not even the first fits, "cut" shortens its answer
        (which then has no EOS) and "drop" leaves the row out.
      packing: several examples in a row, each a segment of its own, or one padded row each.
    """

    files: tuple[str, ...]
    validation_files: tuple[str, ...] = ()
    held_out: float = 0.0
    salt: str = ""
    length: int = 512
    columns: Columns = dataclasses.field(default_factory=Columns)
    on_error: OnError = "strict"
    template: str = "alpaca"
    boundary: templates.Boundary = "joined"
    overlong: Literal["cut", "drop"] = "cut"
    packing: Literal["several", "one"] = "several"

    def __post_init__(self) -> None:
        _raise(_common_problems(self.files, self.validation_files, self.held_out, self.length))


def separators(options: Mapping[str, Any]) -> int:
    """How many tokens beside its own a document takes, by the choices of a `TextData`: reference packing knows BOS alone."""
    return 1 if options["packing"] == "reference" else options["bos"] + options["eos"]


Kind = TypeVar("Kind", TextData, SftData)


def holding_more(data: Kind, others: Sequence[Kind]) -> list[Kind]:
    """Those of `others` that may hold out what `data` would train on.

    Of a share under the same salt that is no larger than that of `data`, the hash holds all out here too, wherever it stands.
    """
    implied = [other.salt == data.salt and other.held_out <= data.held_out for other in others]
    return [other for other, less in zip(others, implied, strict=True) if other.validation_files or (other.held_out and not less)]


def title(files: Sequence[str]) -> str:
    """What a source of these files is called: the first one's name without suffixes, and how many there are beside it.

    >>> title(["a/talks.jsonl.gz", "b.json"])
    'talks_and_1_more'
    """
    name = Path(files[0]).name.partition(".")[0] or Path(files[0]).name
    name = re.sub(r"[^\w-]+", "_", name).strip("_") or "data"  # of a pattern such as *.jsonl
    return name if len(files) == 1 else f"{name}_and_{len(files) - 1}_more"


def _common_problems(files: tuple[str, ...], validation_files: tuple[str, ...], held_out: float, length: int) -> list[str]:
    problems = []
    if not files:
        problems.append("files is empty: name at least one file")
    if not 0 <= held_out < 1:
        problems.append(f"held_out must be at least 0 and below 1, got {held_out!r}")
    if held_out and validation_files:
        problems.append("held_out and validation_files exclude each other: choose one")
    if not 2 <= length <= MAX_LENGTH:
        problems.append(f"length must be 2 to {MAX_LENGTH:,}, got {length!r}")
    return problems


def _raise(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))
