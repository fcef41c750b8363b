"""-ln p of next tokens without ever holding [tokens, vocabulary] logits.

The tokens are cut into chunks; a chunk's logits exist while its log-partition is taken, are dropped, and are made again by the
backward pass. The two vocabulary blocks meet in the log-partition: ln(e^a + e^b).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zhllama_jax import arrays
from zhllama_jax.model import attention, llama
from zhllama_jax.model import config as config_lib


def token_nats(
    config: config_lib.LlamaConfig, params: Mapping[str, Any], x_MD: arrays.Array, targets_M: arrays.Array, *, chunk: int = 512
) -> arrays.Array:
    """-ln p(target) of every token, float32 [M].

    Args:
      config: the model's shape.
      params: holds the head (or the tied embedding); a block that is not differentiated costs no gradient.
      x_MD: final hidden states.
      targets_M: logical ids.
      chunk: tokens whose logits exist at a time (C).
    """
    blocks = llama.head_blocks(config, params)
    num_tokens, width = x_MD.shape
    chunk = min(chunk, num_tokens)
    spare = -num_tokens % chunk
    x_NCD = jnp.pad(x_MD, ((0, spare), (0, 0))).reshape(-1, chunk, width)
    targets_NC = jnp.pad(targets_M, (0, spare)).reshape(-1, chunk)
    heads = [rows_VD for rows_VD, _ in blocks]

    @jax.checkpoint
    def of_chunk(heads: list[arrays.Array], x_CD: arrays.Array, targets_C: arrays.Array) -> arrays.Array:
        partition_C: Any = None
        score_C: Any = 0.0
        first = 0
        for rows_VD, (_, rows) in zip(heads, blocks, strict=True):
            logits_CV = jnp.einsum("CD,VD->CV", x_CD, rows_VD.astype(x_CD.dtype), preferred_element_type=jnp.float32)
            if rows < rows_VD.shape[0]:
                logits_CV = jnp.where(jnp.arange(rows_VD.shape[0])[None] < rows, logits_CV, attention.MASKED)
            block_C = jax.nn.logsumexp(logits_CV, axis=-1)
            partition_C = block_C if partition_C is None else jnp.logaddexp(partition_C, block_C)
            inside_C = (targets_C >= first) & (targets_C < first + rows)
            column_C = jnp.where(inside_C, targets_C - first, 0)
            taken_C = jnp.take_along_axis(logits_CV, column_C[:, None], axis=-1)[:, 0]
            score_C = score_C + jnp.where(inside_C, taken_C, 0.0)
            first += rows
        assert partition_C is not None, "a model has at least the base block"
        return partition_C - score_C

    if x_NCD.shape[0] == 1:
        nats_NC = of_chunk(heads, x_NCD[0], targets_NC[0])[None]
    else:
        nats_NC = jax.lax.map(lambda pair: of_chunk(heads, *pair), (x_NCD, targets_NC))
    return nats_NC.reshape(-1)[:num_tokens]
