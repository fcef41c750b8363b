"""What stands beside an output: only what bears the mark and whose process has ended is ever touched."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from zhllama_jax import beside

KILLED = """
import os, signal, sys
from pathlib import Path
from zhllama_jax import beside
path, *inner = map(Path, sys.argv[1:])
with beside.place(path) as side:
    for name in inner:
        (side / name).mkdir()
        (side / name / "weights").write_bytes(b"old")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, *inner: str) -> Path:
    """The folder that a killed process leaves beside `path`, with these folders in it."""
    before = set(path.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), *inner], check=False).returncode == -signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_a_place_is_beside_and_goes_at_the_end(tmp_path: Path) -> None:
    with beside.place(tmp_path / "out") as side:
        assert side.parent == tmp_path
        (side / beside.NEW).mkdir()
        (side / beside.NEW / "x").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_mark_says_what_the_folder_is(tmp_path: Path) -> None:
    with beside.place(tmp_path / "out") as side:
        assert (side / beside.MARK).read_text().startswith("zhllama makes out here.")


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    for inner in ((), (beside.NEW,), (beside.FORMER,)):
        left = killed(tmp_path / "out", *inner)
        assert left.is_dir()
        beside.clear(tmp_path / "out")
        assert not left.exists()


def test_what_has_no_mark_of_ours_or_is_in_use_stays(tmp_path: Path) -> None:
    """Folders and files of others, whatever they are called; those for another output; those of the living."""
    path = tmp_path / "out"
    for name in (".out.abcdefgh.tmp", ".out.abcdefgh.old", ".out.json.abcdefgh.tmp", "out.abcdefgh.tmp"):
        (tmp_path / name / beside.FORMER).mkdir(parents=True)
        (tmp_path / name / beside.NEW).mkdir()
    (tmp_path / ".out.file0000.tmp").touch()
    (tmp_path / ".out.mine0000.tmp").mkdir()
    (tmp_path / ".out.mine0000.tmp" / beside.MARK).write_text("a file of this name is no mark")
    killed(tmp_path / "other", beside.NEW).rename(tmp_path / ".out.other000.tmp")
    before = sorted(tmp_path.rglob("*"))
    with beside.place(path) as side:
        (side / beside.NEW).mkdir()
        during = sorted(tmp_path.rglob("*"))
        beside.clear(path)
        beside.restore(path)
        assert sorted(tmp_path.rglob("*")) == during and beside.kept(path) is None
    assert sorted(tmp_path.rglob("*")) == before


def test_what_somebody_put_in_stays_and_keeps_the_mark(tmp_path: Path) -> None:
    left = killed(tmp_path / "out", beside.NEW)
    (left / "note.txt").touch()
    beside.clear(tmp_path / "out")
    assert sorted(path.name for path in left.iterdir()) == ["note.txt", beside.MARK]


def test_who_looks_at_a_new_mark_does_not_keep_its_lock_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, later = fcntl.flock, list[threading.Timer]()

    def flock(mark: IO[bytes], operation: int) -> None:
        """Another process has locked the mark just before, and lets go of it a moment later."""
        monkeypatch.setattr(fcntl, "flock", real)
        other = open(mark.name, "rb")  # noqa: SIM115 - closed by the timer
        real(other, fcntl.LOCK_EX)
        later.append(threading.Timer(0.1, other.close))
        later[0].start()
        real(mark, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with beside.place(tmp_path / "out") as side:
        later[0].join()
        beside.clear(tmp_path / "out")
        assert (side / beside.MARK).exists(), "it is locked, and so not taken for an abandoned one"


def test_former_contents_that_nothing_replaced_are_put_back_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    left = killed(path, beside.NEW, beside.FORMER)
    beside.clear(path)
    assert beside.kept(path) == left / beside.FORMER
    path.mkdir()
    beside.restore(path)
    assert list(path.iterdir()) == [], "what stands there now is not replaced"
    path.rmdir()
    beside.restore(path)
    assert (path / "weights").read_bytes() == b"old" and beside.kept(path) is None
    beside.clear(path)
    assert list(tmp_path.iterdir()) == [path]


def test_former_contents_that_were_replaced_are_never_put_back(tmp_path: Path) -> None:
    """They may be half gone; and whoever removed the new ones did not ask for the old ones."""
    killed(tmp_path / "out", beside.FORMER)
    beside.restore(tmp_path / "out")
    assert not (tmp_path / "out").exists() and beside.remark(tmp_path / "out") == ""


def test_readers_are_told_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = killed(tmp_path / "out", beside.NEW, beside.FORMER)
    (tmp_path / "link").symlink_to("out")
    for name in (tmp_path / "out", "out", "out/deep/file.json", "link/file.json"):
        assert beside.remark(name).endswith(f"what stood there is kept in {left / beside.FORMER}: rename it back")
    for name in ("other", "other/file.json", ".", os.sep):
        assert beside.remark(name) == ""
