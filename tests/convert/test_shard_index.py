"""An index names files beside it and agrees with them about every tensor."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from zhllama_jax.convert import shard_index


class Entry(NamedTuple):
    num_bytes: int


class Reader:
    """Files whose every line is the name of a tensor of four bytes."""

    closed = 0

    def __init__(self, paths: Iterable[Path]):
        self._file = {line: path for path in paths for line in path.read_text().split()}
        self.entries = {name: Entry(4) for name in self._file}
        self.notes: list[str] = []

    def file(self, name: str) -> Path:
        return self._file[name]

    def close(self) -> None:
        Reader.closed += 1


@pytest.fixture
def index(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "m-1.bin").write_text("a b")
    (tmp_path / "m-2.bin").write_text("c")
    return {"metadata": {"total_size": 12}, "weight_map": {"a": "m-1.bin", "b": "m-1.bin", "c": "m-2.bin"}}


def open_shards(folder: Path, index: Any) -> Reader:
    (folder / "m.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return shard_index.open_shards(folder / "m.index.json", Reader, suffix=".bin", what="an index of shards")


def test_agreement(tmp_path: Path, index: dict[str, Any]) -> None:
    reader = open_shards(tmp_path, index)
    assert reader.notes == []
    assert {name: reader.file(name).name for name in reader.entries} == index["weight_map"]
    index["metadata"]["total_size"] = 13
    assert open_shards(tmp_path, index).notes == ["m.index.json gives total_size 13, the tensors take 12 bytes"]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "parent folder": (lambda index: index["weight_map"].update(c="../m-2.bin"), "not the plain name"),
    "absolute": (lambda index: index["weight_map"].update(c="/m-2.bin"), "not the plain name"),
    "folder": (lambda index: index["weight_map"].update(c="x/m-2.bin"), "not the plain name"),
    "backslash": (lambda index: index["weight_map"].update(c="x\\m-2.bin"), "not the plain name"),
    "NUL": (lambda index: index["weight_map"].update(c="m-2\0.bin"), "not the plain name"),
    "other suffix": (lambda index: index["weight_map"].update(c="m-2.safetensors"), "not the plain name"),
    "hidden": (lambda index: index["weight_map"].update(c=".bin"), "not the plain name"),
    "no text": (lambda index: index["weight_map"].update(c=["m-2.bin"]), "not the plain name"),
    "missing shard": (lambda index: index["weight_map"].update(c="m-3.bin"), r"m-3\.bin named by m\.index\.json not found"),
    "in another shard": (lambda index: index["weight_map"].update(c="m-1.bin"), "disagree about c"),
    "in no shard": (lambda index: index["weight_map"].update(d="m-1.bin"), "disagree about d"),
    "left out": (lambda index: index["weight_map"].pop("b"), "disagree about b"),
    "empty": (lambda index: index["weight_map"].clear(), "has no weight_map"),
    "a list": (lambda index: index.update(weight_map=["m-1.bin"]), "has no weight_map"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_disagreement(case: str, tmp_path: Path, index: dict[str, Any]) -> None:
    change, message = CHANGES[case]
    change(index)
    before = Reader.closed
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_shards(tmp_path, index)
    assert Reader.closed == before + ("disagree" in message), "what was opened is closed"


def test_an_index_that_is_none(tmp_path: Path) -> None:
    for content in ("[]", "{", '{"weight_map": {"a": "m-1.bin", "a": "m-1.bin"}}', "null"):
        with pytest.raises(ValueError, match=r"m\.index\.json"):
            open_shards(tmp_path, content)
