"""Folding: W + (A B) · scale, accumulated in float32 and rounded once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters


def delta(a_LIR: arrays.Array, b_LRO: arrays.Array, scale_L: arrays.Array) -> arrays.Array:
    """The float32 change [L, I, O] that an adapter makes to its kernel, at the highest matmul precision."""
    product_LIO = jnp.einsum(
        "LIR,LRO->LIO",
        jnp.asarray(a_LIR, jnp.float32),
        jnp.asarray(b_LRO, jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return product_LIO * jnp.asarray(scale_L, jnp.float32)[:, None, None]


def fold(params: Mapping[str, Any], *loras: Mapping[str, Any]) -> arrays.Tree:
    """The weights with all adapters added, in order; each kernel keeps its dtype and is rounded once, at the end.

    One kernel after the other, so that only one float32 kernel and its changes exist at a time.

    Raises:
      ValueError: an adapter that does not fit the weights, see `adapters.check`.
    """
    for lora in loras:
        adapters.check(params, lora)
    leaves = tree.flatten(params)
    flat = [tree.flatten(lora) for lora in loras]
    paths = dict.fromkeys(path.removesuffix("/a") for factors in flat for path in factors if path.endswith("/a"))
    for path in paths:
        kernel_LIO = leaves[f"{path}/kernel"]
        sum_LIO = jnp.asarray(kernel_LIO, jnp.float32)
        for factors in flat:
            if f"{path}/a" in factors:
                sum_LIO += delta(*(factors[f"{path}/{name}"] for name in adapters.LEAVES))
        leaves[f"{path}/kernel"] = sum_LIO.astype(kernel_LIO.dtype)
    return tree.unflatten(leaves)
