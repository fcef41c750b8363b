"""Where compiled programs are kept from one call of the program to the next: JAX's persistent compilation cache."""

import os
from pathlib import Path
from typing import Literal

from zhllama_jax.cli import terminal

Cache = Literal["auto", "on", "off"] | Path


def cache(choice: Cache) -> None:
    """Sets the cache up, before anything is compiled. What cannot be read there is compiled anew.

    Args:
      choice: auto: on for accelerators, whose programs take minutes to compile, in the user's cache directory, unless JAX's own
        JAX_COMPILATION_CACHE_DIR names another; on: the same on a CPU too; off; or a directory.

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
    directory = choice if isinstance(choice, Path) else users()
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
        jax.config.update("jax_compilation_cache_dir", str(directory))


def users() -> Path:
    """The user's directory for it, `zhllama/compiled` where the desktop standard puts caches."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return home / "zhllama" / "compiled"
