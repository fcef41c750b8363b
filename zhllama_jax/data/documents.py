"""Documents out of files: `.txt` and `.jsonl`, also packed, bytes in, clean text out, every fault named by file and line.

Files are read as bytes and cut at newlines only (Python's text mode would also cut at U+2028, form
feeds and lone carriage returns). What can be repaired without a doubt is repaired and counted
(BOM, CRLF, NUL, lone surrogates). What cannot (bytes that are not UTF-8, a malformed JSONL row, a
text longer than `MAX_BYTES`) stops the reading with one sentence, or, with `on_error="skip"`, is
counted: bytes that are not UTF-8 become U+FFFD, rows and lines are passed over, a `.txt` document that
is too long is split. Memory is bounded by one document.
"""

import dataclasses
import glob
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import lines
from zhllama_jax.data import clean, config

MAX_BYTES = 16 << 20
"""The longest document: more than any book, little enough to be tokenised at once."""

MAX_LOCATED = 20

SKIP = "(on_error: skip counts such faults and goes on)"
"""The way on from a fault, for those who cannot mend the file."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and where it began."""

    text: str
    source: str
    line: int


@dataclasses.dataclass
class Tally:
    """Counts of what was read; readers add to the one that they are given.

    Attributes:
      documents, characters, bytes: of the documents given out (bytes as UTF-8).
      faults: how often each kind of repair or omission happened, such as "nul", "not_utf8", "duplicate".
      located: file and line of the first `MAX_LOCATED` of them.
    """

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    located: list[str] = dataclasses.field(default_factory=list)

    def add(self, text: str) -> None:
        """Counts a document."""
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text) if text.isascii() else len(text.encode("utf-8"))

    def note(self, kind: str, source: str, line: int) -> None:
        """Counts a fault."""
        self.faults[kind] += 1
        if len(self.located) < MAX_LOCATED:
            self.located.append(f"{source}:{line}: {kind}")


def expand(paths: Sequence[str | Path], *, suffixes: Sequence[str] = lines.SUFFIXES) -> list[Path]:
    """The files that `paths` name, each once: entries in their order, directories and glob patterns sorted within.

    Raises:
      FileNotFoundError: an entry names nothing.
      ValueError: a file has another suffix or is no regular file.
    """
    found: dict[Path, None] = {}
    missing, strange = [], []
    for entry in paths:
        path = Path(entry)
        if path.is_dir():
            matches = sorted(child for child in path.iterdir() if lines.suffix(child) in suffixes)
        elif path.exists() or not glob.has_magic(str(entry)):
            matches = [path] if path.exists() else []
        else:
            matches = sorted(Path(match) for match in glob.glob(str(entry), recursive=True))
        if not matches:
            there = path.is_dir() or glob.has_magic(str(entry))
            missing.append(f"{entry} names no {' or '.join(suffixes)} file" if there else f"{entry} does not exist")
        strange += [str(match) for match in matches if not match.is_file() or lines.suffix(match) not in suffixes]
        found.update(dict.fromkeys(matches))
    if missing:
        raise FileNotFoundError("; ".join(missing))
    if strange:
        raise ValueError(f"cannot read {', '.join(strange)}: give regular files named {' or '.join(suffixes)}, packed .gz or .zst")
    return list(found)


def read(
    paths: Sequence[str | Path],
    *,
    field: str = "text",
    documents: config.Documents = "blank_line",
    on_error: config.OnError | None = None,
    blanks: bool = False,
    tally: Tally | None = None,
) -> Iterator[Document]:
    """Yields the documents of `.txt` and `.jsonl` files in order.

    Args:
      paths: files, directories or glob patterns (see `expand`).
      field: the key of the text in a `.jsonl` row; every row is a document.
      documents: what a document of a `.txt` file is: lines up to a blank one, each line, or the file.
      on_error: stop at what cannot be repaired ("strict") or count it and go on ("skip"); None, where users have no choice, stops too.
      blanks: with `documents="line"`, give blank lines as empty documents; documents of white space are else passed over.
      tally: counts faults and documents.

    Raises:
      FileNotFoundError: an entry of `paths` names nothing.
      ValueError: a file of another kind, or, when strict, a fault; the message begins with file:line.
    """
    tally = Tally() if tally is None else tally
    for path in expand(paths):
        reader = _Reader(str(path), on_error, tally)
        if lines.suffix(path) == ".jsonl":
            texts = reader.rows(field)
        elif documents == "line":
            texts = reader.lines()
        elif documents == "blank_line":
            texts = reader.paragraphs()
        else:
            texts = reader.whole()
        for number, text in texts:
            if blanks or text.strip():
                tally.add(text)
                yield Document(text, str(path), number)


def objects(path: str | Path, *, on_error: config.OnError, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a file with one JSON object a line; blank lines are passed over.

    Args:
      path: the file.
      on_error: stop at a line that cannot be read ("strict") or count it and go on ("skip").
      tally: counts faults.

    Raises:
      ValueError: when strict, a fault; the message begins with file:line.
    """
    return _Reader(str(path), on_error, tally).objects()


def unique(documents: Iterable[Document], tally: Tally, *, against: Iterable[Document] = (), repeats: bool = False) -> Iterator[Document]:
    """The documents whose exact text was not there before, nor in `against`; others count as "duplicate" or "dropped_held_out".

    Args:
      documents: what to choose from.
      tally: counts what is left out.
      against: documents to leave out; blank ones among them play no part.
      repeats: leave out only those in `against`, not what was there before.
    """
    apart = {_digest(document) for document in against if document.text.strip()}
    seen: set[bytes] = set()
    for document in documents:
        digest = _digest(document)
        if digest in apart:
            tally.faults["dropped_held_out"] += 1
            continue
        if digest in seen:
            tally.note("duplicate", document.source, document.line)
            continue
        if not repeats:
            seen.add(digest)
        yield document


def is_held_out(text: str, fraction: float, salt: str = "") -> bool:
    """Whether the hash of `text` falls into the first `fraction` of all hashes: the same wherever and whenever it is asked."""
    digest = hashlib.sha256(f"{salt}\0{text}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64


def _digest(document: Document) -> bytes:
    return hashlib.blake2b(document.text.encode("utf-8"), digest_size=16).digest()


class _Reader:
    """One file; `fault` says what becomes of what cannot be repaired."""

    def __init__(self, source: str, on_error: config.OnError | None, tally: Tally) -> None:
        self._source, self._on_error, self._tally = source, on_error, tally

    def fault(self, kind: str, line: int, reason: str) -> None:
        if self._on_error != "skip":
            raise ValueError(f"{self._source}:{line}: {reason}{f' {SKIP}' if self._on_error else ''}")
        self._tally.note(kind, self._source, line)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Line number from 1 and text, repaired; lines over `MAX_BYTES` are faults."""
        for line in lines.raw(self._source, max_bytes=MAX_BYTES):
            if line.content is None:
                self.fault("too_long", line.number, lines.too_long(MAX_BYTES))
                continue
            if line.bom:
                self._tally.note("bom", self._source, line.number)
            self._tally.faults.update(["crlf"] if line.crlf else [])
            try:
                text = line.content.decode("utf-8")
            except UnicodeDecodeError as error:
                self.fault("not_utf8", line.number, lines.not_utf8(line.content, error))
                text = line.content.decode("utf-8", "replace")
            yield line.number, self.repaired(line.number, text)

    def repaired(self, number: int, text: str) -> str:
        result = clean.repair(text)
        for kind in result.repairs:
            self._tally.note(kind, self._source, number)
        return result.text

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """Lines joined by newlines, up to a blank line."""
        reason = f"no blank line for {MAX_BYTES >> 20} MiB: set documents to 'line' if each line is one"
        yield from self._joined(lambda line: not line.strip(), reason)

    def whole(self) -> Iterator[tuple[int, str]]:
        yield from self._joined(lambda line: False, f"the file is over {MAX_BYTES >> 20} MiB: set documents to 'blank_line' or 'line'")

    def _joined(self, ends: Callable[[str], bool], reason: str) -> Iterator[tuple[int, str]]:
        block: list[str] = []
        start, size = 1, 0
        for number, line in self.lines():
            if ends(line):
                if block:
                    yield start, "\n".join(block)
                block, size = [], 0
                continue
            if not block:
                start = number
            block.append(line)
            size += len(line.encode("utf-8")) + 1
            if size > MAX_BYTES:
                self.fault("too_long", start, reason)
                yield start, "\n".join(block[:-1])
                block, start, size = [line], number, len(line.encode("utf-8")) + 1
        if block:
            yield start, "\n".join(block)

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The object in each line; blank lines are passed over."""
        for number, line in self.lines():
            if not line.strip():
                continue
            try:
                value = lines.parse(line)
            except ValueError as error:
                self.fault("malformed", number, str(error))
            else:
                yield number, value

    def rows(self, field: str) -> Iterator[tuple[int, str]]:
        """The string under `field` of each object."""
        for number, value in self.objects():
            try:
                text = lines.string(value, field)
            except ValueError as error:
                self.fault("malformed", number, str(error))
            else:
                yield number, self.repaired(number, text)
