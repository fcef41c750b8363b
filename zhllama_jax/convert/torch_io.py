"""PyTorch files (`pytorch_model.bin`, `consolidated.00.pth`, `adapter_model.bin`) without PyTorch: a restricted reader, and a writer.

A file is an archive (`torch_zip`) whose pickle (`torch_pickle`) says what the tensors are called and how they lie in their storages. It
must describe a dictionary of named tensors; or one that holds no tensor itself and such a dictionary under "model" or "state_dict",
not both, as training scripts write it: then what stands beside is left alone, and a note says so. Only the zip format is read, which
PyTorch writes since version 1.6. Nothing here keeps a tensor.

A tensor whose numbers lie in order is read straight into its array, past the page cache where it is all of its storage and that is asked
for; any other is gathered from its storage, which is mapped.

The reader's manners are those of `safetensors_io.Reader`; entries have the same dtypes.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files
from zhllama_jax.convert import safetensors_io, shard_index, torch_pickle, torch_zip

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_NESTS = ("model", "state_dict")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_VERSION = re.compile(rb"[0-9]{1,3}\n?")
_MAX_PICKLE = 32 << 20
_SMALL_PICKLE = 1 << 20
_SAVE_ANEW = "torch.save(torch.load(path, map_location='cpu', weights_only=True), path)"


class Entry(NamedTuple):
    """One tensor as a file describes it.

    Attributes:
      dtype: as in `safetensors_io.DTYPES`, or another that is named but not read.
      shape: of the tensor.
      stride: how many numbers of the storage lie between neighbours along each axis.
      offset: the storage's number at which the tensor begins.
      storage: key of the storage; several tensors may share one.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str

    @property
    def num_bytes(self) -> int:
        """Bytes that the numbers take."""
        return math.prod(self.shape) * safetensors_io.ITEMSIZE[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        """Whether the numbers lie one after the other in the order of the indices."""
        step = 1
        for size, stride in zip(self.shape[::-1], self.stride[::-1], strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


class Reader:
    """The tensors of one or several checked files, read one at a time.

    Attributes:
      entries: what the files say, by tensor name.
      notes: what is odd in the files and harmless.
    """

    def __init__(self, paths: Iterable[str | Path], notes: Iterable[str] = ()):
        """Opens the files and reads what they describe; no tensor yet.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a file is not exactly what `torch.save` writes for a dictionary of tensors, asks for more than tensors, or is older
            than PyTorch 1.6; the sentence says what to do.
        """
        self.entries: dict[str, Entry] = {}
        self.notes = list(notes)
        self._archive: dict[str, torch_zip.Archive] = {}
        with contextlib.ExitStack() as stack:
            for path in map(Path, paths):
                archive = _open(path)
                stack.callback(archive.close)
                for name, entry in _entries(archive, self.notes).items():
                    if name in self.entries:
                        raise ValueError(f"{name} stands in both {self._archive[name].path} and {path}")
                    self.entries[name] = entry
                    self._archive[name] = archive
            self._stack = stack.pop_all()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._archive[name].path

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers; see `readers.Reader`.

        Raises:
          ValueError: its dtype is not float32, float16 or bfloat16, or its bytes do not have their checksum.
        """
        entry, archive, dtype = self.entries[name], self._archive[name], self._dtype(name)
        member = f"data/{entry.storage}"
        if not entry.is_contiguous:
            # The bounds were checked when the file was opened: as_strided itself checks nothing.
            numbers = archive.map(member).view(dtype)[entry.offset :]
            steps = [step * dtype.itemsize for step in entry.stride]
            return np.array(np.lib.stride_tricks.as_strided(numbers, entry.shape, steps, writeable=False), order="C")
        if once and math.prod(entry.shape) * dtype.itemsize == archive.members[member].size:
            octets = archive.once(member)
            if octets is not None:
                return octets.view(dtype).reshape(entry.shape)
        result = np.empty(entry.shape, dtype)
        archive.read_into(member, entry.offset * dtype.itemsize, result.reshape(-1).view(np.uint8))
        return result

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dtype(self, name: str) -> np.dtype:
        dtype = self.entries[name].dtype
        if dtype not in safetensors_io.DTYPES:
            raise ValueError(f"{self.file(name)}: {name} is {dtype}; weights are read from {', '.join(safetensors_io.DTYPES)}")
        return safetensors_io.DTYPES[dtype]


def _open(path: Path) -> torch_zip.Archive:
    files.expect(path, "a PyTorch file")
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is only a pointer of Git LFS to the file: fetch the file itself with `git lfs pull`")
    if head.startswith(b"\x80") or head[257:262] == b"ustar":
        raise ValueError(
            f"{path} was saved in the format from before PyTorch 1.6, which runs as a program when it is loaded and is not read here: "
            f"save it anew where PyTorch is installed, with {_SAVE_ANEW}"
        )
    if not head.startswith(b"PK\3\4"):
        raise ValueError(f"{path} is no PyTorch file: it does not begin like a zip")
    return torch_zip.Archive(path)


def _entries(archive: torch_zip.Archive, notes: list[str]) -> dict[str, Entry]:
    size = archive.path.stat().st_size
    pickled = archive.members["data.pkl"].size
    if pickled > max(_SMALL_PICKLE, size // 10):
        raise ValueError(f"{archive.path}: a data.pkl of {pickled:,} bytes in a file of {size:,} is out of proportion")
    if "version" in archive.members and not _VERSION.fullmatch(version := archive.read("version", max_bytes=16)):
        raise ValueError(f"{archive.path} has the version {version!r}, which is no number")
    if "byteorder" in archive.members and (order := archive.read("byteorder", max_bytes=16)) != b"little":
        raise ValueError(f"{archive.path} has its bytes in the order {order!r}; only little-endian files are read")
    code = archive.read("data.pkl", max_bytes=_MAX_PICKLE)
    try:
        contents = torch_pickle.parse(code)
        _check_storages(archive, contents.storages)
        named = _named_tensors(archive.path, contents.value, notes)
        return {name: _entry(name, tensor) for name, tensor in named.items()}
    except ValueError as error:
        raise ValueError(f"{archive.path} is no file of plain tensors: {error}") from None


def _check_storages(archive: torch_zip.Archive, storages: Mapping[str, torch_pickle.Storage]) -> None:
    """Holds what the pickle says about storages against the members that there are."""
    present = {name.removeprefix("data/"): member for name, member in archive.members.items() if name.startswith("data/")}
    for key, storage in storages.items():
        if key not in present:
            raise ValueError(f"it describes storage {key}, and has no data/{key}")
        if present[key].size != storage.numel * safetensors_io.ITEMSIZE[storage.dtype]:
            raise ValueError(f"data/{key} has {present[key].size:,} bytes, which is not {storage.numel:,} numbers of {storage.dtype}")
    astray = [f"data/{key}" for key in present if key not in storages]
    if astray:
        raise ValueError(f"it has {', '.join(astray[:4])}, and does not say what that is")


def _named_tensors(path: Path, value: Any, notes: list[str]) -> dict[str, torch_pickle.Tensor]:
    """The dictionary of tensors: the value itself, or what stands under one of `_NESTS`."""
    if type(value) is not dict:
        raise ValueError(f"it holds {_kind(value)}, not a dictionary")
    holds_tensors = any(type(item) is torch_pickle.Tensor for item in value.values())
    nests = [] if holds_tensors else [key for key in _NESTS if type(value.get(key)) is dict]
    if len(nests) > 1:
        raise ValueError(f"it holds dictionaries under both {' and '.join(nests)}: save the one that is meant by itself")
    if nests:
        beside = [str(key)[:40] for key in value if key != nests[0]]
        value = value[nests[0]]
        if beside:
            notes.append(f"{path}: the tensors under {nests[0]!r} are read; {', '.join(sorted(beside)[:8])} beside it left alone")
    if not value:
        raise ValueError("it holds no tensor")
    for key, item in value.items():
        if type(item) is not torch_pickle.Tensor:
            raise ValueError(
                f"{str(key)[:80]!r} is {_kind(item)}, not a tensor. Expected is a dictionary of tensors, by itself or under one of "
                f"{', '.join(map(repr, _NESTS))}"
            )
    return value


def _entry(name: Any, tensor: torch_pickle.Tensor) -> Entry:
    if type(name) is not str or not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{str(name)[:80]!r} is not a tensor's name")
    if not math.prod(tensor.shape):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, without a single element: it was saved before its parts were gathered")
    return Entry(tensor.storage.dtype, tensor.shape, tensor.stride, tensor.offset, tensor.storage.key)


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def open_model(directory: str | Path) -> Reader:
    """Opens a model directory's PyTorch weights: one file, or shards under an index that agrees with them exactly.

    Raises:
      FileNotFoundError: there are no such weights, or a shard is missing.
      ValueError: a file is refused (see `Reader`), or index and shards disagree.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} not found: expected a Hugging Face model directory")
    has_single, has_index = (directory / SINGLE).is_file(), (directory / INDEX).is_file()
    if has_single and has_index:
        raise ValueError(f"{directory} holds both {SINGLE} and {INDEX}: remove the one that is out of date")
    if has_single:
        return Reader([directory / SINGLE])
    if not has_index:
        raise FileNotFoundError(f"{directory} holds no PyTorch weights: expected {SINGLE}, or shards and {INDEX}")
    return shard_index.open_shards(directory / INDEX, Reader, suffix=".bin", what="an index of PyTorch shards")


class Writer:
    """One PyTorch file that grows tensor by tensor; a context that closes the file in any case."""

    def __init__(self, path: str | Path, plan: safetensors_io.Plan):
        """Begins the file with the description of all tensors in `plan`."""
        self._plan = plan
        self._archive = torch_zip.Writer(path)
        self._waiting = iter(enumerate(plan))
        described = (
            (name, torch_pickle.Storage(str(number), dtype, math.prod(shape)), shape)
            for number, (name, (dtype, shape)) in enumerate(plan.items())
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._archive.close)
            self._archive.add("data.pkl", torch_pickle.compose(described))
            self._archive.add("byteorder", b"little")
            stack.pop_all()

    def add(self, name: str, array: np.ndarray) -> None:
        """Appends the next tensor of the plan."""
        number, wanted = next(self._waiting, (0, None))
        assert name == wanted, f"{name} came where {wanted} was planned"
        dtype, shape = self._plan[name]
        assert (array.dtype, array.shape) == (safetensors_io.DTYPES[dtype], shape), f"{name} is not as planned"
        self._archive.add(f"data/{number}", np.asarray(array, order="C").reshape(-1).view(np.uint8).data)

    def finish(self) -> dict[str, Any]:
        """Completes the file, when all tensors are in it; returns its `sha256` and `bytes`."""
        assert next(self._waiting, None) is None, "fewer tensors than planned"
        self._archive.add("version", b"3\n")
        return self._archive.finish()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()


def write(path: str | Path, plan: safetensors_io.Plan, tensors: Iterable[tuple[str, np.ndarray]]) -> safetensors_io.Written:
    """Writes one file that `torch.load(path, weights_only=True)` reads as an ordered dictionary; no tensor is kept.

    Args:
      path: the file, in an existing folder.
      plan: what will come.
      tensors: (name, array) in the order of `plan`.
    """
    path = Path(path)
    written = safetensors_io.Written({}, {})
    with Writer(path, plan) as writer, futures.ThreadPoolExecutor(1) as beside:
        for name, array in tensors:
            described = beside.submit(safetensors_io.describe, array)
            writer.add(name, array)
            written.tensors[name] = described.result()
        written.files[path.name] = writer.finish()
    return written
