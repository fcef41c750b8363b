"""A Hugging Face `config.json` in and out.

Every key of the file is accounted for: it is used, or it is known to leave the numbers alone, or it must hold the one value under which it
does, or the caller is told that it is unknown. What transformers 4 and 5 spell differently (RoPE, dtype) is read in both spellings
and written in both.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhllama_jax import files
from zhllama_jax.model import config as config_lib

MAX_CONFIG_BYTES = 1 << 20

# Inclusive ranges, wider than any LLaMA: a config is read before anything is allocated by it.
_WHOLE = {
    "vocab_size": (1, 4_000_000),
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 262_144),
    "num_hidden_layers": (1, 1_024),
    "num_attention_heads": (1, 1_024),
    "num_key_value_heads": (1, 1_024),
    "head_dim": (2, 4_096),
    "max_position_embeddings": (1, 1 << 26),
    "base_vocab_size": (1, 4_000_000),
    "bos_token_id": (0, 4_000_000),
    "eos_token_id": (0, 4_000_000),
    "pad_token_id": (0, 4_000_000),
}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_REAL = {"rms_norm_eps": (1e-12, 1.0), "rope_theta": (1.0, 1e12)}

# Keys that would change the numbers, with the values under which they do not.
_ONLY: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "hidden_act": (None, "silu", "swish"),
    "partial_rotary_factor": (None, 1, 1.0),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (None, False),
    "auto_map": (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "pruned_heads": (None, {}),
    "residual_multiplier": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "logits_scaling": (None, 1, 1.0),
    "num_local_experts": (None, 0, 1),
}

# Keys without an effect on the numbers of a forward pass.
# fmt: off
_NEUTRAL = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "attention_dropout",
    "attn_implementation", "dtype", "finetuning_task", "id2label", "initializer_range", "is_decoder", "label2id", "max_sequence_length",
    "model_type", "output_attentions", "output_hidden_states", "pretraining_tp", "problem_type", "return_dict", "tokenizer_class",
    "torch_dtype", "torchscript", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
))
# fmt: on
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")


def read(path: str | Path) -> tuple[config_lib.LlamaConfig, list[str]]:
    """The model that a `config.json` describes, and notes about what in it is odd but harmless.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another kind of model, a key that changes the numbers and is not supported, or a value out of range; all of them
        are listed.
    """
    raw = files.read_json(path, what="a model's config.json", max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is not a model's config.json: it holds no object")
    kind, architectures = raw.get("model_type"), raw.get("architectures")
    if kind != "llama" or (architectures and not any(name in _ARCHITECTURES for name in _list(architectures))):
        raise ValueError(
            f"{path} describes model_type {kind!r}, architectures {architectures}: only LLaMA for causal language modelling is in scope"
        )
    problems = [
        f"{key} = {_brief(raw[key])} changes the numbers and is not supported (allowed: {', '.join(map(repr, allowed))})"
        for key, allowed in _ONLY.items()
        if key in raw and not any(raw[key] is value or (type(raw[key]) is type(value) and raw[key] == value) for value in allowed)
    ]
    notes: list[str] = []
    fields = {key: raw[key] for key in _WHOLE if raw.get(key) is not None}
    _read_ids(fields, notes)
    fields.update({key: raw[key] for key in ("rms_norm_eps",) if raw.get(key) is not None})
    fields["rope_theta"] = _rope_theta(raw, problems)
    problems += [f"{key} is missing" for key in _REQUIRED if key not in fields]
    problems += [message for key, value in fields.items() if (message := _range_problem(key, value))]
    tied = raw.get("tie_word_embeddings")
    if tied not in (None, False, True):
        problems.append(f"tie_word_embeddings must be true or false, got {_brief(tied)}")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    unknown = sorted(raw.keys() - _WHOLE.keys() - _REAL.keys() - _ONLY.keys() - _NEUTRAL - {*_ROPE, "tie_word_embeddings"})
    if unknown:
        notes.append(f"{path}: unknown keys are ignored: {', '.join(key[:40] for key in unknown[:20])}")
    try:
        return config_lib.LlamaConfig(tie_word_embeddings=bool(tied), **fields), notes
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_json(config: config_lib.LlamaConfig, dtype: str) -> dict[str, Any]:
    """The `config.json` of a model whose weights are stored in `dtype` ("bfloat16", …), for transformers 4 and 5 alike."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "base_vocab_size": config.base_rows,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": 0.02,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _read_ids(fields: dict[str, Any], notes: list[str]) -> None:
    """Resolves the spellings of special ids: several end ids, and -1 for none."""
    if isinstance(fields.get("eos_token_id"), list):
        ids = fields["eos_token_id"]
        notes.append(f"eos_token_id lists {ids[:8]}: the first one ends a text")
        fields["eos_token_id"] = ids[0] if ids else None
    if fields.get("pad_token_id") == -1:
        notes.append("pad_token_id -1 is read as: no padding piece")
        del fields["pad_token_id"]


def _rope_theta(raw: Mapping[str, Any], problems: list[str]) -> Any:
    """The base of the rotary frequencies from either spelling; anything but plain RoPE is a problem."""
    bases = {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
    for key in ("rope_scaling", "rope_parameters"):
        value = raw.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            problems.append(f"{key} must be an object or null, got {_brief(value)}")
            continue
        kind = value.get("rope_type", value.get("type", "default"))
        if kind != "default":
            problems.append(f"{key} asks for RoPE of type {_brief(kind)}; only plain RoPE ('default') is supported")
            continue
        odd = sorted(value.keys() - {"rope_type", "type", "rope_theta"})
        if odd:
            problems.append(f"{key} has {', '.join(odd)}, which plain RoPE does not know")
        if value.get("rope_theta") is not None:
            bases[f"{key}.rope_theta"] = value["rope_theta"]
    if any(base != next(iter(bases.values())) for base in bases.values()):
        both = ", ".join(f"{key} {_brief(base)}" for key, base in bases.items())
        problems.append(f"{both}: versions of transformers would disagree about the model; make them equal")
    return next(iter(bases.values()), 10_000.0)


def _range_problem(key: str, value: Any) -> str:
    if key in _WHOLE:
        low, high = _WHOLE[key]
        if type(value) is not int or not low <= value <= high:
            return f"{key} must be a whole number from {low:,} to {high:,}, got {_brief(value)}"
        return ""
    lowest, highest = _REAL[key]
    if not _is_real(value) or not lowest <= value <= highest:
        return f"{key} must be a number from {lowest:g} to {highest:g}, got {_brief(value)}"
    return ""


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and (type(value) is int or math.isfinite(value))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
