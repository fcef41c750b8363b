"""A YAML configuration file, held against the types that are expected before anything is built from it.

The parser behind would find the same faults, but not say where they stand.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zhllama_jax import files
from zhllama_jax.cli import schema

MAX_BYTES = 1 << 20

Problem = tuple[int, str]
"""A line, from 1, and what is wrong there."""


def check(path: str, known: Mapping[str, Any]) -> None:
    """Refuses a file with unknown, repeated or missing keys or with values of another type, all of them in one message.

    Args:
      path: the file.
      known: types of the keys by name. None of these is missed: a flag may give it.

    Raises:
      FileNotFoundError: there is no such file.
      schema.UsageError: it is not YAML, not a mapping, or see above; each problem begins with file:line.
    """
    root = _read(path)
    if foreign := schema.of_another_program([str(key.value) for key, _ in root.value if key.value not in known]):
        raise schema.UsageError(f"{path} is {foreign}")
    problems = list(_keys(root, known, ""))
    if problems:
        raise schema.UsageError("; ".join(f"{path}:{line}: {problem}" for line, problem in problems))


def keys(path: str) -> set[str]:
    """The names on the top of a file; errors as in `check`."""
    return {str(key.value) for key, _ in _read(path).value}


def values(path: str) -> dict[str, Any]:
    """What stands on the top of a file, of single values their text; errors as in `check`."""
    return {str(key.value): node.value for key, node in _read(path).value}


def place(path: str, message: str) -> str:
    """`path:line` of the key on the top of a file that a message begins with; `path` if it begins with none."""
    lines = {str(key.value): _line(key) for key, _ in _read(path).value}
    name = re.match(r"\w*", message)
    return f"{path}:{lines[name[0]]}" if name and name[0] in lines else path


def _read(path: str) -> yaml.MappingNode:
    file = Path(path)
    files.expect(file, "a YAML configuration file")
    if file.stat().st_size > MAX_BYTES:
        raise schema.UsageError(f"{path} has {file.stat().st_size:,} bytes, too many for a configuration file")
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise schema.UsageError(f"{path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise schema.UsageError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise schema.UsageError(f"{path} must hold `key: value` lines")
    return root


def _keys(node: yaml.MappingNode, known: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """What is wrong with the keys of a mapping, and with everything below them."""
    seen: set[str] = set()
    inside = f" in {place}" if place else ""
    strange = [name for key, _ in node.value if (name := str(key.value)) not in known]
    meant = dict(zip(strange, schema.closest_each(strange, known), strict=True))
    for key_node, value_node in node.value:
        line, name = _line(key_node), str(key_node.value)
        if name in seen:
            yield line, f"the key {name!r} stands twice{inside}"
        elif name not in known:
            yield line, f"unknown key {name!r}{inside}{meant[name]}"
        else:
            yield from _value(value_node, known[name], f"{place}.{name}".lstrip("."))
        seen.add(name)


def _value(node: yaml.Node, kind: Any, place: str) -> Iterator[Problem]:
    """What is wrong with the value of type `kind` that stands at `place`."""
    if str in schema.members(kind) and isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and ":" in node.value:
        yield _line(node), f'{place}: YAML takes {node.value} for a time of day, so write "{node.value}" in quotes'
    elif not any(_fits(node, member) for member in schema.members(kind)):
        given = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        yield _line(node), f"{place}: expected {schema.describe(kind)}, got {given}"
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _value(item, schema.element(kind), f"{place}[{index}]")
    elif isinstance(node, yaml.MappingNode) and schema.fields(kind):
        yield from _keys(node, schema.fields(kind), place)
        present = {str(key.value) for key, _ in node.value}
        missing = [name for name in schema.required(kind) if name not in present]
        if missing:
            yield _line(node), f"{place} lacks {', '.join(missing)}"
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            yield from _value(item, schema.value(kind), f"{place}.{key.value}")


def _fits(node: yaml.Node, kind: Any) -> bool:
    """Whether a node is of the right sort; what it holds is looked at later."""
    origin = typing.get_origin(kind)
    if isinstance(node, yaml.SequenceNode):
        return origin in (list, tuple, Sequence)
    if isinstance(node, yaml.MappingNode):
        return origin in (dict, Mapping) or dataclasses.is_dataclass(kind)
    tag = node.tag.rpartition(":")[2]
    if origin is typing.Literal:
        return node.value in map(str, typing.get_args(kind))
    if kind is float:
        return tag == "int" or _is_number(node.value)
    return {int: tag == "int", bool: tag == "bool", type(None): tag == "null", str: tag != "null", Path: tag != "null"}.get(kind, False)


def _is_number(text: str) -> bool:
    """Also for 1e-4, which YAML 1.1 takes for a text."""
    try:
        float(text)
    except ValueError:
        return text in (".inf", "-.inf", ".nan")
    return True


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
