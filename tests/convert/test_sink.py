"""What goes into a sink stands in the file, on every kind of file system, and its digest is the file's."""

import errno
import fcntl
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.convert import mapped, sink

LARGE = sink._CHUNK + 5


@pytest.fixture(params=["past the cache", "no direct writes", "none after the first", "larger blocks", "small bites"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kinds of file systems, by what they answer."""
    open_, write, written = os.open, os.write, [0]

    def refusing_open(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & mapped.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_(path, flags, mode)

    def refusing_write(file: int, octets: memoryview) -> int:
        direct = fcntl.fcntl(file, fcntl.F_GETFL) & mapped.DIRECT
        written[0] += 1
        if direct and (request.param == "larger blocks" or written[0] > 1):
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(file, octets)

    if request.param == "no direct writes":
        monkeypatch.setattr(os, "open", refusing_open)
    elif request.param in ("none after the first", "larger blocks"):
        monkeypatch.setattr(os, "write", refusing_write)
    elif request.param == "small bites":
        monkeypatch.setattr(os, "write", lambda file, octets: write(file, octets[: max(1, len(octets) // 2)]))
    return str(request.param)


@pytest.mark.parametrize("sizes", [[], [0], [1], [4096], [4095, 1, 4097], [LARGE], [3, LARGE, 2 * LARGE, 7], [sink._CHUNK] * 2])
def test_the_file_holds_what_was_written(tmp_path: Path, disk: str, sizes: list[int]) -> None:
    parts = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    with sink.Sink(tmp_path / "file") as stream:
        for number, part in enumerate(parts):
            assert stream.position == sum(sizes[:number])
            changing = bytearray(part)
            stream.write(memoryview(changing))
            changing[:] = bytes(len(part))  # the caller's own again
        found = stream.finish()
    whole = b"".join(parts)
    assert (tmp_path / "file").read_bytes() == whole
    assert found == {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}


def test_what_stood_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    with sink.Sink(tmp_path / "file") as stream:
        stream.write(b"short")
        stream.finish()
    assert (tmp_path / "file").read_bytes() == b"short"


def test_an_error_of_the_disk_comes_through_and_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"), sink.Sink(tmp_path / "file") as stream:
        monkeypatch.setattr(os, "write", full)
        stream.write(bytes(LARGE))
    assert len(os.listdir("/proc/self/fd")) == before
    stream.close()  # twice is once


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sink.Sink(tmp_path / "none" / "file")
