"""Masks and scaled dot-product attention, as pure functions of arrays."""

import jax
import jax.numpy as jnp

from zhllama_jax import arrays

# Half of the most negative float32: a row that may look nowhere becomes a plain mean instead of NaN.
MASKED = float(jnp.finfo(jnp.float32).min) / 2


def causal_mask(length: int) -> arrays.Array:
    """True where query t may look at key s, that is s ≤ t; [1, T, S]."""
    return jnp.tril(jnp.ones((length, length), dtype=bool))[None]


def segment_mask(segment_ids_BT: arrays.Array) -> arrays.Array:
    """Causal, and only within one's own segment; [B, T, S].

    Two documents and a padding token in one row, `segment_ids = [1, 1, 2, 2, 0]`:

        1 . . . .
        1 1 . . .
        . . 1 . .
        . . 1 1 .
        . . . . 1
    """
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return same_BTS & causal_mask(segment_ids_BT.shape[1])


def cache_mask(valid_BS: arrays.Array, cursor: arrays.Array, length: int) -> arrays.Array:
    """True where the query written to slot `cursor + t` may look at slot s: filled, not padding, not later; [B, T, S]."""
    slot_T = cursor + jnp.arange(length)
    earlier_TS = jnp.arange(valid_BS.shape[1])[None, :] <= slot_T[:, None]
    return valid_BS[:, None, :] & earlier_TS[None]


def attend(q_BTNH: arrays.Array, k_BSKH: arrays.Array, v_BSKH: arrays.Array, mask_BTS: arrays.Array) -> arrays.Array:
    """softmax(q kᵀ / √H) v, with grouped query heads (Vaswani et al., 2017; Ainslie et al., 2023).

    Args:
      q_BTNH: queries; query heads n·G … n·G + G - 1 share key/value head n.
      k_BSKH: keys.
      v_BSKH: values.
      mask_BTS: true where a query may look; its first dim may be 1.

    Returns:
      [B, T, N, H] in the dtype of the queries; the softmax is float32.
    """
    batch, length, num_heads, head_dim = q_BTNH.shape
    num_kv_heads = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, num_heads // num_kv_heads, head_dim)
    # Scaled in float32, behind the product: 1/√128 is no power of two, and a query scaled in bfloat16 is a rounded one.
    score_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * head_dim**-0.5
    score_BKGTS = jnp.where(mask_BTS[:, None, None], score_BKGTS, MASKED)
    weight_BKGTS = jax.nn.softmax(score_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weight_BKGTS, v_BSKH).reshape(q_BTNH.shape)
