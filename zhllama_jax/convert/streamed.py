"""Logits of a model that is never in memory: its layers are read, run and let go one after the other."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import tree
from zhllama_jax.convert import names, peft, view
from zhllama_jax.lora import merge
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import layers, llama

PROMPTS = 2
PROMPT_TOKENS = 32
_AT_ONCE = 8192
"""Rows of the head that are float32 at a time."""


def prompts(vocab_size: int) -> np.ndarray:
    """Texts [B, T] of a vocabulary, 64 tokens together: BOS and random ids, always the same."""
    tokens_BT = np.random.default_rng(0).integers(0, vocab_size, (PROMPTS, PROMPT_TOKENS))
    tokens_BT[:, 0] = min(config_lib.LlamaConfig.bos_token_id, vocab_size - 1)
    return tokens_BT


def logits(made: view.View, tokens_BT: np.ndarray, adapters: Sequence[peft.Adapter] = ()) -> np.ndarray:
    """Float32 logits [B, T, V] of a model, computed in float32 at the highest precision.

    Args:
      made: the model.
      tokens_BT: ids.
      adapters: computed beside their kernels, not folded in; their rows take the place of the model's, in order.
    """
    config = made.config
    layer_tensors: list[list[names.Tensor]] = [[] for _ in range(config.num_hidden_layers)]
    for tensor in names.tensors(config):
        if tensor.layer is not None:
            layer_tensors[tensor.layer].append(tensor)
    with jax.default_matmul_precision("highest"):
        x_BTD = jnp.asarray(_rows(made, config_lib.MATRICES[0], adapters)[tokens_BT], jnp.float32)
        run = jax.jit(lambda weights, x_BTD: llama.layer(config, weights, x_BTD))
        for tensors in layer_tensors:
            x_BTD = run(_weights(made, tensors, adapters), x_BTD)
        norm = {"params": {"weight": jnp.asarray(made.read("model.norm.weight"), jnp.float32)}}
        x_MD = layers.RMSNorm(config.rms_norm_eps, jnp.dtype(jnp.float32)).apply(norm, x_BTD.reshape(-1, config.hidden_size))
        head_VD = _rows(made, config.head_matrix, adapters)
        starts = range(0, config.vocab_size, _AT_ONCE)
        parts = [np.asarray(x_MD @ jnp.asarray(head_VD[start : start + _AT_ONCE], jnp.float32).T) for start in starts]
    return np.concatenate(parts, axis=-1).reshape(*tokens_BT.shape, -1)


def _rows(made: view.View, matrix: str, adapters: Sequence[peft.Adapter]) -> np.ndarray:
    """A vocabulary's matrix [V, D], float32 where adapters have rows of it."""
    value_VD = made.read(names.matrix(matrix))
    for adapter in adapters:
        if matrix in adapter.rows:
            some = adapter.rows[matrix]
            value_VD = np.array(value_VD, np.float32)
            value_VD[some.ids] = some.values_VD
    return value_VD


def _weights(made: view.View, tensors: Sequence[names.Tensor], adapters: Sequence[peft.Adapter]) -> dict[str, Any]:
    """One layer's collections; several adapters of a kernel are one, with the sum of their ranks."""
    params: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    for tensor in tensors:
        path = tensor.path.removeprefix("params/layers/")
        value = made.read(tensor.name)
        params[path] = jnp.asarray(value.T if tensor.form == "kernel" else value, jnp.float32)
        module = path.removesuffix("/kernel")
        if tensor.form == "kernel" and (parts := view.factors(adapters, f"layers/{module}", tensor.layer)):
            joined = merge.joined(parts)
            lora |= {f"{module}/a": joined.a_IR, f"{module}/b": joined.b_RO, f"{module}/scale": joined.scale}
    return {"params": tree.unflatten(params), "lora": tree.unflatten(lora)}
