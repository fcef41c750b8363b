"""GGUF files as a container: a bounded reader of what stands in front of the numbers, and a writer that streams.

The format, version 3, little-endian: "GGUF", the version, the number of tensors and of keys; each key with a type and a value; each
tensor with its name, its lengths (the row's first), its type and where its bytes begin; then, at multiples of the alignment, the bytes,
one tensor after the other.

The reader believes no number of the file before it has held it against what is left of the file or against a bound of its own: counts,
lengths, dimensions, products and offsets are Python integers, arrays of arrays are refused, and nothing is allocated by a claim. Of the
tensors nothing is read here. The writer keeps none.
"""

import mmap
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files
from zhllama_jax.convert import gguf_quant, sink

Value = bool | int | float | str | Sequence[str] | np.ndarray
"""What a key may hold here: an int is written as uint32, a float as float32, an array in its own dtype."""
Plan = Mapping[str, tuple[str, tuple[int, ...]]]
"""(type as in `gguf_quant.TYPES`, shape with the row's length last) of each tensor to write, in the order in which they will come."""

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT = 32
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Mapping[int, str] = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_NUMBERS_OF = {np.dtype(code): number for number, code in _NUMBERS.items()}
_TYPES = {known.number: name for name, known in gguf_quant.TYPES.items()}

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_MAX_TENSORS = 100_000
_MAX_KEYS = 10_000
_MAX_DIMS = 4
_MAX_ALIGNMENT = 1 << 16
_MAX_NUMBERS = 4_000_000
_MAX_STRINGS = 500_000
_MAX_TEXT = 16 << 20
"""The largest vocabulary with its merges has 400,000 strings and three megabytes of text."""


class Entry(NamedTuple):
    """One tensor as a file describes it: type as in `gguf_quant.TYPES`, shape with the row's length last, byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes that the numbers take."""
        return self.end - self.begin


class Contents(NamedTuple):
    """What stands in front of a file's numbers.

    Attributes:
      metadata: by key; numbers as int, float or bool, arrays of numbers as NumPy arrays, of strings as lists.
      tensors: by name, in the order of their bytes.
    """

    metadata: dict[str, Any]
    tensors: dict[str, Entry]


def read(path: str | Path) -> Contents:
    """The metadata and the tensors' places of a GGUF file, versions 2 and 3.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not exactly what the format asks for, or beyond the bounds; the sentence says where.
    """
    path = Path(path)
    files.expect(path, "a GGUF file")
    if not path.stat().st_size:
        raise ValueError(f"{path} is no GGUF file: it is empty")
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            return parse(mapped)
        except ValueError as error:
            raise ValueError(f"{path} is no GGUF file: {error}") from None


def parse(octets: bytes | mmap.mmap) -> Contents:
    """What the bytes of a whole GGUF file say, by the rules of `read`.

    Raises:
      ValueError: they are no such file.
    """
    if octets[: len(MAGIC)] != MAGIC:
        raise ValueError(f"it does not begin with {MAGIC.decode()}")
    cursor = _Cursor(octets)
    version = cursor.number("<I")
    if version not in (2, VERSION):
        hint = "; it is written for big-endian machines" if version and not version % (1 << 24) else ""
        raise ValueError(f"its version is {version}, read are 2 and {VERSION}{hint}")
    num_tensors, num_keys = cursor.number("<Q"), cursor.number("<Q")
    cursor.expect(num_tensors, 24, _MAX_TENSORS, "tensors")
    cursor.expect(num_keys, 13, _MAX_KEYS, "keys")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.text("a key")
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is not a key")
        if key in metadata:
            raise ValueError(f"the key {key} stands there twice")
        metadata[key] = cursor.value(key)
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"general.alignment must be a power of two up to {_MAX_ALIGNMENT:,}, found {str(alignment)[:40]}")
    claims = [_claim(cursor) for _ in range(num_tensors)]
    return Contents(metadata, _entries(claims, cursor.position, alignment, cursor.size))


def _claim(cursor: "_Cursor") -> tuple[str, str, tuple[int, ...], int]:
    """(name, type, shape, offset) of the next tensor."""
    name = cursor.text("a tensor's name")
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name[:80]!r} is not a tensor's name")
    num_dims = cursor.number("<I")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise ValueError(f"{name} has {num_dims:,} dimensions, allowed are 1 to {_MAX_DIMS}")
    shape = tuple(cursor.number("<Q") for _ in range(num_dims))[::-1]
    number = cursor.number("<I")
    if number not in _TYPES:
        raise ValueError(f"{name} has the unknown type {number}")
    return name, _TYPES[number], shape, cursor.number("<Q")


def _entries(claims: Iterable[tuple[str, str, tuple[int, ...], int]], head: int, alignment: int, size: int) -> dict[str, Entry]:
    """The tensors, which must follow one another behind the head without a hole and fill the file."""
    entries: dict[str, Entry] = {}
    end, position = head, _aligned(head, alignment)
    start = position
    for name, dtype, shape, offset in claims:
        if name in entries:
            raise ValueError(f"the tensor {name} stands there twice")
        if not all(shape):
            raise ValueError(f"{name} has shape {list(shape)}, without a single element")
        block = gguf_quant.TYPES[dtype].block
        if shape[-1] % block:
            raise ValueError(f"{name} is {dtype}, but its rows of {shape[-1]:,} are no multiple of {block}")
        if start + offset != position:
            raise ValueError(f"the bytes of {name} begin at {offset:,}, not at {position - start:,} where the former tensor ends")
        end = position + gguf_quant.num_bytes(shape, dtype)
        if end > size:
            raise ValueError(f"{name}, {dtype} of shape {list(shape)}, ends at byte {end:,}, the file at {size:,}: cut short or damaged")
        entries[name] = Entry(dtype, shape, position, end)
        position = _aligned(end, alignment)
    if size > position:
        raise ValueError(f"the tensors end at byte {end:,}, the file at {size:,}: there is something behind them")
    return entries


class _Cursor:
    """Reads on in a file's bytes, never past their end."""

    def __init__(self, octets: bytes | mmap.mmap):
        self.position, self.size = len(MAGIC), len(octets)
        self._octets = octets
        self._strings, self._text, self._numbers = _MAX_STRINGS, _MAX_TEXT, _MAX_NUMBERS

    def number(self, code: str) -> Any:
        """The next number, of a type in `struct`'s code."""
        begin = self._take(struct.calcsize(code), "a number")
        return struct.unpack_from(code, self._octets, begin)[0]

    def expect(self, count: int, least: int, most: int, what: str) -> None:
        """Refuses a count of things that what is left of the file, or a bound, cannot hold."""
        if count > most:
            raise ValueError(f"it claims {count:,} {what}, allowed are {most:,}")
        if count * least > self.size - self.position:
            raise ValueError(f"it claims {count:,} {what}, more than there is room for: cut short or damaged")

    def text(self, what: str) -> str:
        """The next string."""
        length = self.number("<Q")
        self.expect(length, 1, self._text, f"bytes of {what}")
        if not self._strings:
            raise ValueError(f"it holds more than {_MAX_STRINGS:,} strings")
        self._text -= length
        self._strings -= 1
        begin = self._take(length, what)
        try:
            return self._octets[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not UTF-8") from None

    def value(self, key: str) -> Any:
        """The next value behind its type."""
        kind = self.number("<I")
        if kind == _ARRAY:
            return self._array(key)
        if kind == _STRING:
            return self.text(key)
        if kind not in _NUMBERS:
            raise ValueError(f"{key} has the unknown type {kind}")
        if kind == _BOOL:
            return bool(self._truth(key, self._octets[self._take(1, key)]))
        return self.number(_NUMBERS[kind])

    def _array(self, key: str) -> Any:
        kind, count = self.number("<I"), self.number("<Q")
        if kind == _STRING:
            self.expect(count, 8, self._strings, f"strings in {key}")
            return [self.text(key) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"{key} is an array of {'arrays' if kind == _ARRAY else f'the unknown type {kind}'}, which is not read here")
        dtype = np.dtype(_NUMBERS[kind])
        self.expect(count, dtype.itemsize, self._numbers, f"numbers in {key}")
        self._numbers -= count
        begin = self._take(count * dtype.itemsize, key)
        numbers = np.frombuffer(self._octets[begin : begin + count * dtype.itemsize], np.uint8)
        if kind == _BOOL:
            self._truth(key, int(numbers.max(initial=0)))
        return numbers.view(dtype)

    def _truth(self, key: str, value: int) -> int:
        if value > 1:
            raise ValueError(f"{key} is a truth value of {value}")
        return value

    def _take(self, count: int, what: str) -> int:
        """The position of the next `count` bytes, which are passed over."""
        begin = self.position
        if count > self.size - begin:
            raise ValueError(f"it ends within {what}: cut short or damaged")
        self.position += count
        return begin


def write(path: str | Path, metadata: Mapping[str, Value], plan: Plan, tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Writes a file, of whose tensors none is kept; it appears under its name when it is whole.

    Args:
      path: the file; one that is there is replaced.
      metadata: by key.
      plan: what will come.
      tensors: (name, its bytes as flat uint8) in the order of `plan`.

    Returns:
      {"sha256", "bytes"} of the file.

    Raises:
      ValueError: a number of the metadata does not fit its type, or `path` is a directory.
      OSError: the disk has no room for it, which is looked at before anything is written.
    """
    source, head = iter(tensors), _head(metadata, plan)
    size = _aligned(len(head), ALIGNMENT)
    size += sum(_aligned(gguf_quant.num_bytes(shape, dtype), ALIGNMENT) for dtype, shape in plan.values())
    with files.room(path, size), files.new_path(path) as place, sink.Sink(place) as stream:
        files.require_room(place.parent, size)
        stream.write(head)
        for wanted, (dtype, shape) in plan.items():
            stream.write(bytes(-stream.position % ALIGNMENT))
            name, octets = next(source)
            assert (name, octets.size) == (wanted, gguf_quant.num_bytes(shape, dtype)), f"{name} came where {wanted} was planned"
            stream.write(octets.data)
        assert next(source, None) is None, "more tensors than planned"
        stream.write(bytes(-stream.position % ALIGNMENT))
        return stream.finish()


def _head(metadata: Mapping[str, Value], plan: Plan) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(plan), len(metadata))]
    for key, value in metadata.items():
        assert _KEY.fullmatch(key), f"{key!r} is not a key"
        parts += [_text(key), _value(key, value)]
    offset = 0
    for name, (dtype, shape) in plan.items():
        assert _NAME.fullmatch(name), f"{name!r} is not a tensor's name"
        lengths = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        parts += [_text(name), lengths, struct.pack("<IQ", gguf_quant.TYPES[dtype].number, offset)]
        offset = _aligned(offset + gguf_quant.num_bytes(shape, dtype), ALIGNMENT)
    return b"".join(parts)


def _value(key: str, value: Value) -> bytes:
    """A value behind its type."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{key} = {value} does not fit the 32 bits that the format gives it")
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", _ARRAY, _NUMBERS_OF[value.dtype], len(value)) + value.tobytes()
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))


def _text(text: str) -> bytes:
    octets = text.encode("utf-8")
    return struct.pack("<Q", len(octets)) + octets


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
