"""The place beside an output where the new one is made, and what is left of it when its process is killed.

What is being written to NAME stands in a folder `.NAME.xxxxxxxx.tmp` beside it:

    zhllama   the mark: says what the folder is, and the process at work holds a lock on it
    new       what will take the name
    former    the directory that stood under the name, while it gives way and until it is removed

A folder without the mark is somebody else's, whatever it is called, and one whose mark is locked belongs to a living process: neither is
ever touched. A process that was killed lets go of its lock. `former` is out of date only when `new` has taken the name; until then it
may be all that is left of what stood there, so it is put back (`restore`), told of (`remark`) and never removed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MARK, NEW, FORMER = "zhllama", "new", "former"


@contextlib.contextmanager
def place(path: Path) -> Iterator[Path]:
    """A marked and locked folder beside `path`; at the end of the block it goes, unless it keeps what nothing has replaced.

    Raises:
      OSError: the folder cannot be made, the disk is full for one; the error names `path`.
    """
    side = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with open(side / MARK, "xb") as stream:
            _lock(stream, wait=True)  # before there is a sign in it: who looks at a mark without one lets go of it at once
            _mark(stream, path)
            yield side
    finally:
        _remove(side)


def clear(path: Path) -> None:
    """Removes what killed processes left beside `path`, but for former contents that nothing has replaced."""
    for side in _abandoned(path):
        _remove(side)


def restore(path: Path) -> None:
    """Puts back what stood at `path` when a process was killed that was about to replace it, if nothing stands there now."""
    for side in _abandoned(path):
        if _keeps(side) and not os.path.lexists(path):
            os.rename(side / FORMER, path)


def kept(path: Path) -> Path | None:
    """Where killed processes left former contents of `path` that nothing has replaced."""
    return next((side / FORMER for side in _abandoned(path) if _keeps(side)), None)


def remark(path: str | Path) -> str:
    """The end of a sentence about something that is not there: where its contents are if a command was killed while it replaced them."""
    gone = Path(os.path.realpath(path))
    for name in (gone, *gone.parents):
        if os.path.exists(name):
            return ""
        if former := kept(name):
            return f"; a command that was replacing {name} was killed, and what stood there is kept in {former}: rename it back"
    return ""


def sync_tree(directory: str | Path) -> None:
    """Flushes every file and folder below `directory` to the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(folder)


def sync_directory(directory: str | Path) -> None:
    """Flushes a folder's own entries (new names, renames) to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _abandoned(path: Path) -> Iterator[Path]:
    """The marked folders beside `path` whose process has ended, each locked while it is looked at."""
    named = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")
    try:
        found = sorted(name for name in os.listdir(path.parent) if named.fullmatch(name))
    except OSError:
        return  # no such folder, or one that cannot be read
    for name in found:
        side = path.parent / name
        try:
            with open(side / MARK, "r+b") as stream:
                if _lock(stream) and stream.read() == _sign(path) and (side / MARK).exists():
                    yield side
        except OSError:
            continue  # gone by now, or somebody else's


def _remove(side: Path) -> None:
    if _keeps(side):
        return
    for inner in (side / NEW, side / FORMER):
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner, ignore_errors=True)
        else:
            inner.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something cannot be removed, or somebody put something in: the mark stays with it
        if {each.name for each in side.iterdir()} <= {MARK}:
            (side / MARK).unlink(missing_ok=True)
            side.rmdir()


def _keeps(side: Path) -> bool:
    """Whether a folder keeps former contents whose successor has not taken the name."""
    return (side / FORMER).exists() and (side / NEW).exists()


def _mark(stream: IO[bytes], path: Path) -> None:
    """Writes the sign; past the stream's buffer, which on a full disk would fail once more when it is closed."""
    try:
        os.write(stream.fileno(), _sign(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sign(path: Path) -> bytes:
    return os.fsencode(
        f"zhllama makes {path.name} here. If none is running, this is a leftover: the next that writes {path.name} clears it.\n"
    )


def _lock(stream: IO[bytes], *, wait: bool = False) -> bool:
    """Locks an open file until it is closed; false if another holds it and is not waited for, or on a file system without locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
