"""Text files line by line: bytes split at newlines only, every fault named by file and line.

`read`, `objects`, `values` and `records` stop at the first fault. `data.documents`, which may repair or skip, is made of the same parts:
`raw`, `parse` and `string`. Files whose names end in .gz or .zst are unpacked as they are read, never as a whole and never on disk; the
limits on lines hold for what comes out, so that no archive, however it was made, takes more memory than a plain file could.

Binary iteration matters: Python's text mode also splits at U+2028, form feeds and lone carriage returns, which are
ordinary characters inside a document. A line here ends with LF or CR LF and nothing else.
"""

import contextlib
import gzip
import io
import json
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from zhllama_jax import files

MAX_LINE_BYTES = 256 << 20
MAX_JSON_BYTES = 4 << 30
SUFFIXES = (".txt", ".jsonl")
PACKED = (".gz", ".zst")

_BOM = b"\xef\xbb\xbf"
# A block of a Zstandard frame takes at least 4 bytes and holds at most 128 KiB: so much packed text becomes 16 MiB at most.
_ZSTD_PIECE = 1 << 9


class Raw(NamedTuple):
    """One line as bytes.

    Attributes:
      number: from 1.
      content: the line without its end (and without a byte order mark before the first); None where it is longer than was allowed.
      bom: a byte order mark stood before it.
      crlf: it ended with CR LF.
    """

    number: int
    content: bytes | None
    bom: bool = False
    crlf: bool = False


def suffix(path: str | Path) -> str:
    """What the name of a file says of its content: its suffix in small letters, where it is packed the one before.

    >>> suffix("a.b/rows.JSONL.gz")
    '.jsonl'
    """
    path = Path(path)
    return Path(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where its name says that it is packed.

    Raises:
      ValueError: a packed file is damaged, ends too early, or cannot be read for want of a library; also from reads inside the block.
    """
    packing = Path(path).suffix.lower()
    with contextlib.ExitStack() as stack:
        if packing not in PACKED:
            yield stack.enter_context(open(path, "rb"))
            return
        faults: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
        if packing == ".zst":
            zstandard = _zstandard(path)
            faults = (EOFError, zstandard.ZstdError)
        try:
            if packing == ".gz":
                yield cast(BinaryIO, stack.enter_context(gzip.open(path, "rb")))
            else:
                plain = stack.enter_context(open(path, "rb"))
                yield io.BufferedReader(_Zstandard(plain, zstandard.ZstdDecompressor()), 1 << 16)
        except faults as error:
            reason = "it ends too early" if isinstance(error, EOFError) else str(error)
            raise ValueError(f"{path} is no whole {packing} file ({reason}): fetch it or pack it again") from None


def content(path: str | Path, *, max_bytes: int) -> bytes:
    """All bytes of a file, unpacked.

    Raises:
      ValueError: it holds more than `max_bytes`, or see `opened`.
    """
    parts, size = [], 0
    with opened(path) as stream:
        while part := stream.read(1 << 20):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise ValueError(f"{path} holds more than the {max_bytes:,} bytes that a file to be read at once may have")
    return b"".join(parts)


def raw(path: str | Path, *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Raw]:
    """Yields the lines of a file; of one longer than `max_bytes` no more is held in memory than that.

    Raises:
      ValueError: a packed file cannot be unpacked, see `opened`.
    """
    with opened(path) as stream:
        number = 0
        while line := stream.readline(max_bytes + 1):
            number += 1
            if len(line) > max_bytes and not line.endswith(b"\n"):
                yield Raw(number, None)
                while (rest := stream.readline(max_bytes)) and not rest.endswith(b"\n"):
                    pass
                continue
            bom = number == 1 and line.startswith(_BOM)
            content = line.removeprefix(_BOM) if bom else line
            yield Raw(number, content.removesuffix(b"\n").removesuffix(b"\r"), bom, line.endswith(b"\r\n"))


def too_long(max_bytes: int) -> str:
    """What is wrong with a line without content."""
    return f"the line is longer than {max_bytes >> 20} MiB: split it into documents, one a line"


def not_utf8(content: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with a line that cannot be decoded."""
    hint = " (UTF-16? convert the file to UTF-8)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
    return f"not UTF-8: byte {error.start + 1} of the line is 0x{content[error.start]:02x}{hint}"


def parse(line: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
      ValueError: it holds none; the message says what it holds.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno}): each line must be one JSON object") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not acceptable JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {_kind(value)}")
    return value


def string(value: dict[str, Any], field: str) -> str:
    """The text under `field` of an object.

    Raises:
      ValueError: there is none; the message says what there is.
    """
    if field not in value:
        raise ValueError(f"no field {field!r}; the object has {', '.join(map(repr, value)) or 'none'}")
    if not isinstance(value[field], str):
        raise ValueError(f"the field {field!r} must hold a string, found {_kind(value[field])}")
    return str(value[field])


def read(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end) of a UTF-8 file, empty lines included.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not UTF-8 or is longer than `MAX_LINE_BYTES`.
    """
    path = Path(path)
    files.expect(path, "a text file")
    for line in raw(path, max_bytes=MAX_LINE_BYTES):
        if line.content is None:
            raise ValueError(f"{path}:{line.number}: {too_long(MAX_LINE_BYTES)}")
        try:
            yield line.number, line.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{line.number}: {not_utf8(line.content, error)}") from None


def objects(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a JSONL file; blank lines are passed over.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not UTF-8, not JSON or not an object.
    """
    for number, line in read(path):
        if not line.strip():
            continue
        try:
            value = parse(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        yield number, value


def is_list(path: str | Path) -> bool:
    """Whether a file is a `.json` list, by its name and its first sign that is no white space; else each line holds an object."""
    if suffix(path) != ".json":
        return False
    with opened(path) as stream:
        start = stream.read(1 << 16)
    return start.removeprefix(_BOM).lstrip()[:1] != b"{"


def listed(path: str | Path) -> list[Any]:
    """The values of a `.json` list.

    Raises:
      ValueError: it is not JSON, too long or no list.
    """
    value = files.parse_json(content(path, max_bytes=MAX_JSON_BYTES), path=path, what="a list of rows in JSON")
    if not isinstance(value, list):
        raise ValueError(f"{path}: expected a list of rows, or one object a line")
    return value


def values(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yields (place, value) of a `.json` list, whose values are numbered from 0, or of a file with one object a line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: see `listed` and `objects`.
    """
    files.expect(Path(path), "a file of rows")
    if is_list(path):
        yield from ((f"{path}: row {number}", value) for number, value in enumerate(listed(path)))
    else:
        yield from ((f"{path}:{number}", value) for number, value in objects(path))


def records(path: str | Path, field: str = "text") -> Iterator[tuple[int, str]]:
    """Yields (line number, text): each line of a `.txt` file, or `field` of each object of a `.jsonl` file.

    Lines of nothing but white space are passed over.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another suffix, a malformed line, or an object without a string under `field`.
    """
    if suffix(path) not in SUFFIXES:
        raise ValueError(
            f"{path}: cannot tell what this file holds: name it .txt (one text a line) or .jsonl (one JSON object a line), "
            "packed .gz or .zst"
        )
    if suffix(path) == ".txt":
        for number, line in read(path):
            if line.strip():
                yield number, line
        return
    for number, value in objects(path):
        try:
            text = string(value, field)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if text.strip():
            yield number, text


def width(text: str) -> int:
    """Columns that a text takes on a terminal: two for each wide (Chinese) character, none for a mark above another one."""
    return sum(0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _kind(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _zstandard(path: str | Path) -> Any:
    """The library behind .zst files, an extra.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            f"{path}: reading .zst files needs the library zstandard: pip install zstandard (the extra `zstd`), or unpack the file"
        ) from None
    return zstandard


class _Zstandard(io.RawIOBase):
    """What is packed in a stream, frame after frame. (The library's own reader takes a stream that was cut off for a whole one.)"""

    def __init__(self, packed: BinaryIO, decompressor: Any) -> None:
        self._packed, self._decompressor = packed, decompressor
        self._frame: Any = None
        self._ahead = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            piece = self._ahead or self._packed.read(_ZSTD_PIECE)
            if not piece:
                if self._frame is not None:
                    raise EOFError("the last frame is not whole")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready, self._ahead = memoryview(b""), b""  # lets go of what was given out
            self._ready = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                self._ahead, self._frame = self._frame.unused_data, None
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def printable(name: str, length: int = 80) -> str:
    """A name out of somebody's file as part of a message: on one line, without what steers a terminal, not endless."""
    name = name if len(name) <= length else f"{name[:length]}…"
    return name if name.isprintable() else repr(name)[1:-1]
