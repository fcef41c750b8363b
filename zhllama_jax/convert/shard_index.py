"""The index beside a model's shards, and the strict check that both say the same.

An index maps every tensor to the file that holds it. Names of files are taken for nothing but files beside the index (no path, no
other suffix), and index and shards must agree about every tensor.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from zhllama_jax import files, lines


class Sized(Protocol):
    """What the headers say about one tensor."""

    @property
    def num_bytes(self) -> int:
        """Bytes that its numbers take."""


class Shards(Protocol):
    """A reader of several files; see `safetensors_io.Reader`."""

    notes: list[str]

    @property
    def entries(self) -> Mapping[str, Sized]:
        """What the headers say, by tensor name."""

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""

    def close(self) -> None:
        """Closes the files."""


Reader = TypeVar("Reader", bound=Shards)


def open_shards(path: Path, reader: Callable[[Iterable[Path]], Reader], *, suffix: str, what: str) -> Reader:
    """Opens the shards that an index names.

    Args:
      path: the index.
      reader: opens files.
      suffix: of the shards, ".safetensors" or ".bin".
      what: what the index should be, for messages.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: the index is malformed, or it and the shards disagree.
    """
    index = files.read_json(path, what=what)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path} has no weight_map")
    plain = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.\-]{{0,200}}{re.escape(suffix)}")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not plain.fullmatch(shard) or ".." in shard:
            raise ValueError(f"{path}: {name[:80]!r} points to {shard!r}, which is not the plain name of a shard beside it")
    shards = sorted(set(weight_map.values()))
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    if absent:
        raise FileNotFoundError(f"{path.parent}: {', '.join(absent[:8])} named by {path.name} not found; download the rest")
    opened = reader(path.parent / shard for shard in shards)
    located = {name: opened.file(name).name for name in opened.entries}
    astray = [name for name in weight_map.keys() | located.keys() if weight_map.get(name) != located.get(name)]
    if astray:
        opened.close()
        raise ValueError(f"{path} and the shards disagree about {', '.join(map(lines.printable, sorted(astray)[:8]))}")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = sum(entry.num_bytes for entry in opened.entries.values())
    if total is not None and total != actual:
        opened.notes.append(f"{path.name} gives total_size {total}, the tensors take {actual:,} bytes")
    return opened
