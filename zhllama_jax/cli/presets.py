"""`--preset`: fields of a training that a machine decides, for all that the user has not said.

A flag goes before the file, the file before the preset, the preset before the default. A file may name a preset (`preset: v5e-8`), a flag
another one. What is filled is shown by --print_config. Of the mesh each axis counts by itself: `--mesh.tensor 2` keeps what the preset says
of the others, but for an axis that takes what is left where a named one does.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from zhllama_jax.cli import configuration, schema
from zhllama_jax.train import machines

if TYPE_CHECKING:
    import jsonargparse

NAME = "preset"
MESH = "mesh"
FILLED = ("mesh", "dtype", "remat", "micro_batch")
SUMMARY = (
    "fills dtype, remat, micro_batch (for rows of 512 tokens: fewer for longer ones) and, but for cpu, mesh, axis by axis, for a machine, "
    "where flags and file leave them out"
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
    """Values by the names of fields (`mesh.tensor` for those of a part), of flags before those of files."""
    given: dict[str, Any] = {}
    for path in files:
        for name, value in configuration.values(path).items():
            given |= (
                {f"{name}.{key.value}": inner.value for key, inner in value} if name == MESH and isinstance(value, list) else {name: value}
            )
    for number, word in enumerate(words):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            found = value if equals else next(iter(words[number + 1 : number + 2]), None)
            axes = _axes(found) if option == MESH else None
            given |= {option: found} if axes is None else {f"{option}.{axis}": size for axis, size in axes.items()}
    return given


def _axes(text: str | None) -> dict[str, Any] | None:
    """What a flag says of the whole mesh, by axis; None for what is no mapping, which is left to the parser."""
    try:
        value = yaml.safe_load(text or "")
    except yaml.YAMLError:
        return None
    return value if isinstance(value, dict) else None


def left_out(preset: machines.Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a preset fills, `mesh.tensor` and so on for the axes, without those that are given."""
    filled = {name: value for name, value in machines.fields(preset).items() if name not in given}
    axes = filled.pop(MESH, {})
    assert isinstance(axes, dict), "machines.fields gives a mesh by its axes"
    rest_is_named = any(str(given.get(f"{MESH}.{axis}")) == "-1" for axis in axes)
    for axis, size in axes.items():
        if f"{MESH}.{axis}" not in given:
            filled[f"{MESH}.{axis}"] = 1 if size == -1 and rest_is_named else size
    return filled


def remark(dtype: str) -> str | None:
    """What is said before a training computes in bfloat16 where jax sees a CPU only, as under the preset of another machine."""
    import jax

    if dtype != "bfloat16" or jax.default_backend() != "cpu":
        return None
    return "zhllama: note: jax sees no accelerator here, and a CPU has no fast bfloat16: --preset cpu is for it, `zhllama doctor` says more"
