"""The training state by names, and where its leaves lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place
from zhllama_jax.train import state as state_lib

WEIGHTS = {
    "params": {"lm_head": {"base": jnp.ones((128, 32))}, "norm": {"weight": jnp.ones(32)}},
    "lora": {"layers": {"self_attn": {"q_proj": {"b": jnp.ones((2, 4, 32))}}}},
}


def make() -> tuple:
    mesh = mesh_lib.make(2, 2, 2)
    return state_lib.init(place.weights(WEIGHTS, mesh), optax.adam(1e-3), mesh), mesh


def test_names_and_back() -> None:
    state, _ = make()
    named = state_lib.leaves(state)
    assert {"step", "skipped", "streak", "trainable/params/lm_head/base", "opt_state/0/mu/params/norm/weight", "opt_state/0/count"} <= set(
        named
    )
    again = state_lib.from_leaves(jax.eval_shape(lambda: state), named)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_moments_lie_like_their_weights() -> None:
    state, _ = make()
    specs = {name: leaf.sharding.spec for name, leaf in state_lib.leaves(state).items()}
    assert specs["trainable/params/lm_head/base"] == specs["opt_state/0/nu/params/lm_head/base"] == P("tensor", "fsdp")
    assert specs["opt_state/0/mu/lora/layers/self_attn/q_proj/b"] == P(None, None, "tensor")
    assert specs["opt_state/0/count"] == specs["step"] == P()
    local = state.opt_state[0].mu["params"]["lm_head"]["base"].addressable_shards[0].data
    assert local.shape == (64, 16)
