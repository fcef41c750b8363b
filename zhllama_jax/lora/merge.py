"""Folding: W + (A B) · scale, accumulated in float32 and rounded once."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters

_BLOCK = 1 << 20
"""So many numbers of a kernel are folded at a time: their float32 sums stay in a processor's cache."""


class Factors(NamedTuple):
    """What an adapter adds to one kernel: a_IR [I, R], b_RO [R, O], float32, and the scale of their product."""

    a_IR: np.ndarray
    b_RO: np.ndarray
    scale: np.floating


def joined(parts: Sequence[Factors]) -> Factors:
    """Several adapters of one kernel as one, whose product is the sum of theirs."""
    scaled = [b_RO * scale for _, b_RO, scale in parts]
    return Factors(np.concatenate([part.a_IR for part in parts], axis=1), np.concatenate(scaled), np.float32(1))


def folded(kernel_OI: np.ndarray, parts: Sequence[Factors], rounded: Callable[[np.ndarray], np.ndarray], dtype: np.dtype) -> np.ndarray:
    """One kernel [O, I] on the host with products added, in float32, and rounded once; rows in blocks, on all processors.

    An element does not depend on how the rows are cut: its products are summed over the rank, in order.

    Args:
      kernel_OI: in its stored dtype.
      parts: what to add, in order.
      rounded: a float32 block in `dtype`.
      dtype: of the result.
    """
    outputs, inputs = kernel_OI.shape
    result_OI = np.empty(kernel_OI.shape, dtype)
    step = max(1, _BLOCK // inputs)

    def fold_rows(first: int) -> None:
        rows = slice(first, first + step)
        sum_OI = kernel_OI[rows].astype(np.float32)
        for a_IR, b_RO, scale in parts:
            product_OI = b_RO[:, rows].T @ a_IR.T
            product_OI *= scale
            sum_OI += product_OI
        result_OI[rows] = rounded(sum_OI)

    with futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fold_rows, range(0, outputs, step)))
    return result_OI


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
