"""Random weights that make a tiny model lively, and the same weights under Hugging Face's names, copied by hand.

`llama.init` draws N(0, 0.02²): a tiny model then looks almost evenly at all tokens and its norms are all one, so that a wrong
mask, scale or norm hardly shows. Here every activation is of order one and attention is peaked.
"""

import zlib

import numpy as np

from zhllama_jax import arrays, tree
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama


def lively(config: config_lib.LlamaConfig, seed: int = 0) -> arrays.Tree:
    """Float32 NumPy weights of order-one activations; each leaf depends only on the seed and its path, spare rows are zero."""
    rows = {"base": config.base_rows, "extension": config.extension_rows}

    def draw(path: str, leaf: arrays.Array) -> np.ndarray:
        noise = np.random.default_rng([seed, zlib.crc32(path.encode())]).standard_normal(leaf.shape)
        module, _, name = path.rpartition("/")
        if name == "kernel":
            noise *= (2 if module.endswith(("q_proj", "k_proj")) else 1) / np.sqrt(leaf.shape[1])
        elif name == "weight":
            noise = 1 + 0.3 * noise
        else:
            noise[rows[name] :] = 0
            noise *= 1 if module == "embed_tokens" else 1 / np.sqrt(leaf.shape[1])
        return noise.astype(np.float32)

    return tree.map_with_path(draw, llama.abstract(config))


def hf_state(config: config_lib.LlamaConfig, params: arrays.Tree) -> dict[str, np.ndarray]:
    """The weights as a LLaMA state dict of Hugging Face: one entry a layer, matrices [out, in], one vocabulary without spare rows."""

    def vocabulary(blocks: arrays.Tree) -> np.ndarray:
        kept = [np.asarray(blocks["base"])[: config.base_rows]]
        if "extension" in blocks:
            kept.append(np.asarray(blocks["extension"])[: config.vocab_size - config.base_rows])
        return np.concatenate(kept)

    state = {
        "model.embed_tokens.weight": vocabulary(params["embed_tokens"]),
        "model.norm.weight": np.asarray(params["norm"]["weight"]),
    }
    if "lm_head" in params:
        state["lm_head.weight"] = vocabulary(params["lm_head"])
    for layer in range(config.num_hidden_layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            state[f"model.layers.{layer}.{name}.weight"] = np.asarray(params["layers"][name]["weight"][layer])
        for part, names in (("self_attn", "q_proj k_proj v_proj o_proj"), ("mlp", "gate_proj up_proj down_proj")):
            for name in names.split():
                state[f"model.layers.{layer}.{part}.{name}.weight"] = np.asarray(params["layers"][part][name]["kernel"][layer]).T
    return state
