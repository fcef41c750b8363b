"""Reads past the page cache: the same bytes wherever a part begins and ends, and none where they do not pay or do not work."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from zhllama_jax.convert import mapped

SIZE = 5 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose last block is not full."""
    path = tmp_path_factory.mktemp("mapped") / "numbers"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE + 777))
    return path


def opened(path: Path) -> mapped.File:
    with open(path, "rb") as stream:
        return mapped.File(path, stream.fileno())


@pytest.fixture
def cold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as not cached, however small."""
    try:
        os.close(os.open(path, os.O_RDONLY | mapped.DIRECT))
    except OSError:
        pytest.skip("the file system of the tests has no direct reads")
    if not mapped.DIRECT:
        pytest.skip("the system has no direct reads")
    monkeypatch.setattr(mapped, "_is_cached", lambda *_: False)
    monkeypatch.setattr(mapped, "_SMALLEST", 1)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("begin", [0, 1, 64, 4095, 4096, 100_000])
@pytest.mark.parametrize("end", [100_001, 102_400, SIZE, SIZE + 700, SIZE + 777])
def test_every_part_is_the_file_s(begin: int, end: int, path: Path) -> None:
    file = opened(path)
    found = file.once(begin, end)
    assert found is not None and not found.flags.writeable
    assert found.tobytes() == file.window(begin, end).tobytes() == path.read_bytes()[begin:end]
    assert not np.shares_memory(found, file.window(begin, end))


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("most", [511, 4096, 5000, 1 << 20])
def test_a_disk_that_gives_less_than_was_asked_for(most: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next read begins at a block's beginning again; less than a block at a time is left to the mapping."""
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        assert offset % mapped.BLOCK == 0
        return min(whole(descriptor, buffers, offset), most)

    monkeypatch.setattr(os, "preadv", short)
    file = opened(path)
    found = file.once(10, SIZE // 8)
    assert (found is None) == (most < mapped.BLOCK)
    if found is not None:
        np.testing.assert_array_equal(found, file.window(10, SIZE // 8))


@pytest.mark.usefixtures("cold")
def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 20_000)
    file = opened(path)
    os.truncate(path, 9_000)
    with pytest.raises(ValueError, match="ends before byte 20,000: it was cut short"):
        file.once(0, 20_000)


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_another_file_under_the_name_is_not_read(how: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 20_000)
    file = opened(path)
    path.unlink()
    if how == "replaced":
        path.write_bytes(b"y" * 20_000)
    assert file.once(0, 20_000) is None
    assert file.window(0, 20_000).tobytes() == b"x" * 20_000


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("where", ["open", "preadv"])
def test_a_file_system_without_direct_reads(where: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    file = opened(path)
    monkeypatch.setattr(os, where, refuse)
    assert file.once(0, SIZE) is None


@pytest.mark.usefixtures("cold")
def test_an_error_of_the_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    file = opened(path)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error"):
        file.once(0, SIZE)


@pytest.mark.skipif(not mapped.DIRECT, reason="the system has no direct reads")
def test_what_the_cache_holds_is_mapped_and_the_rest_is_not(path: Path) -> None:
    """As the system itself says it, for a large part."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file = opened(path)
    cold = file.once(0, SIZE)
    expected = path.read_bytes()[:SIZE]  # now they are in the cache
    assert file.once(0, SIZE) is None
    if cold is None:
        pytest.skip("the file system of the tests has no direct reads, or forgets nothing")
    assert cold.tobytes() == expected
