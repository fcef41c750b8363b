"""Folding: W + (A B) · scale, accumulated in float32 and rounded once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zhllama_jax import arrays, tree


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

    Raises:
      ValueError: an adapter whose path names no kernel.
    """
    leaves = tree.flatten(params)
    deltas: dict[str, Any] = {}
    for lora in loras:
        adapter = tree.flatten(lora)
        for path in [path.removesuffix("/a") for path in adapter if path.endswith("/a")]:
            if f"{path}/kernel" not in leaves:
                raise ValueError(f"the adapter's {path} names no kernel of the model")
            change_LIO = delta(adapter[f"{path}/a"], adapter[f"{path}/b"], adapter[f"{path}/scale"])
            deltas[path] = deltas[path] + change_LIO if path in deltas else change_LIO
    for path, change_LIO in deltas.items():
        kernel_LIO = leaves[f"{path}/kernel"]
        leaves[f"{path}/kernel"] = (jnp.asarray(kernel_LIO, jnp.float32) + change_LIO).astype(kernel_LIO.dtype)
    return tree.unflatten(leaves)
