"""Trees of weights addressed by path, and the one matcher of rules over paths.

A path is the keys of nested dicts joined by '/': `params/layers/self_attn/q_proj/kernel`. Every table
of the package (trainability, learning-rate scale, decay, LoRA targets, partition specs, names) is an ordered
list of `(regex, value)`; `match` is its only interpreter: the regex must match the whole path, the first match
wins, and every path must match.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax

from zhllama_jax.arrays import Tree

Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by path, in the order of the dicts."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            leaves.update(flatten(value, path))
        else:
            leaves[path] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The nested dicts whose leaves by path are `leaves`.

    Raises:
      ValueError: one path runs through another path's leaf.
    """
    tree: Tree = {}
    for path, value in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path} runs through {folder!r}, which is a leaf")
        if name in node:
            raise ValueError(f"{path} is both a leaf and a folder, or stands twice")
        node[name] = value
    return tree


def match(
    rules: Rules[Value],
    paths: Iterable[str],
    *,
    table: str,
    unused: Literal["error", "allow"] = "error",
) -> dict[str, Value]:
    """Assigns to each path the value of the first rule whose regex matches all of it.

    Args:
      rules: ordered (regex, value) pairs.
      paths: the paths to cover.
      table: the table's name, for messages.
      unused: whether a rule that decides no path is an error. Tables written by users take "error";
        the library's own tables, which serve tied, untied, extended and plain models, take "allow".

    Returns:
      path -> value, in the order of `paths`.

    Raises:
      ValueError: a pattern that is no regex, a path that no rule matches, or a rule that decides nothing; all of the
        latter two are named.
    """
    compiled = [(_compile(pattern, table), value) for pattern, value in rules]
    paths = list(paths)
    matched: dict[str, Value] = {}
    used = [False] * len(compiled)
    missing = []
    for path in paths:
        for index, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                matched[path] = value
                used[index] = True
                break
        else:
            missing.append(path)
    if missing:
        raise ValueError(f"{table}: no rule matches {', '.join(missing)}; add a rule, or a last one '.*'")
    dead = [rules[index][0] for index, was_used in enumerate(used) if not was_used]
    if dead and unused == "error":
        raise ValueError(f"{table}: {', '.join(map(repr, dead))} decides nothing; the paths are {', '.join(paths)}")
    return matched


def _compile(pattern: str, table: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{table}: {pattern!r} is not a regular expression: {error}") from None


def partition(tree: Mapping[str, Any], mask: Mapping[str, bool]) -> tuple[Tree, Tree]:
    """Splits a tree by path into (where the mask is true, the rest); both hold only their own leaves."""
    leaves = flatten(tree)
    if leaves.keys() != mask.keys():
        raise ValueError(f"the mask and the tree differ in {sorted(leaves.keys() ^ mask.keys())}")
    selected = {path: leaf for path, leaf in leaves.items() if mask[path]}
    rest = {path: leaf for path, leaf in leaves.items() if not mask[path]}
    return unflatten(selected), unflatten(rest)


def combine(*trees: Mapping[str, Any]) -> Tree:
    """The union of trees that share no leaf: the inverse of `partition`.

    Raises:
      ValueError: two trees hold the same path.
    """
    leaves: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in flatten(tree).items():
            if path in leaves:
                raise ValueError(f"{path} stands in two of the trees to combine")
            leaves[path] = leaf
    return unflatten(leaves)


def map_with_path(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Applies `function(path, leaf)` to every leaf."""
    return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def abstract(tree: Tree) -> Tree:
    """The tree's shapes and dtypes, without its data."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def num_bytes(tree: Tree) -> int:
    """The bytes of all leaves (arrays or abstract shapes)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
