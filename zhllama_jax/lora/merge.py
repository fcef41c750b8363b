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

    One kernel after the other, so that only one float32 kernel and its changes exist at a time.

    Raises:
      ValueError: an adapter whose path names no kernel; all such paths are named.
    """
    leaves = tree.flatten(params)
    adapters = [tree.flatten(lora) for lora in loras]
    paths = dict.fromkeys(path.removesuffix("/a") for adapter in adapters for path in adapter if path.endswith("/a"))
    unknown = [path for path in paths if f"{path}/kernel" not in leaves]
    if unknown:
        raise ValueError(f"the adapter's {', '.join(unknown)} name no kernel of the model")
    for path in paths:
        kernel_LIO = leaves[f"{path}/kernel"]
        sum_LIO = jnp.asarray(kernel_LIO, jnp.float32)
        for adapter in adapters:
            if f"{path}/a" in adapter:
                sum_LIO += delta(adapter[f"{path}/a"], adapter[f"{path}/b"], adapter[f"{path}/scale"])
        leaves[f"{path}/kernel"] = sum_LIO.astype(kernel_LIO.dtype)
    return tree.unflatten(leaves)
