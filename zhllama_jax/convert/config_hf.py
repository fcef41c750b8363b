"""A Hugging Face `config.json` in and out.

Every key of the file is accounted for. It is used; or it leaves the numbers alone, and is kept for the next file if it says something
about the model, dropped if it says who wrote the file or how to run it; or it must hold the one value under which it changes nothing;
or nobody knows it, and then the file is refused unless the caller allows unknown keys. What transformers 4 and 5 spell differently
(RoPE, dtype) is read in both spellings and written in both.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from zhllama_jax import files, lines
from zhllama_jax.convert import rope_hf
from zhllama_jax.model import config as config_lib

MAX_CONFIG_BYTES = 1 << 20
MAX_LAYERS = 1_024

# Inclusive ranges, wider than any LLaMA: a config is read before anything is allocated by it.
_WHOLE = {
    "vocab_size": (1, 4_000_000),
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 262_144),
    "num_hidden_layers": (1, MAX_LAYERS),
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
    "attention_out_bias": (None, False),
    "qkv_bias": (None, False),
    "mlp_bias": (None, False),
    "lm_head_bias": (None, False),
    "hidden_act": (None, "silu", "swish"),
    "partial_rotary_factor": (None, 1, 1.0),
    "rope_interleaved": (None, False),
    "no_rope_layers": (None,),
    "alibi": (None, False),
    "quantization_config": (None,),
    "compression_config": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (None, False),
    "layer_types": (None,),
    "auto_map": (None,),
    "custom_pipelines": (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "pruned_heads": (None, {}),
    "qk_norm": (None, False),
    "use_qk_norm": (None, False),
    "qk_layernorm": (None, False),
    "clip_qkv": (None,),
    "query_pre_attn_scalar": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "residual_multiplier": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "logits_scaling": (None, 1, 1.0),
    "logit_scale": (None, 1, 1.0),
    "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1),
}

# Keys without an effect on the numbers that say something about the model, with the types of their values: they go on to the next file.
_NUMBER = (int, float)
_KEPT: Mapping[str, tuple[type, ...]] = {
    "attention_dropout": _NUMBER,
    "finetuning_task": (str,),
    "id2label": (dict,),
    "initializer_range": _NUMBER,
    "is_llama_config": (bool,),
    "label2id": (dict,),
    "max_sequence_length": (int,),
    "pretraining_tp": (int,),
    "problem_type": (str,),
    "task_specific_params": (dict,),
    "transformers.js_config": (dict,),
    "use_cache": (bool,),
}

# Keys without such an effect that would be wrong or void in another file: who wrote it and with what, how to run the model, what our own
# files say better (dtype, tokenizer, decoding), and what transformers once wrote into every file.
# fmt: off
_DROPPED = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash", "_name_or_path",
    "architectures", "attn_implementation", "dtype", "model_type", "tokenizer_class", "torch_dtype", "transformers_version",
    "unsloth_fixed", "unsloth_version",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "gradient_checkpointing", "is_decoder", "output_attentions",
    "output_hidden_states", "return_dict", "tf_legacy_loss", "tie_encoder_decoder", "torchscript", "use_bfloat16", "use_return_dict",
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "temperature", "top_k",
    "top_p", "typical_p",
))
# fmt: on
_ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")
_KNOWN = {*_WHOLE, *_REAL, *_ONLY, *_KEPT, *_DROPPED, *rope_hf.KEYS, "tie_word_embeddings"}


NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The kept keys of a model that has none."""


class Contents(NamedTuple):
    """What a `config.json` says.

    Attributes:
      config: the model's shape.
      notes: what is odd and harmless, as sentences.
      kept: neutral keys that the next `config.json` of the model takes over, see `to_json`.
    """

    config: config_lib.LlamaConfig
    notes: list[str]
    kept: dict[str, Any]


def read(path: str | Path, *, allow_unknown: bool = False) -> Contents:
    """Reads a `config.json`.

    Args:
      path: the file.
      allow_unknown: pass over keys that nobody knows, with a note; they are not kept. (One that is null says nothing and needs no leave.)

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another kind of model, a key that changes the numbers and is not supported, one that is unknown, or a value out of
        range; all of them are listed.
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
    rope = rope_hf.read(raw)
    problems += rope.problems
    notes = list(rope.notes)
    fields = {key: raw[key] for key in _WHOLE if raw.get(key) is not None}
    _read_ids(fields, notes)
    fields.update({key: raw[key] for key in ("rms_norm_eps",) if raw.get(key) is not None})
    fields["rope_theta"] = rope.theta
    problems += [f"{key} is missing" for key in _REQUIRED if key not in fields]
    problems += [message for key, value in fields.items() if (message := _range_problem(key, value))]
    tied = raw.get("tie_word_embeddings")
    if tied not in (None, False, True):
        problems.append(f"tie_word_embeddings must be true or false, got {_brief(tied)}")
    unknown = [lines.printable(key, 40) for key in sorted([*(key for key in raw.keys() - _KNOWN if raw[key] is not None), *rope.unknown])]
    if unknown and not allow_unknown:
        problems.append(
            f"{_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown and may change the numbers; if you know that nothing does, "
            "write the model anew without it: `zhllama convert --allow_unknown_keys`"
        )
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    if unknown:
        notes.append(f"{path}: unknown keys are passed over, and not written again: {_listed(unknown)}")
    try:
        config = config_lib.LlamaConfig(tie_word_embeddings=bool(tied), rope_scaling=rope.scaling, **fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Contents(config, notes, _kept(raw))


def to_json(config: config_lib.LlamaConfig, dtype: str, kept: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The `config.json` of a model whose weights are stored in `dtype` ("bfloat16", …), for transformers 4 and 5 alike.

    Neutral keys in `kept` (`Contents.kept`) take the place of our own values; others are not written.
    """
    ours = {
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
        **rope_hf.to_json(config),
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
    return ours | {key: value for key, value in kept.items() if key in _KEPT}


def _kept(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The neutral keys that go on, as far as their values are of a fitting type."""
    return {key: raw[key] for key, types in _KEPT.items() if type(raw.get(key)) in types}


def _read_ids(fields: dict[str, Any], notes: list[str]) -> None:
    """Resolves the spellings of special ids: several end ids, and -1 for none."""
    if isinstance(fields.get("eos_token_id"), list):
        ids = fields["eos_token_id"]
        notes.append(f"eos_token_id lists {ids[:8]}: the first one ends a text")
        fields["eos_token_id"] = ids[0] if ids else None
    if fields.get("pad_token_id") == -1:
        notes.append("pad_token_id -1 is read as: no padding piece")
        del fields["pad_token_id"]


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


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
