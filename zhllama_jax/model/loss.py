"""Next-token cross-entropy whose [tokens, vocabulary] logits never exist, over the two vocabulary blocks.

The length is cut into chunks (the batch stays whole, and so stays sharded); what the last one lacks is filled up with positions of
weight 0. While a chunk's logits are there, the loss *and* its gradients are taken from them: with p = softmax(logits) and weight w
of a token, d/dlogits = w · (p - onehot(target)). So nothing is computed twice, and the backward pass only multiplies by the
incoming scalar. A block of the head that is frozen gets no product of its own shape at all: the forward rule is told which inputs
are differentiated.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zhllama_jax import arrays
from zhllama_jax.model import attention, llama
from zhllama_jax.model import config as model_config

Head = tuple[arrays.Array, ...]
Blocks = tuple[model_config.Block, ...]


class _Gradients(NamedTuple):
    """What the forward rule leaves for the backward one; None where nothing is differentiated."""

    x_BTD: arrays.Array | None
    head: tuple[arrays.Array | None, ...]


def next_token(
    config: model_config.LlamaConfig,
    params: Mapping[str, Any],
    x_BTD: arrays.Array,
    targets_BT: arrays.Array,
    weight_BT: arrays.Array,
    *,
    chunk: int = 512,
) -> arrays.Array:
    """Σ weight · -ln p(target), a float32 scalar.

    Args:
      config: the model's shape.
      params: holds the head, or the embedding that it is tied to.
      x_BTD: final hidden states.
      targets_BT: logical ids.
      weight_BT: float32 weights; 0 where a token does not count. Weights that add up to 1 over the whole global batch give the
        mean over its supervised tokens, however the batch was split. They are not differentiated.
      chunk: tokens (over the whole batch) whose logits exist at a time; one position of every row at least.
    """
    head = tuple(rows_VD for rows_VD, _ in llama.head_blocks(config, params))
    pieces = _num_chunks(x_BTD.shape[0], x_BTD.shape[1], chunk)
    return _weighted_nats(config.blocks, pieces, x_BTD, head, targets_BT, weight_BT)


def _num_chunks(batch: int, length: int, chunk: int) -> int:
    """The fewest pieces of the length that hold at most `chunk` tokens of the batch each, or one position where that is too many."""
    return -(-length // max(1, chunk // batch))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_nats(
    blocks: Blocks, pieces: int, x_BTD: arrays.Array, head: Head, targets_BT: arrays.Array, weight_BT: arrays.Array
) -> arrays.Array:
    """The loss alone, for evaluation."""
    loss, _ = _scan(blocks, pieces, x_BTD, head, targets_BT, weight_BT, wants_x=False, wants_head=(False,) * len(head))
    return loss


def _forward(blocks: Blocks, pieces: int, x: Any, head: Any, targets: Any, weight: Any) -> tuple[arrays.Array, _Gradients]:
    """The loss, and the gradients of the inputs that are differentiated."""
    wants_head = tuple(block.perturbed for block in head)
    values = (x.value, tuple(block.value for block in head), targets.value, weight.value)
    return _scan(blocks, pieces, *values, wants_x=x.perturbed, wants_head=wants_head)


def _backward(blocks: Blocks, pieces: int, saved: _Gradients, outer: Any) -> tuple[Any, ...]:
    """The saved gradients times the incoming scalar."""

    def times(gradient: arrays.Array | None) -> arrays.Array | None:
        return None if gradient is None else gradient * outer.astype(gradient.dtype)

    return times(saved.x_BTD), tuple(times(block) for block in saved.head), None, None


_weighted_nats.defvjp(_forward, _backward, symbolic_zeros=True)


def _scan(
    blocks: Blocks,
    pieces: int,
    x_BTD: arrays.Array,
    head: Head,
    targets_BT: arrays.Array,
    weight_BT: arrays.Array,
    *,
    wants_x: bool,
    wants_head: tuple[bool, ...],
) -> tuple[arrays.Array, _Gradients]:
    """Runs over the chunks; sums the loss and the head's gradients, stacks those of x."""
    batch, length, width = x_BTD.shape
    size = -(-length // pieces)
    fill = pieces * size - length
    cast = tuple(block.astype(x_BTD.dtype) for block in head)

    def cut(values: arrays.Array) -> arrays.Array:
        """[B, T, …] -> [pieces, B, size, …], filled up with zeros."""
        if fill:
            values = jnp.pad(values, [(0, fill if axis == 1 else 0) for axis in range(values.ndim)])
        return jnp.moveaxis(values.reshape(batch, pieces, size, *values.shape[2:]), 1, 0)

    def step(carry: tuple[arrays.Array, tuple[Any, ...]], part: tuple[arrays.Array, ...]) -> tuple[Any, arrays.Array | None]:
        loss, sums = carry
        x_CD, target_C, weight_C = (piece.reshape(-1, *piece.shape[2:]) for piece in part)
        nats_C, slopes = _chunk(blocks, x_CD, cast, target_C, weight_C)
        loss = loss + jnp.sum(nats_C * weight_C)
        sums = tuple(
            total + jnp.einsum("CV,CD->VD", slope_CV, x_CD, preferred_element_type=jnp.float32) if wanted else None
            for total, slope_CV, wanted in zip(sums, slopes, wants_head, strict=True)
        )
        if not wants_x:
            return (loss, sums), None
        products = [
            jnp.einsum("CV,VD->CD", slope_CV, block_VD, preferred_element_type=jnp.float32)
            for slope_CV, block_VD in zip(slopes, cast, strict=True)
        ]
        return (loss, sums), sum(products[1:], products[0]).astype(x_BTD.dtype).reshape(batch, -1, width)

    zeros = tuple(jnp.zeros(block.shape, jnp.float32) if wanted else None for block, wanted in zip(head, wants_head, strict=True))
    parts = (cut(x_BTD), cut(targets_BT), cut(weight_BT))
    if pieces == 1:
        (loss, sums), dx = step((jnp.float32(0), zeros), jax.tree.map(lambda part: part[0], parts))
        dx = None if dx is None else dx[None]
    else:
        (loss, sums), dx = jax.lax.scan(step, (jnp.float32(0), zeros), parts)
    dx_BTD = None if dx is None else jnp.moveaxis(dx, 0, 1).reshape(batch, length + fill, width)[:, :length]
    dhead = tuple(None if total is None else total.astype(block.dtype) for total, block in zip(sums, head, strict=True))
    return loss, _Gradients(dx_BTD, dhead)


def _chunk(
    blocks: Blocks, x_CD: arrays.Array, head: Head, target_C: arrays.Array, weight_C: arrays.Array
) -> tuple[arrays.Array, list[arrays.Array]]:
    """(-ln p(target) [C], for each block the weighted slope of the loss by its logits [C, V])."""
    logits = [jnp.einsum("CD,VD->CV", x_CD, block_VD, preferred_element_type=jnp.float32) for block_VD in head]
    # Spare rows pad the blocks: they take no probability, and so no gradient.
    logits = [
        logits_CV
        if block.rows == logits_CV.shape[1]
        else jnp.where(jnp.arange(logits_CV.shape[1])[None] < block.rows, logits_CV, attention.MASKED)
        for logits_CV, block in zip(logits, blocks, strict=True)
    ]
    top_C = functools.reduce(jnp.maximum, [jnp.max(logits_CV, axis=-1) for logits_CV in logits])
    total_C = sum(jnp.sum(jnp.exp(logits_CV - top_C[:, None]), axis=-1) for logits_CV in logits)
    partition_C = top_C + jnp.log(total_C)
    score_C = jnp.zeros_like(partition_C)
    slopes: list[arrays.Array] = []
    for logits_CV, block in zip(logits, blocks, strict=True):
        column_C = target_C - block.first
        inside_C = block.holds(target_C)
        taken_C = jnp.take_along_axis(logits_CV, jnp.where(inside_C, column_C, 0)[:, None], axis=-1)[:, 0]
        score_C = score_C + jnp.where(inside_C, taken_C, 0.0)
        is_target_CV = jnp.arange(logits_CV.shape[1])[None] == jnp.where(inside_C, column_C, -1)[:, None]
        slope_CV = (jnp.exp(logits_CV - partition_C[:, None]) - is_target_CV) * weight_C[:, None]
        slopes.append(slope_CV.astype(x_CD.dtype))
    return partition_C - score_C, slopes
