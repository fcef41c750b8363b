"""The two orders of a head's rows under RoPE.

RoPE turns the numbers of a query or key in pairs. Hugging Face pairs number i of a head with number i + H/2, Meta's own code and
llama.cpp number 2i with number 2i + 1. So the rows of q_proj and k_proj stand in one order here and in another there, head by head:

    halves      0 1 2 … H/2-1 | H/2 H/2+1 …        neighbours  0 H/2 1 H/2+1 2 …
"""

import numpy as np

from zhllama_jax.model import config as config_lib


def neighbours(name: str, array: np.ndarray, config: config_lib.LlamaConfig) -> np.ndarray:
    """A tensor with a name of Hugging Face's, its paired rows moved side by side; itself where RoPE turns nothing."""
    heads = _heads(name, config)
    return array if heads is None else array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)


def halves(name: str, array: np.ndarray, config: config_lib.LlamaConfig) -> np.ndarray:
    """The inverse of `neighbours`."""
    heads = _heads(name, config)
    return array if heads is None else array.reshape(heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)


def _heads(name: str, config: config_lib.LlamaConfig) -> int | None:
    """How many heads the rows of a tensor make up, if RoPE turns them."""
    if name.endswith("self_attn.q_proj.weight"):
        return config.num_attention_heads
    return config.num_kv_heads if name.endswith("self_attn.k_proj.weight") else None
