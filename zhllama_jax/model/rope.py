"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), in Hugging Face's half layout.

Dimension i of a head turns together with dimension i + H/2 (Meta's release pairs neighbours instead; its converter permutes
the rows of q and k). Angles, sine and cosine are computed in float32: in bfloat16 neighbouring positions collide.
"""

from typing import NamedTuple

import jax.numpy as jnp

from zhllama_jax import arrays


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles, float32, each [B, T, H/2]."""

    cos_BTh: arrays.Array
    sin_BTh: arrays.Array


def rotation(positions_BT: arrays.Array, *, head_dim: int, theta: float) -> Rotation:
    """The rotation of each position: angle = position · theta^(-2i / H) for i in [0, H/2)."""
    exponent_h = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle_BTh = positions_BT[..., None].astype(jnp.float32) * theta ** -exponent_h[None, None, :]
    return Rotation(jnp.cos(angle_BTh), jnp.sin(angle_BTh))


def apply(x_BTNH: arrays.Array, turn: Rotation) -> arrays.Array:
    """Turns every head of `x_BTNH` by its position; the result has the dtype of the input."""
    first_BTNh, second_BTNh = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos_BT1h, sin_BT1h = turn.cos_BTh[:, :, None, :], turn.sin_BTh[:, :, None, :]
    turned = (first_BTNh * cos_BT1h - second_BTNh * sin_BT1h, second_BTNh * cos_BT1h + first_BTNh * sin_BT1h)
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)
