"""`params.json`, Meta's own description of a LLaMA, in and out.

It says less than Hugging Face's `config.json`: the width of the feed-forward layers follows from a formula, the vocabulary may be -1
(ask the tokenizer), and the context length, tied heads and a head width of its own do not exist. What it cannot say is taken from the
tensors or from the caller, or refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhllama_jax import files
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

FILE = "params.json"
MAX_POSITIONS = 2048
_MAX_BYTES = 1 << 20

# Inclusive ranges, wider than any LLaMA.
_WHOLE = {
    "dim": (1, 65_536),
    "n_layers": (1, 1_024),
    "n_heads": (1, 1_024),
    "n_kv_heads": (1, 1_024),
    "vocab_size": (-1, 4_000_000),
    "multiple_of": (1, 1 << 20),
}
_REAL = {
    "norm_eps": (1e-12, 1.0),
    "rope_theta": (1.0, 1e12),
    "ffn_dim_multiplier": (1e-3, 1e3),
    "rope_scaling_factor": (1.0, 1e6),
    "rope_high_freq_factor": (1e-6, 1e6),
}
_REQUIRED = ("dim", "n_layers", "n_heads")
_NEUTRAL = frozenset(("max_batch_size", "max_seq_len", "use_scaled_rope"))
# fmt: off
_CHANGING = frozenset((
    "attention_chunk_size", "hidden_dim", "head_dim", "lora_args", "moe", "moe_args", "nope_layer_interval", "quantization_args",
    "sliding_window", "use_qk_norm", "vision_args", "vision_chunk_size", "vision_max_num_chunks", "vision_num_cross_attention_layers",
))
# fmt: on

# What Meta's code has in place of keys that are absent.
_EPSILON, _THETA = 1e-5, 10_000.0
_FACTOR, _LOW, _HIGH, _ORIGINAL = 8.0, 1.0, 4.0, 8_192
_STRETCHED = 131_072
# LLaMA 3.2's small models (width, layers) are stretched by more, which their params.json does not say.
_FACTORS = {(2048, 16): 32.0, (3072, 28): 32.0}

_MULTIPLES = (256, 1024, 4096, 512, 2048, 8192, 128, 64, 32, 16, 8, 4, 2, 1)


def read(path: str | Path, *, allow_unknown: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The checked contents of a `params.json`, without keys that are null, and notes about what is odd in it.

    Args:
      path: the file.
      allow_unknown: pass over keys that are not known here, which may change the numbers.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a key that changes the numbers and is not supported, an unknown one, or a value out of range; all of them are listed.
    """
    raw = files.read_json(path, what="Meta's description of a model", max_bytes=_MAX_BYTES)
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is not Meta's description of a model: it holds no object")
    found = {key: value for key, value in raw.items() if value is not None}
    problems = [f"{key} changes the numbers and is not supported" for key in sorted(found.keys() & _CHANGING)]
    problems += [f"{key} is missing" for key in _REQUIRED if key not in found]
    problems += [message for key, value in found.items() if (message := _problem(key, value))]
    notes = []
    unknown = sorted(found.keys() - _WHOLE.keys() - _REAL.keys() - _NEUTRAL - _CHANGING)
    if unknown:
        names = ", ".join(key[:40] for key in unknown[:20])
        if allow_unknown:
            notes.append(f"{path}: unknown keys are ignored: {names}")
        else:
            problems.append(f"unknown keys, which may change the numbers: {names}")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    return found, notes


def config(
    params: Mapping[str, Any],
    *,
    vocab_size: int,
    intermediate_size: int,
    max_position_embeddings: int | None = None,
) -> tuple[config_lib.LlamaConfig, list[str]]:
    """The model that checked params describe, and notes about what they leave open.

    Args:
      params: see `read`.
      vocab_size: rows of the vocabulary, from the tensors.
      intermediate_size: width of the feed-forward layers, from the tensors.
      max_position_embeddings: the context length; None takes 2,048, or 131,072 where RoPE is scaled (LLaMA 3.1 and later).

    Raises:
      ValueError: params and tensors contradict each other.
    """
    if params.get("vocab_size", -1) not in (-1, vocab_size):
        raise ValueError(
            f"vocab_size is {params['vocab_size']:,}, the tensors have {vocab_size:,} rows: they belong to two models, or a file is missing"
        )
    if "multiple_of" in params:
        multiple_of, multiplier = params["multiple_of"], params.get("ffn_dim_multiplier")
        formula = width(params["dim"], multiple_of, multiplier)
        if formula != intermediate_size:
            raise ValueError(
                f"multiple_of {multiple_of:,} and ffn_dim_multiplier {multiplier} give feed-forward layers of {formula:,}, the tensors "
                f"have {intermediate_size:,}: they belong to two models, or a file is missing"
            )
    notes = []
    scaling = None
    if params.get("use_scaled_rope"):
        factor = float(params.get("rope_scaling_factor", _factor(params["dim"], params["n_layers"])))
        scaling = rope_config.RopeScaling("llama3", factor, _ORIGINAL, _LOW, float(params.get("rope_high_freq_factor", _HIGH)))
        if "rope_scaling_factor" not in params:
            notes.append(f"{FILE} says use_scaled_rope and not by how much: {factor:g} is taken (LLaMA 3.1 has 8, 3.2's 1B and 3B have 32)")
    positions = max_position_embeddings or (_STRETCHED if scaling else MAX_POSITIONS)
    if max_position_embeddings is None:
        others = "" if scaling else " (LLaMA 2 has 4,096, LLaMA 3 8,192, Code LLaMA 16,384)"
        notes.append(f"{FILE} does not say for which context length the model was trained: {positions:,} tokens are taken{others}")
    found = config_lib.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=params["dim"],
        intermediate_size=intermediate_size,
        num_hidden_layers=params["n_layers"],
        num_attention_heads=params["n_heads"],
        num_key_value_heads=params.get("n_kv_heads"),
        max_position_embeddings=positions,
        rms_norm_eps=float(params.get("norm_eps", _EPSILON)),
        rope_theta=float(params.get("rope_theta", _THETA)),
        rope_scaling=scaling,
    )
    return found, notes


def to_json(config: config_lib.LlamaConfig, *, vocab_size: int = -1) -> dict[str, Any]:
    """The `params.json` of a model; keys that only later releases have stand in it only where they are needed.

    Args:
      config: the model.
      vocab_size: what to say about the vocabulary; -1, as in LLaMA 1 and 2, asks the tokenizer.

    Raises:
      ValueError: the model has something that the format cannot say.
    """
    problems = []
    if config.head_width * config.num_attention_heads != config.hidden_size:
        problems.append(f"a head_dim of {config.head_width}: it is always the width divided by the heads")
    scaling = config.rope_scaling
    if scaling is not None:
        fixed = (scaling.kind, scaling.low_freq_factor, scaling.original_max_position_embeddings)
        if fixed != ("llama3", _LOW, _ORIGINAL):
            problems.append(
                f"RoPE scaling of kind {scaling.kind} with {scaling.parameters}: only llama3's, from 8,192 tokens, exists there"
            )
    if problems:
        raise ValueError(f"Meta's format cannot describe {'; '.join(problems)}")
    multiple_of, multiplier = feed_forward(config.hidden_size, config.intermediate_size)
    result: dict[str, Any] = {"dim": config.hidden_size, "multiple_of": multiple_of}
    if multiplier is not None:
        result["ffn_dim_multiplier"] = multiplier
    result |= {"n_heads": config.num_attention_heads, "n_layers": config.num_hidden_layers}
    if config.num_kv_heads != config.num_attention_heads:
        result["n_kv_heads"] = config.num_kv_heads
    result |= {"norm_eps": config.rms_norm_eps, "vocab_size": vocab_size}
    if config.rope_theta != _THETA or scaling is not None:
        result["rope_theta"] = config.rope_theta
    if scaling is not None:
        result["use_scaled_rope"] = True
        if scaling.factor != _factor(config.hidden_size, config.num_hidden_layers):
            result["rope_scaling_factor"] = scaling.factor
        if scaling.high_freq_factor != _HIGH:
            result["rope_high_freq_factor"] = scaling.high_freq_factor
    return result


def width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """The width of the feed-forward layers by Meta's formula: two thirds of 4·dim, stretched, rounded up to a multiple."""
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple_of) * multiple_of


def feed_forward(dim: int, intermediate_size: int) -> tuple[int, float | None]:
    """(multiple_of, ffn_dim_multiplier) for which the formula gives `intermediate_size`, as round as they can be."""
    for multiple_of in _MULTIPLES:
        if width(dim, multiple_of, None) == intermediate_size:
            return multiple_of, None
    for multiple_of in _MULTIPLES:
        for tenths in range(1, 101):
            if width(dim, multiple_of, tenths / 10) == intermediate_size:
                return multiple_of, tenths / 10
    for digits in range(2, 17):
        multiplier = round((intermediate_size + 0.5) / int(2 * (4 * dim) / 3), digits)
        if width(dim, 1, multiplier) == intermediate_size:
            return 1, multiplier
    raise AssertionError(f"some multiplier of {dim} gives {intermediate_size}")


def _factor(dim: int, num_layers: int) -> float:
    return _FACTORS.get((dim, num_layers), _FACTOR)


def _problem(key: str, value: Any) -> str:
    if key == "use_scaled_rope":
        return "" if isinstance(value, bool) else f"use_scaled_rope must be true or false, got {_brief(value)}"
    if key in _WHOLE:
        low, high = _WHOLE[key]
        fits = type(value) is int and low <= value <= high and value != 0
        return "" if fits else f"{key} must be a whole number from {low:,} to {high:,}{', not 0' * (low < 0)}, got {_brief(value)}"
    if key in _REAL:
        lowest, highest = _REAL[key]
        fits = type(value) in (int, float) and lowest <= value <= highest
        return "" if fits else f"{key} must be a number from {lowest:g} to {highest:g}, got {_brief(value)}"
    return ""


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
