"""Where compiled programs are kept from one call of the program to the next: JAX's persistent compilation cache.

JAX writes an entry in place, and XLA runs what it reads: a wrong bit in one can be a fault of memory. So one process at a time uses the
directory, under a lock that the system lets go of when the process ends, however it ends; others compile without it. Each entry gets a
seal, its SHA-256, when the process that wrote it ends; whoever begins next removes entries without one (their process was killed, maybe
while it wrote) and entries that are no longer what was sealed. They are compiled anew then.
"""

import atexit
import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Literal

from zhllama_jax import files
from zhllama_jax.cli import terminal

FOLDER, ENTRY, SEAL, LOCK = "zhllama", "-cache", ".sha256", "lock"
LARGEST = 2 << 30
"""Bytes that the cache keeps at most; the oldest entries go first. All are hashed at each start, in 3 s at the 0.75 GiB/s of one CPU."""

SETTLED = 10.0
"""Seconds since it was last written to after which an entry is whole also where an interrupt ended the process."""

Cache = Literal["auto", "on", "off"] | Path

_kept: list[Path] = []
"""The directories that this process has locked: as long as it lives, so it may write to them and seal them at its end."""


def cache(choice: Cache) -> None:
    """Sets the cache up, before anything is compiled.

    Args:
      choice: auto: on for accelerators, whose programs take minutes to compile, in the user's cache directory, unless JAX's own
        JAX_COMPILATION_CACHE_DIR names another; on: the same on a CPU too; off; or a directory, in which a folder is made.

    Raises:
      ValueError: the directory that was named cannot be written to.
    """
    import jax

    if choice == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if choice in ("auto", "on") and jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    if choice == "auto" and jax.default_backend() == "cpu":
        return
    directory = choice / FOLDER if isinstance(choice, Path) else users()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = None if os.access(directory, os.W_OK) else "it cannot be written to"
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
    if problem and choice == "auto":
        terminal.say(f"zhllama: note: compiled programs are not kept in {directory}: {problem}")
    elif problem:
        raise ValueError(f"compilation_cache: {directory}: {problem}; name another directory, or off")
    elif reason := _taken(directory):
        terminal.say(f"zhllama: note: compiled programs are not kept in {directory}: {reason}")
    else:
        jax.config.update("jax_compilation_cache_dir", str(directory))


def users() -> Path:
    """The user's directory for it, `zhllama/compiled` where the desktop standard puts caches."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return home / "zhllama" / "compiled"


def clean(directory: Path) -> None:
    """Removes entries that are not as they were sealed, or were not sealed, and the oldest ones beyond `LARGEST`."""
    room = LARGEST
    for entry in sorted(directory.glob(f"*{ENTRY}"), key=_age):
        with contextlib.suppress(OSError):  # a file of another user: JAX cannot read or replace it either
            size = entry.stat().st_size
            mark = entry.with_name(entry.name + SEAL)
            if size <= room and mark.is_file() and mark.read_text(encoding="utf-8") == files.sha256(entry):
                room -= size
            else:
                entry.unlink()
    for mark in directory.glob(f"*{ENTRY}{SEAL}"):
        if not mark.with_name(mark.name.removesuffix(SEAL)).exists():
            mark.unlink(missing_ok=True)


def seal(directory: Path, *, settled: float = 0.0) -> None:
    """Seals the entries that have no seal yet and were last written to `settled` seconds ago or earlier."""
    for entry in directory.glob(f"*{ENTRY}"):
        with contextlib.suppress(OSError):  # a full disk: the entry is compiled anew next time
            mark = entry.with_name(entry.name + SEAL)
            if not mark.exists() and (not settled or time.time() - entry.stat().st_mtime >= settled):
                files.atomic_write(mark, files.sha256(entry))


def end(*, interrupted: bool = False) -> None:
    """Seals what this process compiled; where it was interrupted, all but what it may have been writing at that moment."""
    for directory in _kept:
        seal(directory, settled=SETTLED if interrupted else 0.0)


def _taken(directory: Path) -> str | None:
    """Locks a directory until this process ends and cleans it; why not, if it cannot be locked."""
    if directory in _kept:
        return None
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # open, and so locked, until the process ends
    except OSError as error:
        return (error.strerror or str(error)).lower()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        busy = isinstance(error, BlockingIOError)
        return "another process uses it; this one compiles its own" if busy else (error.strerror or str(error)).lower()
    clean(directory)
    if not _kept:
        atexit.register(end)
    _kept.append(directory)
    return None


def _age(entry: Path) -> float:
    """Sorts the newest first."""
    try:
        return -entry.stat().st_mtime
    except OSError:
        return 0.0
