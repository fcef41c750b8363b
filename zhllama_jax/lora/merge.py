"""Folding: W + (A B) · scale, accumulated in float32 and rounded once."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters

_BLOCK = 1 << 15
"""So many numbers of a kernel are folded at a time: their float32 sums and products stay in a processor's cache."""

BLOCK_OF_XLA = 1 << 20
"""The same for XLA, which takes longer to begin."""


class Factors(NamedTuple):
    """What an adapter adds to one kernel: a_IR [I, R], b_RO [R, O], float32, and the scale of their product."""

    a_IR: np.ndarray
    b_RO: np.ndarray
    scale: np.floating


def joined(parts: Sequence[Factors]) -> Factors:
    """Several adapters of one kernel as one, whose product is the sum of theirs."""
    scaled = [b_RO * scale for _, b_RO, scale in parts]
    return Factors(np.concatenate([part.a_IR for part in parts], axis=1), np.concatenate(scaled), np.float32(1))


def folded(kernel_OI: np.ndarray, parts: Sequence[Factors], dtype: np.dtype) -> np.ndarray:
    """One kernel [O, I] on the host with products added, in float32, and rounded once: by NumPy, in blocks of rows.

    Args:
      kernel_OI: in its stored dtype.
      parts: what to add, in order.
      dtype: of the result; what does not fit becomes infinite.
    """
    outputs, inputs = kernel_OI.shape
    result_OI = np.empty(kernel_OI.shape, dtype)
    step = max(1, _BLOCK // inputs)
    sums_OI, products_OI = np.empty((2, min(step, outputs), inputs), np.float32)
    ordered = [(np.ascontiguousarray(a_IR.T), np.ascontiguousarray(b_RO.T), scale) for a_IR, b_RO, scale in parts]
    with np.errstate(over="ignore"):
        for first in range(0, outputs, step):
            rows = slice(first, min(first + step, outputs))
            sum_OI, product_OI = (block[: rows.stop - first] for block in (sums_OI, products_OI))
            np.copyto(sum_OI, kernel_OI[rows])
            for a_RI, b_OR, scale in ordered:
                np.matmul(b_OR[rows], a_RI, out=product_OI)
                np.multiply(product_OI, scale, out=product_OI)
                np.add(sum_OI, product_OI, out=sum_OI)
            np.copyto(result_OI[rows], sum_OI, casting="unsafe")
    return result_OI


def folded_again(kernel_OI: np.ndarray, parts: Sequence[Factors], rows: slice, dtype: np.dtype) -> np.ndarray:
    """Some rows of what `folded` makes, by XLA: to hold one against the other. Fastest with about `BLOCK_OF_XLA` numbers."""
    taken = [(a_IR, b_RO[:, rows], scale) for a_IR, b_RO, scale in parts]
    return np.asarray(_folded(kernel_OI[rows], taken, dtype=dtype))


@functools.partial(jax.jit, static_argnames="dtype")
def _folded(kernel_OI: arrays.Array, parts: Sequence[tuple[arrays.Array, arrays.Array, arrays.Array]], *, dtype: np.dtype) -> arrays.Array:
    sum_OI = jnp.asarray(kernel_OI, jnp.float32)
    for a_IR, b_RO, scale in parts:
        sum_OI += jnp.einsum("IR,RO->OI", a_IR, b_RO, precision=jax.lax.Precision.HIGHEST) * scale
    return sum_OI.astype(dtype)


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
