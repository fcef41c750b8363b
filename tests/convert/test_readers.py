"""Watched: what is read is seen first, and what was said of it is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax.convert import readers, safetensors_io


@pytest.fixture
def reader(tmp_path: Path) -> safetensors_io.Reader:
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)}, tmp_path / "m.safetensors")
    return safetensors_io.Reader([tmp_path / "m.safetensors"])


def test_who_looks_sees_a_tensor_first_and_may_refuse_it(reader: safetensors_io.Reader) -> None:
    seen = []

    def look(path: Path, name: str, array: np.ndarray) -> dict[str, Any] | None:
        seen.append((path.name, name, array.shape))
        if name == "b":
            raise ValueError("not this one")
        return {"sum": float(array.sum())}

    with readers.Watched(reader, look) as watched:
        watched.read("a")
        watched.read("a")
        with pytest.raises(ValueError, match="not this one"):
            watched.read("b")
        assert watched.described == {"a": {"sum": 0.0}}
    assert seen == [("m.safetensors", "a", (2,)), ("m.safetensors", "b", (3,))]


def test_who_has_nothing_to_say_sees_a_tensor_once_too(reader: safetensors_io.Reader) -> None:
    seen: list[str] = []
    with readers.Watched(reader, lambda path, name, array: seen.append(name)) as watched:
        assert watched.unseen == ["a", "b"]
        watched.read("b")
        watched.read("b")
        assert seen == ["b"] and watched.unseen == ["a"] and watched.described == {}


def test_what_was_refused_is_looked_at_again(reader: safetensors_io.Reader) -> None:
    def look(path: Path, name: str, array: np.ndarray) -> None:
        raise ValueError("not this one")

    with readers.Watched(reader, look) as watched:
        for _ in range(2):
            with pytest.raises(ValueError, match="not this one"):
                watched.read("a")
        assert "a" in watched.unseen


def test_nobody_needs_to_look(reader: safetensors_io.Reader) -> None:
    with readers.Watched(reader) as watched:
        np.testing.assert_array_equal(watched.read("b"), np.ones(3, np.float32))
        assert watched.described == {} and watched.shapes == {"a": (2,), "b": (3,)}
