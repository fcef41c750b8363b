"""Safetensors files: a strict check of the header before the library reads, and a writer that streams.

The format: eight bytes N (little-endian), N bytes of JSON that give each tensor's dtype, shape and byte range, then the bytes. The library
survives hostile files but accepts more than one should (duplicate names, `../` in names, tensors without elements), so `header` refuses
those first. Nothing here keeps a tensor.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from zhllama_jax import files
from zhllama_jax.convert import mapped, shard_index, sink

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of one number of each dtype that a header may name."""
_EXPONENT_BITS = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}
_LOOKED_AT = 1 << 17
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_HEADER = 100_000_000
_SMALL_HEADER = 1_000_000
_MAX_TENSORS = 100_000
_MAX_DIMS = 64
_METADATA = {"__metadata__": {"format": "pt"}}


Plan = Mapping[str, tuple[str, tuple[int, ...]]]
"""(dtype as in `DTYPES`, shape) of each tensor to write, in the order in which they will come."""


class Entry(NamedTuple):
    """One tensor as a header describes it: dtype as in `DTYPES`, shape, byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Bytes that the numbers take."""
        return self.end - self.begin


class Written(NamedTuple):
    """What a write left: `files` name -> {"sha256", "bytes"}, `tensors` name -> {"dtype", "shape", "sha256"}."""

    files: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Any]]


def header(path: str | Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the header is not exactly what the format asks for, and where; or a pointer stands there, see `files.refuse_pointer`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected a safetensors file")
    files.refuse_pointer(path)
    size = path.stat().st_size
    with open(path, "rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise ValueError(f"{path} is no safetensors file: its header would have {length:,} of the file's {size:,} bytes")
        if length > max(_SMALL_HEADER, size // 10):
            raise ValueError(f"{path}: a header of {length:,} bytes in a file of {size:,} is out of proportion")
        raw = stream.read(length)
    try:
        return _entries(raw, size - 8 - length)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid safetensors file: {error}") from None


def _map(path: Path) -> tuple[int, mapped.File]:
    """Where the header of a file that `header` passed ends, and the file, mapped."""
    try:
        with safetensors.safe_open(path, framework="np"), open(path, "rb") as stream:
            return 8 + int.from_bytes(stream.read(8), "little"), mapped.File(path, stream.fileno())
    except safetensors.SafetensorError as error:  # stricter than `header` in trifles such as -0
        raise ValueError(f"{path} is no valid safetensors file: {error}") from None


def _entries(raw: bytes, num_bytes: int) -> dict[str, Entry]:
    if not raw.startswith(b"{"):
        raise ValueError("the header does not begin with '{'")
    table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ must map text to text")
    if _SURROGATE.search("".join((*metadata, *metadata.values()))):
        raise ValueError("__metadata__ holds half a character (a lone surrogate)")
    if len(table) > _MAX_TENSORS:
        raise ValueError(f"{len(table):,} tensors are more than the {_MAX_TENSORS:,} allowed")
    entries = sorted(((name, _entry(name, value)) for name, value in table.items()), key=lambda item: item[1].begin)
    position = 0
    for name, entry in entries:
        if entry.begin != position:
            raise ValueError(f"the bytes of {name} begin at {entry.begin:,}, not at {position:,} where the former tensor ends")
        position = entry.end
    if position != num_bytes:
        raise ValueError(f"the tensors take {position:,} bytes, the file has {num_bytes:,}: cut short or damaged")
    return dict(entries)


def _entry(name: str, value: Any) -> Entry:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name[:80]!r} is not a tensor's name")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise ValueError(f"{name} has the unknown dtype {dtype!r}; known are {', '.join(ITEMSIZE)}")
    if not _whole_numbers(shape) or len(shape) > _MAX_DIMS:
        raise ValueError(f"{name} has no valid shape")
    if not math.prod(shape):
        raise ValueError(f"{name} has shape {shape}, without a single element: it was saved before its parts were gathered")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has no valid data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEMSIZE[dtype]:
        raise ValueError(f"{name}: {dtype} of shape {shape} does not take {end - begin:,} bytes")
    return Entry(dtype, tuple(shape), begin, end)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return table


class Reader:
    """The tensors of one or several checked files, which stand in memory as far as they are used: the files are mapped.

    Attributes:
      entries: what the headers say, by tensor name.
      notes: what is odd in the directory and harmless.
    """

    def __init__(self, paths: Iterable[Path], notes: Iterable[str] = ()):
        self.entries: dict[str, Entry] = {}
        self.notes = list(notes)
        self._path: dict[str, Path] = {}
        self._mapped: dict[Path, tuple[int, mapped.File]] = {}
        self._closed = False
        for path in paths:
            for name, entry in header(path).items():
                if name in self.entries:
                    raise ValueError(f"{name} stands in both {self._path[name]} and {path}")
                self.entries[name] = entry
                self._path[name] = path

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._path[name]

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers; see `readers.Reader`.

        Raises:
          ValueError: its dtype is not float32, float16 or bfloat16, or the library refuses the file.
        """
        assert not self._closed, "the files are closed"
        path, entry = self._path[name], self.entries[name]
        if entry.dtype not in DTYPES:
            raise ValueError(f"{path}: {name} is {entry.dtype}; weights are read from {', '.join(DTYPES)}")
        if path not in self._mapped:
            self._mapped[path] = _map(path)
        start, file = self._mapped[path]
        place = (start + entry.begin, start + entry.end)
        octets = file.once(*place) if once else None
        octets = file.window(*place) if octets is None else octets
        return octets.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def close(self) -> None:
        """Lets go of the files; arrays that were read stay."""
        self._mapped.clear()
        self._closed = True

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_model(directory: str | Path) -> Reader:
    """Opens a model directory's weights: one file, or shards under an index that agrees with them exactly.

    Raises:
      FileNotFoundError: there are no weights, or a shard is missing.
      ValueError: the weights have another format, or index and shards disagree.
    """
    directory = Path(directory)
    files.expect_folder(directory, "a Hugging Face model directory")
    has_single, has_index = (directory / SINGLE).is_file(), (directory / INDEX).is_file()
    if has_single and has_index:
        raise ValueError(f"{directory} holds both {SINGLE} and {INDEX}: remove the one that is out of date")
    if has_single:
        return Reader([directory / SINGLE])
    if not has_index:
        raise _no_weights(directory)
    return shard_index.open_shards(directory / INDEX, Reader, suffix=".safetensors", what="an index of safetensors shards")


def _no_weights(directory: Path) -> Exception:
    names = sorted(path.name for path in directory.iterdir())
    pickles = [name for name in names if name.endswith((".bin", ".pth", ".pt"))]
    if pickles:
        return ValueError(
            f"{directory} holds PyTorch files ({pickles[0]} …); weights are read from safetensors ({SINGLE}, or shards and {INDEX}). "
            "Load and save it once with transformers (save_pretrained) to get them"
        )
    if any(name.endswith(".safetensors") for name in names):
        return FileNotFoundError(f"{directory} holds safetensors shards but no {INDEX}")
    return FileNotFoundError(f"{directory} holds no weights: expected {SINGLE}, or shards and {INDEX}")


def write(
    directory: str | Path,
    plan: Plan,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    stem: str = "model",
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Writes tensors to one file, or to shards and an index, as they come; none is kept.

    Args:
      directory: an existing folder.
      plan: what will come.
      tensors: (name, array) in the order of `plan`.
      stem: file name without suffix; shards are `stem-00001-of-00003.safetensors`.
      shard_bytes: no file is larger, header and all, unless a single tensor is; tensors are never cut.

    Raises:
      OSError: the disk has no room for them, which is looked at before anything is written.
    """
    directory = Path(directory)
    shards = _shards(plan, shard_bytes)
    files.require_room(directory, sum(_num_bytes(*entry) for entry in plan.values()))
    source = iter(tensors)
    written = Written({}, {})
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        written.files[file] = _write_file(directory / file, {name: plan[name] for name in names}, source, written.tensors)
        weight_map.update(dict.fromkeys(names, file))
    assert next(source, None) is None, "more tensors than planned"
    if len(shards) > 1:
        sizes = [_num_bytes(*entry) for entry in plan.values()]
        count = sum(math.prod(shape) for _, shape in plan.values())
        index = {"metadata": {"total_size": sum(sizes), "total_parameters": count}, "weight_map": weight_map}
        files.write_json(directory / f"{stem}.safetensors.index.json", index)
    return written


def _write_file(
    path: Path,
    plan: Plan,
    source: Iterator[tuple[str, np.ndarray]],
    digests: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    table: dict[str, Any] = dict(_METADATA)
    position = 0
    for name, (dtype, shape) in plan.items():
        end = position + _num_bytes(dtype, shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with files.room(path, 8 + len(raw) + position), sink.Sink(path) as stream, futures.ThreadPoolExecutor(1) as beside:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for wanted, (dtype, shape) in plan.items():
            name, array = next(source)
            assert (name, array.dtype, array.shape) == (wanted, DTYPES[dtype], shape), f"{name} came where {wanted} was planned"
            described = beside.submit(describe, array)
            stream.write(_octets(np.asarray(array, order="C")))
            digests[name] = described.result()
        return stream.finish()


def describe(array: np.ndarray) -> dict[str, Any]:
    """dtype, shape and sha256 of a tensor's numbers: what a manifest says about it."""
    digest = hashlib.sha256(_octets(np.asarray(array, order="C"))).hexdigest()
    return {"dtype": dtype_name(array.dtype), "shape": list(array.shape), "sha256": digest}


def not_finite(array: np.ndarray) -> int:
    """How many numbers of a tensor are NaN or infinite: those that have all bits of the exponent."""
    exponent = _EXPONENT_BITS[dtype_name(array.dtype)]
    sign = 1 << 8 * array.itemsize - 1
    bits = np.asarray(array, order="C").reshape(-1).view(f"u{array.itemsize}")
    count = 0
    for start in range(0, bits.size, _LOOKED_AT):
        part = bits[start : start + _LOOKED_AT]
        # As signed numbers those without a sign come last, as unsigned ones those with it: two passes that change nothing find most.
        if part.view(f"i{array.itemsize}").max() >= exponent or part.max() >= sign + exponent:
            count += int(((part & sign - 1) >= exponent).sum())
    return count


def dtype_name(dtype: np.dtype) -> str:
    """The format's name of a NumPy dtype: "BF16" for bfloat16."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def _shards(plan: Plan, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    empty = 16 + len(json.dumps(_METADATA))  # the header's length before it, and up to eight blanks behind
    filled, end = empty, sum(_num_bytes(*entry) for entry in plan.values())
    for name, (dtype, shape) in plan.items():
        described = {name: {"dtype": dtype, "shape": shape, "data_offsets": [end, end]}}  # no offset takes more digits
        size = _num_bytes(dtype, shape) + len(json.dumps(described))
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = empty
        shards[-1].append(name)
        filled += size
    return shards


def _octets(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy; also of bfloat16, which has no buffer of its own."""
    return array.reshape(-1).view(np.uint8).data


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * ITEMSIZE[dtype]
