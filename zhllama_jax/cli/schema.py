"""What a verb may be told, read from its signature: names, types, nested dataclasses.

A verb is a function. Its keyword-only parameters are flags; `*words` stand there without one. If it has a positional parameter, that is
a dataclass, whose fields are flags and keys of a configuration file too. Where None will do as well, it is read only if there is a
configuration file; of several dataclasses the one is taken whose keys the file has.
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WORDS: Mapping[Any, str] = {str: "a text", int: "a whole number", float: "a number", Path: "a path"}


OTHERS = frozenset(
    {
        "model_name_or_path",
        "base_model",
        "lora_model",
        "output_dir",
        "peft_path",
        "dataset",
        "dataset_dir",
        "datasets",
        "finetuning_type",
        "lora_rank",
        "lora_r",
        "lora_alpha",
        "lora_target",
        "lora_target_modules",
        "modules_to_save",
        "do_train",
        "num_train_epochs",
        "num_epochs",
        "cutoff_len",
        "sequence_len",
        "block_size",
        "max_seq_length",
        "per_device_train_batch_size",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "lr_scheduler_type",
    }
)
"""Names that configurations and commands of LLaMA-Factory, axolotl and Chinese-LLaMA-Alpaca have, and ours have not."""

FILE = "config_file"
"""The parameter of a verb that wants to name the configuration file that it was given; no flag."""

FEW = 12
"""Unknown names that are told one by one."""


class UsageError(ValueError):
    """The command line or the configuration file is wrong; nothing was begun."""


class Settings(NamedTuple):
    """A verb's positional parameter.

    Attributes:
      name: the parameter's.
      kinds: the dataclasses that it may be.
      optional: whether None will do.
    """

    name: str
    kinds: tuple[type, ...]
    optional: bool


def settings(verb: Callable[..., None]) -> Settings | None:
    """A verb's positional parameter; None if it has flags only."""
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            kinds = members(typing.get_type_hints(verb)[name])
            return Settings(name, tuple(kind for kind in kinds if kind is not type(None)), type(None) in kinds)
    return None


def words(verb: Callable[..., None]) -> str | None:
    """The name of the words that a verb takes without a flag, its `*topic`; None if it takes none."""
    parameters = inspect.signature(verb).parameters
    return next((name for name, parameter in parameters.items() if parameter.kind is inspect.Parameter.VAR_POSITIONAL), None)


def options(verb: Callable[..., None]) -> dict[str, Any]:
    """Types of the flags of a verb by name, without those of its dataclass."""
    positional = settings(verb)
    left_out = {"return", positional.name if positional else None, words(verb), FILE}
    return {name: hint for name, hint in typing.get_type_hints(verb).items() if name not in left_out}


def fields(kind: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass, or of all dataclasses in a union; empty for anything else."""
    found: dict[str, Any] = {}
    for member in members(kind):
        if dataclasses.is_dataclass(member):
            hints = typing.get_type_hints(member)
            found |= {field.name: hints[field.name] for field in dataclasses.fields(member) if field.init}
    return found


def required(kind: Any) -> list[str]:
    """Fields without a default of a dataclass; none where several alternatives have fields."""
    found = [member for member in members(kind) if dataclasses.is_dataclass(member)]
    if len(found) != 1:
        return []
    unset = dataclasses.MISSING
    return [
        field.name for field in dataclasses.fields(found[0]) if field.init and field.default is unset and field.default_factory is unset
    ]


def naming(kind: Any) -> str | None:
    """The field of a dataclass that may stand alone for it, `preset` where `stage: sft` means `stage: {preset: sft}`; None elsewhere."""
    alone = [member for member in members(kind) if typing.get_origin(member) is typing.Literal]
    return next((name for name, hint in fields(kind).items() if hint in alone), None)


def element(kind: Any) -> Any | None:
    """The type of a list's or tuple's elements, also of an optional one; None for anything else."""
    for member in members(kind):
        if typing.get_origin(member) in (list, tuple, Sequence):
            return typing.get_args(member)[0]
    return None


def value(kind: Any) -> Any | None:
    """The type of a mapping's values, also of an optional one; None for anything else."""
    for member in members(kind):
        if typing.get_origin(member) in (dict, Mapping):
            return typing.get_args(member)[1]
    return None


def is_list(kind: Any) -> bool:
    """Whether only a list will do (or its absence), so that a flag may be followed by several words."""
    kinds = [member for member in members(kind) if member is not type(None)]
    return bool(kinds) and all(typing.get_origin(member) in (list, tuple, Sequence) for member in kinds)


def find(known: Mapping[str, Any], name: str) -> Any | None:
    """The type of a dotted name such as `optimizer.learning_rate`; None if there is no such option."""
    kind: Any = None
    for part in name.split("."):
        if part in known:
            kind = known[part]
        elif value(kind) is not None:
            kind = value(kind)
        else:
            return None
        known = fields(kind)
    return kind


def inner(known: Mapping[str, Any], name: str) -> list[str]:
    """The dotted names of the fields of sections that are called `name`: `optimizer.learning_rate` for learning_rate."""
    return [f"{section}.{name}" for section, kind in known.items() if name in fields(kind)]


def describe(kind: Any) -> str:
    """A type in words: `a whole number`, `one of a, b`, `a list of texts or null`."""
    return " or ".join(dict.fromkeys(_describe(member) for member in members(kind)))


def _describe(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if origin in (list, tuple, Sequence):
        inner = typing.get_args(kind)[0]
        return f"a list of {_WORDS[inner].removeprefix('a ')}s" if inner in _WORDS else f"a list, each {describe(inner)}"
    if origin in (dict, Mapping):
        return "a mapping"
    if dataclasses.is_dataclass(kind):
        return "a mapping with the keys " + ", ".join(fields(kind))
    return {**_WORDS, bool: "true or false", type(None): "null"}.get(kind, str(kind))


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one resembles most, if it does at all."""
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.6)), None)


def closest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The end of a sentence about an unknown name: the known one that it resembles, or all of them, each written behind `prefix`."""
    known = list(known)
    if meant := near(name, known):
        return f"did you mean {prefix}{meant}?"
    return f"there {'are' if len(known) > 1 else 'is'} {', '.join(prefix + one for one in known)}"


def closest_each(names: Sequence[str], known: Iterable[str], *, prefix: str = "") -> list[str]:
    """For each unknown name `: ` and `closest`; where several resemble none, only the last lists all that there are."""
    known = list(known)
    strange = [name for name in names if near(name, known) is None]
    return ["" if name in strange[:-1] else f": {closest(name, known, prefix=prefix)}" for name in names]


def of_another_program(names: Sequence[str], *, prefix: str = "") -> str | None:
    """What is said of unknown names at least two of which another program's users know; None if they are mere slips."""
    if len(OTHERS & {name.replace("-", "_") for name in names}) < 2:
        return None
    shown = ", ".join(prefix + name for name in names[:FEW])
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"written for another program: {shown}{more} mean nothing here; `zhllama help migrate` says what replaces each"


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type that is no union is its own only one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)
