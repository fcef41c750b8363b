"""What a GGUF file says about a LLaMA, in llama.cpp's keys: its shape, its RoPE, how its numbers are stored; both ways.

RoPE scaling: `linear` and `yarn` are keys; `llama3` is a tensor of divisors of the frequencies, `rope_freqs.weight` (F32, [H/2]);
`dynamic` does not exist in llama.cpp and is refused, as is a yarn with another ramp than the usual one. What the format has no key for
stands under `zhllama.`, which llama.cpp passes over: the size of the original vocabulary, the parameters of `llama3`, how instructions
were put.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zhllama_jax.convert import gguf_file, manifest
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope, rope_config

ARCHITECTURE = "llama"
ROPE_FREQS = "rope_freqs.weight"
_OURS = "zhllama"
_QUANTIZATION_VERSION = 2
_FILE_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
"""What most of a file's matrices are, in llama.cpp's numbers."""

# Our field, llama.cpp's key, inclusive range: wider than any LLaMA, since nothing may be allocated by a claim.
_WHOLE: Mapping[str, tuple[str, int, int]] = {
    "max_position_embeddings": ("context_length", 1, 1 << 26),
    "hidden_size": ("embedding_length", 1, 65_536),
    "num_hidden_layers": ("block_count", 1, 1_024),
    "intermediate_size": ("feed_forward_length", 1, 262_144),
    "num_attention_heads": ("attention.head_count", 1, 1_024),
    "num_key_value_heads": ("attention.head_count_kv", 1, 1_024),
}
_REAL: Mapping[str, tuple[str, float, float]] = {
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon", 1e-12, 1.0),
    "rope_theta": ("rope.freq_base", 1.0, 1e12),
}
_OPTIONAL = ("num_key_value_heads", "rope_theta", "max_position_embeddings")
_IDS: Mapping[str, str] = {"bos": "bos", "eos": "eos", "pad": "padding"}
_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
_SCALING = ("type", "factor", "original_context_length", "attn_factor")
_YARN = (32.0, 1.0)
"""beta_fast and beta_slow: llama.cpp reads keys for them in other architectures only."""

# Keys that would change the numbers, with the values under which they do not.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.scale": (0.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_beta_fast": _YARN[:1],
    "rope.scaling.yarn_beta_slow": _YARN[1:],
    "rope.scale_linear": (1.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
}
# Keys without an effect on the numbers of a forward pass.
_NEUTRAL = ("tensor_data_layout", "rope.scaling.finetuned")
_LLAMA3 = (8.0, 32.0)
"""The factors of the released LLaMA-3.1 and 3.2, whose other parameters are equal: what a file's divisors are held against."""


def keys(config: config_lib.LlamaConfig, *, dtype: str, name: str, prompt: manifest.Prompt | None) -> dict[str, gguf_file.Value]:
    """The metadata of a model, but for its vocabulary (see `gguf_vocab`).

    Args:
      config: the model's shape.
      dtype: the type of its matrices, one of `gguf_quant.WRITABLE`.
      name: what llama.cpp will call the model.
      prompt: how instructions were put to it in training, if they were.

    Raises:
      ValueError: its RoPE scaling does not exist in llama.cpp.
    """
    said: dict[str, gguf_file.Value] = {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": name,
        "general.quantization_version": _QUANTIZATION_VERSION,
        "general.file_type": _FILE_TYPES[dtype],
        f"{ARCHITECTURE}.vocab_size": config.vocab_size,
    }
    said |= {f"{ARCHITECTURE}.{key}": getattr(config, field) for field, (key, *_) in _WHOLE.items()}
    said |= {f"{ARCHITECTURE}.{key}": float(getattr(config, field)) for field, (key, *_) in _REAL.items()}
    said[f"{ARCHITECTURE}.rope.dimension_count"] = config.head_width
    if config.head_width * config.num_attention_heads != config.hidden_size:
        said |= {f"{ARCHITECTURE}.{key}": config.head_width for key in _WIDTHS[:2]}
    said |= _scaling_keys(config)
    if config.extension_rows:
        said[f"{_OURS}.base_vocab_size"] = config.base_rows
    if prompt is not None:
        said |= {f"{_OURS}.prompt.{field}": value for field, value in prompt._asdict().items()}
    return said


def rope_divisors(config: config_lib.LlamaConfig) -> np.ndarray | None:
    """What each rotary frequency is divided by, float32 [H/2]: the tensor `ROPE_FREQS`; None for models that need none."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    plain_h, scaled_h = (
        rope.frequencies(head_dim=config.head_width, theta=config.rope_theta, scaling=kind).astype(np.float64) for kind in (None, scaling)
    )
    return (plain_h / scaled_h).astype(np.float32)


def _scaling_keys(config: config_lib.LlamaConfig) -> dict[str, gguf_file.Value]:
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    if scaling.kind == "dynamic":
        raise ValueError(
            "RoPE scaling of kind dynamic does not exist in llama.cpp: export to another format, or set rope_scaling to null (texts "
            f"of up to {config.max_position_embeddings:,} tokens come out the same) and stretch longer ones in llama.cpp (--rope-scaling)"
        )
    if scaling.kind == "llama3":
        values = (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings)
        return {f"{_OURS}.rope.llama3": np.array(values, np.float64)}
    prefix = f"{ARCHITECTURE}.rope.scaling"
    said: dict[str, gguf_file.Value] = {f"{prefix}.type": scaling.kind, f"{prefix}.factor": scaling.factor}
    if scaling.kind == "linear":
        return said
    if not scaling.truncate or (scaling.beta_fast, scaling.beta_slow) != _YARN:
        raise ValueError(
            f"yarn with beta_fast {scaling.beta_fast:g}, beta_slow {scaling.beta_slow:g}, truncate {scaling.truncate} cannot be said in a "
            f"LLaMA's GGUF file, whose ramp goes from {_YARN[0]:g} to {_YARN[1]:g} turns with rounded ends: export to another format"
        )
    assert scaling.original_max_position_embeddings is not None, "LlamaConfig fills it in"
    said[f"{prefix}.original_context_length"] = scaling.original_max_position_embeddings
    # llama.cpp multiplies by 1 + 0.1 ln(factor) by itself.
    share = scaling.attention_scale / (1 + 0.1 * math.log(scaling.factor))
    if abs(share - 1) > 1e-6:
        said[f"{prefix}.attn_factor"] = share
    return said


def read_config(
    metadata: Mapping[str, Any], *, rows: int, tied: bool, divisors: np.ndarray | None, allow_unknown: bool = False
) -> config_lib.LlamaConfig:
    """The model that a file's metadata describe.

    Args:
      metadata: by key, as `gguf_file.read` gives it.
      rows: of the embedding.
      tied: whether the file has no head of its own.
      divisors: its `ROPE_FREQS`, if it has them.
      allow_unknown: pass over keys about the model that are not known here, which may change the numbers.

    Raises:
      ValueError: another architecture, a key that changes the numbers and is not supported, or a value out of range; all are listed.
    """
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ValueError(f"it holds a model of architecture {_brief(architecture)}: only {ARCHITECTURE!r} is in scope")
    said = {key.removeprefix(f"{ARCHITECTURE}."): value for key, value in metadata.items() if key.startswith(f"{ARCHITECTURE}.")}
    problems = [
        f"{key} = {_brief(said[key])} changes the numbers and is not supported (allowed: {', '.join(map(str, allowed))})"
        for key, allowed in _ONLY.items()
        if key in said and not any(type(said[key]) is type(value) and said[key] == value for value in allowed)
    ]
    fields: dict[str, Any] = {}
    for field, (key, low, high) in {**_WHOLE, **_REAL}.items():
        value = said.get(key)
        kind = int if field in _WHOLE else float
        if value is None and field in _OPTIONAL:
            continue
        if type(value) is kind and low <= value <= high:
            fields[field] = value if field in _WHOLE else _decimal(value)
        else:
            problems.append(f"{key} must be one {'whole ' * (kind is int)}number from {low:,} to {high:,}, found {_brief(value)}")
    problems += [] if problems else _width(said, fields)
    if said.get("vocab_size", rows) != rows:
        problems.append(f"vocab_size is {_brief(said['vocab_size'])}, the embedding has {rows:,} rows")
    scaling = None if problems else _scaling(metadata, said, fields, divisors, problems)
    known = {key for key, *_ in (*_WHOLE.values(), *_REAL.values())} | {*_WIDTHS, *_ONLY, *_NEUTRAL, "vocab_size"}
    unknown = sorted(said.keys() - known - {f"rope.scaling.{key}" for key in _SCALING})
    if unknown and not allow_unknown:
        problems.append(f"unknown keys, which may change the numbers: {', '.join(key[:40] for key in unknown[:20])}")
    if problems:
        raise ValueError("; ".join(problems))
    base = metadata.get(f"{_OURS}.base_vocab_size")
    ids = {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _IDS.items()}
    return config_lib.LlamaConfig(
        vocab_size=rows,
        base_vocab_size=base if type(base) is int else None,
        tie_word_embeddings=tied,
        rope_scaling=scaling,
        **{name: id_ for name, id_ in ids.items() if type(id_) is int},
        **fields,
    )


def read_prompt(metadata: Mapping[str, Any]) -> manifest.Prompt | None:
    """How instructions were put to a model, where the file was written here and says it; None for others.

    Raises:
      ValueError: it says something that is no such way.
    """
    said = {field: metadata.get(f"{_OURS}.prompt.{field}") for field in manifest.Prompt._fields}
    if said["template"] is None:
        return None
    try:
        return manifest.prompt({"prompt": said})
    except ValueError:
        raise ValueError(f"{_OURS}.prompt says {_brief(said)}, which is no way to put instructions to a model") from None


def _width(said: Mapping[str, Any], fields: dict[str, Any]) -> list[str]:
    """Fills in `head_dim`; the ways to say it must agree."""
    widths = {key: said[key] for key in _WIDTHS if key in said}
    wrong = [f"{key} must be one whole number from 2 to 4,096, found {_brief(value)}" for key, value in widths.items() if _no_width(value)]
    if wrong or not widths:
        return wrong
    if len(set(widths.values())) > 1:
        return [f"{', '.join(f'{key} {value}' for key, value in widths.items())}: heads of several widths are not supported"]
    fields["head_dim"] = width = next(iter(widths.values()))
    if not widths.keys() & set(_WIDTHS[:2]) and width * fields["num_attention_heads"] != fields["hidden_size"]:
        return [f"rope.dimension_count {width}: RoPE over a part of a head is not supported"]
    return []


def _no_width(value: Any) -> bool:
    return type(value) is not int or not 2 <= value <= 4096


def _scaling(
    metadata: Mapping[str, Any], said: Mapping[str, Any], fields: Mapping[str, Any], divisors: np.ndarray | None, problems: list[str]
) -> rope_config.RopeScaling | None:
    """The RoPE scaling that keys, or the tensor of divisors, describe."""
    found = {key: said[f"rope.scaling.{key}"] for key in _SCALING if f"rope.scaling.{key}" in said}
    kind = found.get("type", "linear" if "factor" in found else "none")  # llama.cpp's defaults
    if kind != "yarn" and found.get("attn_factor", 1.0) != 1.0:
        problems.append(f"rope.scaling.attn_factor {_brief(found['attn_factor'])} without yarn is not supported")
    if divisors is not None:
        if kind != "none":
            problems.append(f"both {ROPE_FREQS} and RoPE scaling of type {_brief(kind)}")
            return None
        return _llama3(metadata, fields, divisors, problems)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn") or any(type(value) not in (int, float) for key, value in found.items() if key != "type"):
        problems.append(f"RoPE scaling {_brief(found)}: only linear and yarn, with a number for each parameter, are read here")
        return None
    factor = _decimal(found.get("factor", 0.0))
    values: dict[str, Any] = {}
    if kind == "yarn":
        values["original_max_position_embeddings"] = found.get("original_context_length")
        if "attn_factor" in found and factor > 0:
            values["attention_factor"] = _decimal(found["attn_factor"] * (1 + 0.1 * math.log(factor)))
    try:
        return rope_config.RopeScaling(kind, factor, **values)
    except ValueError as error:
        problems.append(str(error))
        return None


def _llama3(
    metadata: Mapping[str, Any], fields: Mapping[str, Any], divisors: np.ndarray, problems: list[str]
) -> rope_config.RopeScaling | None:
    """The parameters behind divisors: those that the file names, or else those of a released model; either must give the divisors."""
    width = fields.get("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    theta = fields.get("rope_theta", config_lib.LlamaConfig.rope_theta)
    named = metadata.get(f"{_OURS}.rope.llama3")
    candidates = [np.array((factor, 1, 4, 8192)) for factor in _LLAMA3]
    if isinstance(named, np.ndarray) and named.shape == (4,) and np.isfinite(named).all():
        candidates = [named]
    if divisors.shape == (width // 2,):
        for factor, low, high, original in map(np.ndarray.tolist, candidates):
            try:
                scaling = rope_config.RopeScaling(
                    "llama3", factor, original_max_position_embeddings=int(original), low_freq_factor=low, high_freq_factor=high
                )
            except ValueError:
                continue
            plain_h, scaled_h = (rope.frequencies(head_dim=width, theta=theta, scaling=kind) for kind in (None, scaling))
            if np.allclose(divisors * scaled_h, plain_h, rtol=1e-5, atol=0):
                return scaling
    problems.append(f"{ROPE_FREQS} holds divisors of the rotary frequencies that belong to no scaling known here")
    return None


def _decimal(value: float) -> float:
    """A float32 as the shortest decimal that means it: 1e-06 and not 9.99999997e-07."""
    return float(str(np.float32(value)))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
