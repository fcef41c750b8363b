"""What a training run changes: the trainable leaves, their optimizer state, and three counters.

The frozen base is no part of it: it is never donated, never saved, and the same object from the first step to the last.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from zhllama_jax import arrays
from zhllama_jax.shard import place, rules


class State(NamedTuple):
    """Everything that a step takes and gives back.

    Attributes:
      step: batches consumed, int32; the data position, since a batch is a function of (seed, step).
      trainable: the leaves that learn, float32, with the collections on top.
      opt_state: the optax chain's state over them.
      skipped: steps whose update was left out because loss, gradient or the update itself was not finite, int32.
      streak: such steps in a row up to now, int32.
    """

    step: arrays.Array
    trainable: arrays.Tree
    opt_state: Any
    skipped: arrays.Array
    streak: arrays.Array


def init(trainable: arrays.Tree, tx: optax.GradientTransformation, mesh: Mesh) -> State:
    """The state before the first step, made under its shardings."""

    def make(trainable: arrays.Tree) -> State:
        zero = jnp.zeros((), jnp.int32)
        return State(zero, trainable, tx.init(trainable), zero, zero)

    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make, trainable), mesh))(trainable)


def leaves(state: State) -> dict[str, Any]:
    """The state's leaves by name: `trainable/params/lm_head/base`, `opt_state/1/mu/params/lm_head/base`, `step`, …"""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def from_leaves(like: State, values: dict[str, Any]) -> State:
    """The state with the structure of `like` and the leaves of `values`, by name: the inverse of `leaves`."""
    assert leaves(like).keys() == values.keys(), f"leaves differ in {sorted(leaves(like).keys() ^ values.keys())}"
    return jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in leaves(like)])


def shardings(state: State, mesh: Mesh) -> State:
    """The sharding of every leaf (arrays or abstract shapes): moments lie like their weights, counters everywhere."""
    named = leaves(state)
    places = place.shardings(named, rules.state_specs(named), mesh)
    return from_leaves(state, dict(places))
