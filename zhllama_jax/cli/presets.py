"""`--preset`: fields of a training that a machine decides, for all that the user has not said.

A flag goes before the file, the file before the preset, the preset before the default. A file may name a preset (`preset: v5e-8`), a flag
another one. What is filled is shown by --print_config. The mesh counts as one: whoever names one of its axes names all.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zhllama_jax.cli import configuration, schema
from zhllama_jax.train import machines

if TYPE_CHECKING:
    import jsonargparse

NAME = "preset"
FILLED = ("mesh", "dtype", "remat", "micro_batch")
SUMMARY = (
    "fills dtype, remat, micro_batch (for rows of 512 tokens: fewer for longer ones) and, but for cpu, mesh for a machine, where flags and "
    "file leave them out"
)


def options(kind: Any) -> dict[str, Any]:
    """The flag and key `preset` with its type, for a dataclass that describes training."""
    return {NAME: machines.Preset | None} if schema.fields(kind).keys() >= set(FILLED) else {}


def fill(parser: "jsonargparse.ArgumentParser", kind: Any, words: Sequence[str], files: Sequence[str]) -> None:
    """Adds the flag to a parser, and the preset that is chosen to its defaults.

    Args:
      parser: reads the dataclass `kind`.
      kind: the dataclass.
      words: the command line after the verb.
      files: the configuration files of the command line.
    """
    if not options(kind):
        return
    parser.add_argument(f"--{NAME}", type=machines.Preset | None, default=None, help=SUMMARY)
    given = _given(words, files)
    if given.get(NAME) in machines.MACHINES:  # any other name is refused by the parser
        parser.set_defaults(left_out(given[NAME], given))


def note(kind: Any, words: Sequence[str], files: Sequence[str]) -> str | None:
    """What somebody who leaves the dtype to the preset that is chosen should know, if there is anything; arguments as in `fill`."""
    given = _given(words, files)
    if not options(kind) or given.get(NAME) not in machines.MACHINES or "dtype" in given:
        return None
    found = machines.MACHINES[given[NAME]].note
    return f"preset {given[NAME]}: {found}" if found else None


def _given(words: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """Values by the names of fields, of flags before those of files; a flag of a part counts for the whole."""
    given: dict[str, Any] = {}
    for path in files:
        given |= configuration.values(path)
    for number, word in enumerate(words):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            given[option.partition(".")[0]] = value if equals else next(iter(words[number + 1 : number + 2]), None)
    return given


def left_out(preset: machines.Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a preset fills, without those that are given."""
    return {name: value for name, value in machines.fields(preset).items() if name not in given}
