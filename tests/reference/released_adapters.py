"""Adapter folders as Chinese-LLaMA-Alpaca released them, made of random numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from zhllama_jax.convert import peft, safetensors_io, torch_io
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

# Exactly as released with Chinese-LLaMA-Alpaca, by PEFT of commit 13e53fc, but for the rank.
RELEASED: dict[str, Any] = {
    "bias": "none",
    "enable_lora": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "merge_weights": False,
    "modules_to_save": ["embed_tokens", "lm_head"],
    "peft_type": "LORA",
    "r": 4,
    "target_modules": ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
    "task_type": "CAUSAL_LM",
}


def tensors(
    config: config_lib.LlamaConfig, rank: int = 4, dtype: Any = np.float16, layers: range = range(2), seed: int = 4
) -> dict[str, np.ndarray]:
    """All seven factors of some layers, and all rows, as PEFT names them."""
    rng = np.random.default_rng(seed)
    wide, kv, ffn = config.hidden_size, config.num_kv_heads * config.head_width, config.intermediate_size
    kernels = {
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (wide, kv),
        "self_attn.v_proj": (wide, kv),
        "self_attn.o_proj": (wide, wide),
    }
    kernels |= {"mlp.gate_proj": (wide, ffn), "mlp.up_proj": (wide, ffn), "mlp.down_proj": (ffn, wide)}
    result = {}
    for layer in layers:
        for name, (inputs, outputs) in kernels.items():
            result[f"base_model.model.model.layers.{layer}.{name}.lora_A.weight"] = 0.1 * rng.normal(size=(rank, inputs))
            result[f"base_model.model.model.layers.{layer}.{name}.lora_B.weight"] = 0.1 * rng.normal(size=(outputs, rank))
    result["base_model.model.model.embed_tokens.weight"] = 0.1 * rng.normal(size=(config.vocab_size, wide))
    result["base_model.model.lm_head.weight"] = 0.1 * rng.normal(size=(config.vocab_size, wide))
    return {name: value.astype(dtype) for name, value in result.items()}


def write(folder: Path, found: dict[str, np.ndarray], tokenizer: processor.Tokenizer | None = None, **changes: Any) -> Path:
    """A folder as it was released: adapter_model.bin, adapter_config.json and the tokenizer."""
    folder.mkdir()
    settings = {key: value for key, value in {**RELEASED, **changes}.items() if value != "absent"}
    (folder / peft.CONFIG).write_text(json.dumps(settings))
    stored = {dtype: name for name, dtype in safetensors_io.DTYPES.items()}
    torch_io.write(folder / "adapter_model.bin", {name: (stored[value.dtype], value.shape) for name, value in found.items()}, found.items())
    if tokenizer is not None:
        (folder / "tokenizer.model").write_bytes(tokenizer.serialized)
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
        (folder / "special_tokens_map.json").write_text("{}")
    return folder
