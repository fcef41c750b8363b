"""What a verb may be told, read from its signature: names, types, nested dataclasses. And the check of a YAML file against it.

A verb is a function. Its keyword-only parameters are flags. If it has a positional parameter, that is a dataclass, whose fields are flags
and keys of a configuration file too; where None will do as well, the dataclass is read only if there is a configuration file.
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
_WORDS: Mapping[Any, str] = {str: "a text", int: "a whole number", float: "a number", Path: "a path"}


class UsageError(ValueError):
    """The command line or the configuration file is wrong; nothing was begun."""


def settings(verb: Callable[..., None]) -> tuple[str, type, bool] | None:
    """Name and dataclass of a verb's positional parameter, and whether it may be None; None if the verb has flags only."""
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            members = _members(typing.get_type_hints(verb)[name])
            (kind,) = (member for member in members if member is not type(None))
            return name, kind, type(None) in members
    return None


def options(verb: Callable[..., None]) -> dict[str, Any]:
    """Types of the flags of a verb by name, without those of its dataclass."""
    positional = settings(verb)
    left_out = {"return", positional[0] if positional else "return"}
    return {name: hint for name, hint in typing.get_type_hints(verb).items() if name not in left_out}


def fields(kind: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass, or of all dataclasses in a union; empty for anything else."""
    found: dict[str, Any] = {}
    for member in _members(kind):
        if dataclasses.is_dataclass(member):
            hints = typing.get_type_hints(member)
            found |= {field.name: hints[field.name] for field in dataclasses.fields(member) if field.init}
    return found


def element(kind: Any) -> Any | None:
    """The type of a list's or tuple's elements, also of an optional one; None for anything else."""
    for member in _members(kind):
        if typing.get_origin(member) in (list, tuple, Sequence):
            return typing.get_args(member)[0]
    return None


def is_list(kind: Any) -> bool:
    """Whether only a list will do (or its absence), so that a flag may be followed by several words."""
    members = [member for member in _members(kind) if member is not type(None)]
    return bool(members) and all(typing.get_origin(member) in (list, tuple, Sequence) for member in members)


def find(known: Mapping[str, Any], name: str) -> Any | None:
    """The type of a dotted name such as `optimizer.learning_rate`; None if there is no such option."""
    kind: Any = None
    for part in name.split("."):
        if any(typing.get_origin(member) in (dict, Mapping) for member in _members(kind)):
            return typing.get_args(kind)[1]
        if part not in known:
            return None
        kind = known[part]
        known = fields(kind)
    return kind


def describe(kind: Any) -> str:
    """A type in words: `a whole number`, `one of a, b`, `a list of texts or null`."""
    return " or ".join(dict.fromkeys(_describe(member) for member in _members(kind)))


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


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that it resembles, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"there {'are' if len(known) > 1 else 'is'} {', '.join(known)}"


def check_file(path: str, known: Mapping[str, Any]) -> None:
    """Refuses a configuration file with unknown or repeated keys, all of them in one message with their lines.

    Raises:
      FileNotFoundError: there is no such file.
      UsageError: it is not YAML, not a mapping, or has keys that mean nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path} not found: expected a YAML configuration file")
    if file.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path} has {file.stat().st_size:,} bytes, too many for a configuration file")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise UsageError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path} must hold `key: value` lines")
    problems = list(_problems(root, known, ()))
    if problems:
        raise UsageError("; ".join(f"{path}:{line}: {problem}" for line, problem in problems))


def _problems(node: yaml.MappingNode, known: Mapping[str, Any], trail: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for every bad key in a mapping and below."""
    seen: set[str] = set()
    place = f" in {'.'.join(trail)}" if trail else ""
    for key_node, value_node in node.value:
        line, name = key_node.start_mark.line + 1, str(key_node.value)
        if name in seen:
            yield line, f"the key {name!r} stands twice{place}"
        elif name not in known:
            yield line, f"unknown key {name!r}{place}: {closest(name, known)}"
        else:
            yield from _below(value_node, known[name], (*trail, name))
        seen.add(name)


def _below(node: yaml.Node, kind: Any, trail: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode) and fields(kind):
        yield from _problems(node, fields(kind), trail)
    elif isinstance(node, yaml.SequenceNode) and element(kind) is not None:
        for index, item in enumerate(node.value):
            yield from _below(item, element(kind), (*trail, str(index)))


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a type that is none is its own only one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)
