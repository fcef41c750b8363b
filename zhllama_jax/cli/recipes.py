"""The recipes of `configs/`, by name: `--config 7b_stage1` means the file that came with the package, wherever the program is called.

In a source tree they stand at its top; a wheel carries them beside the modules.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import zhllama_jax

PACKAGE = Path(zhllama_jax.__file__).resolve().parent
PLACES = (PACKAGE / "configs", PACKAGE.parent / "configs")
SUFFIX = ".yaml"


def paths() -> dict[str, Path]:
    """Every recipe by its name."""
    place = next((place for place in PLACES if any(place.glob(f"*{SUFFIX}"))), None)
    return {path.stem: path for path in sorted(place.glob(f"*{SUFFIX}"))} if place else {}


def find(name: str) -> str:
    """The file that `--config` means: a file of that name, or else the recipe `NAME`, `NAME.yaml` or `configs/NAME.yaml`.

    Raises:
      FileNotFoundError: there is neither; the message lists the recipes.
      ValueError: it is a folder.
    """
    if Path(name).is_file():
        return name
    short, known = Path(name), paths()
    if short.parent in (Path(), Path("configs")) and short.suffix in ("", SUFFIX) and short.stem in known:
        return str(known[short.stem])
    if Path(name).is_dir():
        raise ValueError(f"{name} is a folder: expected a YAML configuration file")
    recipes = f", or one of the recipes {', '.join(known)}" if known else ""
    raise FileNotFoundError(f"{name} not found: expected a YAML configuration file{recipes}")


def resolve(words: Sequence[str]) -> list[str]:
    """A command line with the names after --config replaced by files."""
    found: list[str] = []
    for word in words:
        if word.startswith("--config="):
            word = f"--config={find(word.partition('=')[2])}"
        elif found[-1:] == ["--config"] and not word.startswith("-"):
            word = find(word)
        found.append(word)
    return found


def named(words: Sequence[str]) -> str | None:
    """The recipe that a command line takes; None if it takes none."""
    known = {os.path.realpath(path): name for name, path in paths().items()}
    given = (os.path.realpath(word.removeprefix("--config=")) for word in resolve(words))  # any word at all, links to themselves too
    return next((known[path] for path in given if path in known), None)
