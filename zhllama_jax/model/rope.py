"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864), in Hugging Face's half layout.

Dimension i of a head turns together with dimension i + H/2 (Meta's release pairs neighbours instead; its converter permutes
the rows of q and k). Angles, sine and cosine are computed in float32: in bfloat16 neighbouring positions collide.

Scaled frequencies are constants, but for the kind "dynamic": there they are a function of the length of each text, whose last token turns
the first one differently than a shorter text would. Keys in a cache keep the frequencies of the call that wrote them, as in transformers:
past the trained length a text that was decoded token by token is not quite the same text read at once.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays
from zhllama_jax.model import rope_config


class Rotation(NamedTuple):
    """Cosine and sine of every position's angles, float32, each [B, T, H/2]."""

    cos_BTh: arrays.Array
    sin_BTh: arrays.Array


def rotation(
    positions_BT: arrays.Array,
    *,
    head_dim: int,
    theta: float,
    scaling: rope_config.RopeScaling | None = None,
    trained: int | None = None,
    segment_ids_BT: arrays.Array | None = None,
) -> Rotation:
    """The rotation of each position: angle = position · frequency, plain theta^(-2i / H) for i in [0, H/2), or scaled.

    Args:
      positions_BT: whole numbers from 0.
      head_dim: H, even.
      theta: the base.
      scaling: how the frequencies are stretched, with everything filled in (`LlamaConfig` does it).
      trained: the length trained for; "dynamic" needs it.
      segment_ids_BT: which text a token belongs to; "dynamic" measures each by itself. None: a row is one text.
    """
    if scaling is None:
        exponent_h = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
        angle_BTh = positions_BT[..., None].astype(jnp.float32) * theta ** -exponent_h[None, None, :]
        return Rotation(jnp.cos(angle_BTh), jnp.sin(angle_BTh))
    if scaling.kind == "dynamic":
        assert trained is not None, "dynamic scaling is relative to the trained length"
        length_BT = _lengths(positions_BT, segment_ids_BT)
        frequency_BTh = _dynamic(length_BT, head_dim=head_dim, theta=theta, factor=scaling.factor, trained=trained)
    else:
        frequency_BTh = jnp.asarray(frequencies(head_dim=head_dim, theta=theta, scaling=scaling))[None, None, :]
    angle_BTh = positions_BT[..., None].astype(jnp.float32) * frequency_BTh
    cos_BTh, sin_BTh = jnp.cos(angle_BTh), jnp.sin(angle_BTh)
    if scaling.attention_scale != 1:
        cos_BTh, sin_BTh = cos_BTh * scaling.attention_scale, sin_BTh * scaling.attention_scale
    return Rotation(cos_BTh, sin_BTh)


def frequencies(*, head_dim: int, theta: float, scaling: rope_config.RopeScaling | None = None) -> np.ndarray:
    """The frequencies [H/2] that do not depend on the text, computed in float64 and rounded to float32; "dynamic" up to the trained length.

    The names and formulas are those of the papers that `RopeScaling` cites.
    """
    plain_h = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None or scaling.kind == "dynamic":
        return plain_h.astype(np.float32)
    if scaling.kind == "linear":
        return (plain_h / scaling.factor).astype(np.float32)
    # The share of the plain frequency that is kept; the rest is divided by the factor.
    kept_h = _kept_by_llama3(plain_h, scaling) if scaling.kind == "llama3" else _kept_by_yarn(head_dim, theta, scaling)
    return (plain_h * (kept_h + (1 - kept_h) / scaling.factor)).astype(np.float32)


def apply(x_BTNH: arrays.Array, turn: Rotation) -> arrays.Array:
    """Turns every head of `x_BTNH` by its position; the result has the dtype of the input."""
    first_BTNh, second_BTNh = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos_BT1h, sin_BT1h = turn.cos_BTh[:, :, None, :], turn.sin_BTh[:, :, None, :]
    turned = (first_BTNh * cos_BT1h - second_BTNh * sin_BT1h, second_BTNh * cos_BT1h + first_BTNh * sin_BT1h)
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


def _lengths(positions_BT: arrays.Array, segment_ids_BT: arrays.Array | None) -> arrays.Array:
    """How many tokens each token's text has in this call, by its largest position: [B, T], or [B, 1] where a row is one text."""
    if segment_ids_BT is None:
        return jnp.max(positions_BT, axis=-1, keepdims=True) + 1
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return jnp.where(same_BTS, positions_BT[:, None, :], 0).max(axis=-1) + 1


def _dynamic(length_BT: arrays.Array, *, head_dim: int, theta: float, factor: float, trained: int) -> arrays.Array:
    """Frequencies [B, T, H/2] whose lowest are divided by about 1 + factor · (share of the text beyond the trained length)."""
    excess_BT = jnp.maximum(length_BT - trained, 0).astype(jnp.float32) / trained
    base_BT = theta * (1 + factor * excess_BT) ** (head_dim / (head_dim - 2))
    exponent_h = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    return base_BT[:, :, None] ** -exponent_h[None, None, :]


def _kept_by_llama3(plain_h: np.ndarray, scaling: rope_config.RopeScaling) -> np.ndarray:
    """1 for frequencies with many turns over the original length, 0 for those with few."""
    original, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert original is not None and low is not None and high is not None, "RopeScaling and LlamaConfig fill these in"
    turns_h = original * plain_h / (2 * math.pi)
    return np.clip((turns_h - low) / (high - low), 0, 1)


def _kept_by_yarn(head_dim: int, theta: float, scaling: rope_config.RopeScaling) -> np.ndarray:
    """1 for dimensions before those with `beta_fast` turns over the original length, 0 after those with `beta_slow`."""
    original, fast, slow = scaling.original_max_position_embeddings, scaling.beta_fast, scaling.beta_slow
    assert original is not None and fast is not None and slow is not None, "RopeScaling and LlamaConfig fill these in"

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(fast), dimension(slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first if last != first else 1e-3
    return 1 - np.clip((np.arange(head_dim // 2) - first) / width, 0, 1)
