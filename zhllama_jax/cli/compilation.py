"""Where compiled programs are kept from one call of the program to the next: JAX's persistent compilation cache.

JAX writes an entry in place, and XLA runs what it reads: a wrong bit in one can be a fault of memory. So each entry gets a seal, its
SHA-256, when the process that wrote it ends; whoever begins next removes entries without one (their process was killed, maybe while it
wrote) and entries that are no longer what was sealed. They are compiled anew then.
"""

import atexit
import contextlib
import os
from pathlib import Path
from typing import Literal

from zhllama_jax import files
from zhllama_jax.cli import terminal

FOLDER, ENTRY, SEAL = "zhllama", "-cache", ".sha256"
LARGEST = 8 << 30
"""Bytes that the cache keeps at most; the oldest entries go first."""

Cache = Literal["auto", "on", "off"] | Path


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
    else:
        clean(directory)
        atexit.register(seal, directory)
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
        with contextlib.suppress(OSError):  # another process cleans too
            room -= entry.stat().st_size
            mark = entry.with_name(entry.name + SEAL)
            if room < 0 or not mark.is_file() or mark.read_text(encoding="utf-8") != files.sha256(entry):
                entry.unlink()
    for mark in directory.glob(f"*{ENTRY}{SEAL}"):
        if not mark.with_name(mark.name.removesuffix(SEAL)).exists():
            mark.unlink(missing_ok=True)


def seal(directory: Path) -> None:
    """Seals the entries that have no seal yet."""
    for entry in directory.glob(f"*{ENTRY}"):
        with contextlib.suppress(OSError):  # a full disk, another process: the entry is compiled anew next time
            mark = entry.with_name(entry.name + SEAL)
            if not mark.exists():
                files.atomic_write(mark, files.sha256(entry))


def _age(entry: Path) -> float:
    """Sorts the newest first."""
    try:
        return -entry.stat().st_mtime
    except OSError:
        return 0.0
