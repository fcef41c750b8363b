"""The key/value cache of decoding: allocated once at full length, written at a scalar cursor.

Prompts of one batch are right-aligned: every row writes to the same slots, and `valid_BS` hides the padding on the left.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib


class KVCache(NamedTuple):
    """Keys and values of all layers.

    Attributes:
      k_LBSKH: keys, already turned by RoPE; with dynamic scaling by the frequencies of the call that wrote them.
      v_LBSKH: values.
      valid_BS: true where a slot holds a token that is not padding.
      cursor: the next slot to be written, a scalar int32.
    """

    k_LBSKH: arrays.Array
    v_LBSKH: arrays.Array
    valid_BS: arrays.Array
    cursor: arrays.Array


def init(config: config_lib.LlamaConfig, batch: int, length: int, dtype: jnp.dtype = jnp.float32) -> KVCache:
    """An empty cache of `length` slots for `batch` rows."""
    shape = (config.num_hidden_layers, batch, length, config.num_kv_heads, config.head_width)
    return KVCache(
        k_LBSKH=jnp.zeros(shape, dtype),
        v_LBSKH=jnp.zeros(shape, dtype),
        valid_BS=jnp.zeros((batch, length), bool),
        cursor=jnp.zeros((), jnp.int32),
    )


def mark(cache: KVCache, valid_BT: arrays.Array) -> KVCache:
    """Notes which of the T slots from the cursor on will hold real tokens; the cursor stays."""
    valid_BS = jax.lax.dynamic_update_slice(cache.valid_BS, valid_BT, (0, cache.cursor))
    return cache._replace(valid_BS=valid_BS)


def write(
    block_LBSKH: arrays.Array, new_BTKH: arrays.Array, layer: arrays.Array, cursor: arrays.Array
) -> tuple[arrays.Array, arrays.Array]:
    """Writes T tokens of one layer at the cursor; returns (all layers, that layer's [B, S, K, H])."""
    new_1BTKH = new_BTKH[None].astype(block_LBSKH.dtype)
    block_LBSKH = jax.lax.dynamic_update_slice(block_LBSKH, new_1BTKH, (layer, 0, cursor, 0, 0))
    return block_LBSKH, jax.lax.dynamic_index_in_dim(block_LBSKH, layer, axis=0, keepdims=False)
