"""Reads past the page cache: the same bytes wherever a part begins and ends, and the mapping where they do not pay or do not work."""

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from zhllama_jax.convert import direct

pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the system has no direct reads")
SIZE = 5 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is written through the cache, whose last block is not full."""
    path = tmp_path_factory.mktemp("direct") / "numbers"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE + 777))
    return path


def mapped(path: Path, begin: int, end: int) -> np.ndarray:
    with open(path, "rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)[begin:end]


@pytest.fixture
def cold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as not cached, however small."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the tests has no direct reads")
    monkeypatch.setattr(direct, "_is_cached", lambda *_: False)
    monkeypatch.setattr(direct, "_SMALLEST", 1)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("begin", [0, 1, 64, 4095, 4096, 100_000])
@pytest.mark.parametrize("end", [100_001, 102_400, SIZE, SIZE + 700, SIZE + 777])
def test_every_part_is_the_file_s(begin: int, end: int, path: Path) -> None:
    window = mapped(path, begin, end)
    found = direct.read(path, begin, window)
    assert not np.shares_memory(found, window)
    assert found.tobytes() == path.read_bytes()[begin:end]
    assert not found.flags.writeable


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("most", [4096, 5000, 1 << 20])
def test_a_disk_that_gives_less_than_was_asked_for(most: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next read begins at a block's beginning again."""
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        assert offset % 4096 == 0
        return min(whole(descriptor, buffers, offset), most)

    monkeypatch.setattr(os, "preadv", short)
    window = mapped(path, 10, SIZE // 8)
    np.testing.assert_array_equal(direct.read(path, 10, window), window)


@pytest.mark.usefixtures("cold")
def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 20_000)
    window = mapped(path, 0, 20_000)
    os.truncate(path, 9_000)
    with pytest.raises(ValueError, match="ends before byte 20,000: it was cut short"):
        direct.read(path, 0, window)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("where", ["open", "preadv"])
def test_a_file_system_without_direct_reads_is_mapped(where: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, where, refuse)
    window = mapped(path, 0, SIZE)
    assert direct.read(path, 0, window) is window


@pytest.mark.usefixtures("cold")
def test_an_error_of_the_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error"):
        direct.read(path, 0, mapped(path, 0, SIZE))


def test_what_the_cache_holds_is_mapped(path: Path) -> None:
    window = mapped(path, 0, SIZE)
    window.sum()
    assert direct.read(path, 0, window) is window
