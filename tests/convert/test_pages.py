"""Mapped files: the bytes that are there, and no more."""

import mmap
from pathlib import Path

import pytest

from zhllama_jax.convert import pages


def test_the_bytes_are_the_file_s(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1024
    (tmp_path / "f").write_bytes(content)
    with open(tmp_path / "f", "rb") as stream:
        assert bytes(pages.mapped(stream)) == content
        start = mmap.ALLOCATIONGRANULARITY
        found = pages.mapped(stream, 100, start)
        assert bytes(found) == content[start : start + 100]
        with pytest.raises(TypeError):
            found[0] = 1  # type: ignore[misc]


def test_a_system_without_advice_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_SEQUENTIAL", raising=False)
    (tmp_path / "f").write_bytes(b"abc")
    with open(tmp_path / "f", "rb") as stream:
        assert bytes(pages.mapped(stream)) == b"abc"
