"""Paths and nested dicts are the same thing; rules decide as written; splitting and joining lose nothing."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhllama_jax import tree

NAMES = st.text("abc_0", min_size=1, max_size=3)
# Folders are never empty: an empty dict has no leaf and therefore no path.
TREES = st.recursive(
    st.dictionaries(NAMES, st.integers(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, inner | st.integers(), min_size=1, max_size=3),
    max_leaves=12,
)
WEIGHTS = {"embed": {"base": 1, "extension": 2}, "layers": {"q": {"kernel": 3}, "k": {"kernel": 4}}, "norm": 5}
PATHS = ["embed/base", "embed/extension", "layers/q/kernel", "layers/k/kernel", "norm"]


def test_flatten_names_leaves_by_their_keys_in_order() -> None:
    assert tree.flatten(WEIGHTS) == dict(zip(PATHS, [1, 2, 3, 4, 5], strict=True))
    assert list(tree.flatten(WEIGHTS)) == PATHS


@settings(max_examples=60, deadline=None, database=None)
@given(TREES)
def test_unflatten_is_the_inverse_of_flatten(nested: dict) -> None:
    assert tree.unflatten(tree.flatten(nested)) == nested


@pytest.mark.parametrize("leaves", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}, {"a/b/c": 1, "a/b": 2}])
def test_a_path_through_a_leaf_is_refused(leaves: dict) -> None:
    with pytest.raises(ValueError, match="leaf"):
        tree.unflatten(leaves)


def test_the_first_rule_that_matches_wins() -> None:
    rules = [("embed/.*", "rows"), ("layers/q/.*", "q"), (".*/kernel", "kernel"), (".*", None)]
    matched = tree.match(rules, PATHS, table="stage")
    assert matched == dict(zip(PATHS, ["rows", "rows", "q", "kernel", None], strict=True))
    assert list(matched) == PATHS


def test_a_rule_must_match_the_whole_path() -> None:
    with pytest.raises(ValueError, match="no rule matches layers/q/kernel"):
        tree.match([("layers/q", 1), ("q/kernel", 1), ("kernel", 1)], ["layers/q/kernel"], table="stage", unused="allow")


def test_every_uncovered_path_is_named_with_the_table() -> None:
    with pytest.raises(ValueError, match=r"^decay: no rule matches embed/extension, norm; add a rule, or a last one '\.\*'$"):
        tree.match([("embed/base", 1), (".*kernel", 2)], PATHS, table="decay")


@pytest.mark.parametrize(
    "rules",
    [[("layers/v/.*", 1), (".*", 0)], [(".*", 0), ("layers/q/.*", 1)]],
    ids=["misspelt", "shadowed by an earlier rule"],
)
def test_a_rule_that_decides_nothing_is_an_error_unless_allowed(rules: list) -> None:
    dead = next(pattern for pattern, _ in rules if pattern != ".*")
    with pytest.raises(ValueError, match=f"^stage: '{dead.replace('*', '[*]')}' decides nothing; the paths are embed/base"):
        tree.match(rules, PATHS, table="stage")
    assert tree.match(rules, PATHS, table="stage", unused="allow") == dict.fromkeys(PATHS, 0)


def test_a_pattern_that_is_no_regex_is_named() -> None:
    with pytest.raises(ValueError, match=r"^stage: '\*/kernel' is not a regular expression: nothing to repeat"):
        tree.match([("*/kernel", 1)], PATHS, table="stage")


@settings(max_examples=60, deadline=None, database=None)
@given(TREES, st.randoms(use_true_random=False))
def test_combine_is_the_inverse_of_partition(nested: dict, random) -> None:
    mask = {path: random.random() < 0.5 for path in tree.flatten(nested)}
    selected, rest = tree.partition(nested, mask)
    assert set(tree.flatten(selected)) == {path for path, chosen in mask.items() if chosen}
    assert set(tree.flatten(rest)) == {path for path, chosen in mask.items() if not chosen}
    assert tree.combine(selected, rest) == tree.combine(rest, selected) == nested


def test_partition_leaves_no_empty_folder() -> None:
    selected, rest = tree.partition(WEIGHTS, {path: path.startswith("embed") for path in PATHS})
    assert selected == {"embed": WEIGHTS["embed"]}
    assert rest == {"layers": WEIGHTS["layers"], "norm": 5}


def test_a_mask_of_another_tree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in \['layer/q/kernel', 'norm'\]"):
        tree.partition(WEIGHTS, {**dict.fromkeys(PATHS[:-1], True), "layer/q/kernel": True})


def test_combine_refuses_a_leaf_that_stands_twice() -> None:
    with pytest.raises(ValueError, match="embed/base stands in two of the trees to combine"):
        tree.combine(WEIGHTS, {"embed": {"base": 1}})


def test_map_with_path_sees_every_leaf_under_its_path() -> None:
    assert tree.map_with_path(lambda path, leaf: (path, leaf), {"a": {"b": 1}, "c": 2}) == {"a": {"b": ("a/b", 1)}, "c": ("c", 2)}


def test_abstract_keeps_shapes_and_dtypes_and_num_bytes_counts_either() -> None:
    weights = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": jax.numpy.zeros((5,), jax.numpy.bfloat16)}
    shapes = tree.abstract(weights)
    assert shapes["a"]["b"] == jax.ShapeDtypeStruct((2, 3), np.float32)
    assert shapes["c"] == jax.ShapeDtypeStruct((5,), jax.numpy.bfloat16)
    assert tree.num_bytes(weights) == tree.num_bytes(shapes) == 2 * 3 * 4 + 5 * 2
