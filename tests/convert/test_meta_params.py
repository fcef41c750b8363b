"""params.json of every release is read; what we write gives the same model; what would change the numbers is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhllama_jax.convert import meta_params
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

# params.json as released -> (rows of the vocabulary, feed-forward width) of its tensors.
RELEASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "LLaMA 7B": ({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}, 32_000, 11_008),
    "LLaMA 13B": ({"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-06, "vocab_size": -1}, 49_953, 13_824),
    "LLaMA 33B": ({"dim": 6656, "multiple_of": 256, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-06, "vocab_size": -1}, 32_000, 17_920),
    "LLaMA 65B": ({"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}, 32_000, 22_016),
    "LLaMA 2 70B": (
        {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-05,
         "vocab_size": -1}, 32_000, 28_672,
    ),
    "Code LLaMA 7B": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256, "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "rope_theta": 10**6},
        32_016, 11_008,
    ),
    "LLaMA 3 8B": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024, "ffn_dim_multiplier": 1.3,
         "norm_eps": 1e-05, "rope_theta": 500000.0}, 128_256, 14_336,
    ),
    "LLaMA 3.1 8B": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "ffn_dim_multiplier": 1.3, "multiple_of": 1024,
         "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True}, 128_256, 14_336,
    ),
    "LLaMA 3.2 1B": (
        {"dim": 2048, "ffn_dim_multiplier": 1.5, "multiple_of": 256, "n_heads": 32, "n_kv_heads": 8, "n_layers": 16, "norm_eps": 1e-05,
         "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256}, 128_256, 8_192,
    ),
}  # fmt: skip


def read(tmp_path: Path, params: Any, **options: Any) -> tuple[dict[str, Any], list[str]]:
    (tmp_path / "params.json").write_text(params if isinstance(params, str) else json.dumps(params))
    return meta_params.read(tmp_path / "params.json", **options)


@pytest.mark.parametrize("release", RELEASES)
def test_releases(release: str, tmp_path: Path) -> None:
    """Their numbers, and what we write for them, which says the same by Meta's formula."""
    raw, vocabulary, width = RELEASES[release]
    params, notes = read(tmp_path, raw)
    assert notes == []
    config, notes = meta_params.config(params, vocab_size=vocabulary, intermediate_size=width)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (raw["dim"], raw["n_layers"], raw["n_heads"])
    assert config.num_kv_heads == raw.get("n_kv_heads", raw["n_heads"])
    assert (config.rms_norm_eps, config.rope_theta) == (raw["norm_eps"], raw.get("rope_theta", 10_000.0))
    assert (config.vocab_size, config.intermediate_size) == (vocabulary, width)
    scaled = "use_scaled_rope" in raw
    assert config.max_position_embeddings == (131_072 if scaled else 2_048)
    assert "does not say for which context length" in notes[-1]
    factor = 32.0 if "3.2" in release else 8.0
    assert config.rope_scaling == (rope_config.RopeScaling("llama3", factor, 8_192, 1.0, 4.0) if scaled else None)
    written = meta_params.to_json(config, vocab_size=raw.get("vocab_size", -1))
    assert meta_params.config(read(tmp_path, written)[0], vocab_size=vocabulary, intermediate_size=width)[0] == config
    if "LLaMA " + release.split()[1] in ("LLaMA 7B", "LLaMA 13B", "LLaMA 33B", "LLaMA 65B"):
        assert written == raw, "only the keys that the code of the first release knows"


def test_named_sizes_are_the_releases() -> None:
    for size in ("7b", "13b", "33b", "65b"):
        raw, _, width = RELEASES[f"LLaMA {size.upper()}"]
        config = config_lib.named(size)
        assert meta_params.to_json(config) == raw
        assert config.intermediate_size == width


def test_any_width_has_a_formula() -> None:
    """Also widths that no release has, narrower than two thirds of 4·dim or prime."""
    for dim in (8, 32, 72, 512, 4096):
        for width in (8, 13, 88, 97, 509, 1376, 8_209, 11_008, 14_336, 100_003):
            multiple_of, multiplier = meta_params.feed_forward(dim, width)
            assert meta_params.width(dim, multiple_of, multiplier) == width


def test_context_and_stretch_as_told(tmp_path: Path) -> None:
    raw = {**RELEASES["LLaMA 3.1 8B"][0], "rope_scaling_factor": 16, "rope_high_freq_factor": 5}
    config, notes = meta_params.config(read(tmp_path, raw)[0], vocab_size=128_256, intermediate_size=14_336, max_position_embeddings=65_536)
    assert notes == []
    assert config.max_position_embeddings == 65_536
    assert config.rope_scaling == rope_config.RopeScaling("llama3", 16.0, 8_192, 1.0, 5.0)
    written = meta_params.to_json(config)
    assert (written["rope_scaling_factor"], written["rope_high_freq_factor"]) == (16.0, 5.0)


BASE = RELEASES["LLaMA 7B"][0]
HARMFUL: dict[str, tuple[Any, str]] = {
    "no object": ([], "holds no object"),
    "no JSON": ("{", "is not Meta's description"),
    "too large": ('{"a": "' + "x" * (1 << 20) + '"}', "bytes, more than"),
    "two of a key": ('{"dim": 1, "dim": 2}', "stands there twice"),
    "nothing": ({}, "dim is missing; n_layers is missing; n_heads is missing"),
    "truth value": ({**BASE, "dim": True}, "dim must be a whole number from 1 to 65,536, got True"),
    "fraction": ({**BASE, "n_layers": 2.0}, "n_layers must be"),
    "huge": ({**BASE, "n_layers": 10**400}, "n_layers must be"),
    "huge real": ({**BASE, "norm_eps": 10**400}, "norm_eps must be"),
    "negative": ({**BASE, "n_heads": -1}, "n_heads must be"),
    "no vocabulary": ({**BASE, "vocab_size": 0}, "vocab_size must be a whole number from -1 to 4,000,000, not 0, got 0"),
    "zero epsilon": ({**BASE, "norm_eps": 0}, "norm_eps must be a number from 1e-12 to 1, got 0"),
    "NaN": ('{"norm_eps": NaN, "dim": 1, "n_layers": 1, "n_heads": 1}', "norm_eps must be"),
    "text": ({**BASE, "rope_theta": "10000"}, "rope_theta must be"),
    "scaling by number": ({**BASE, "use_scaled_rope": 1}, "use_scaled_rope must be true or false"),
    "quantised": ({**BASE, "quantization_args": {"group_size": 256}}, "quantization_args changes the numbers and is not supported"),
    "an adapter inside": ({**BASE, "lora_args": {"rank": 16}}, "lora_args changes the numbers"),
    "pictures": ({**BASE, "vision_chunk_size": 560}, "vision_chunk_size changes the numbers"),
    "unknown": ({**BASE, "a": 1, "b": 2}, "unknown keys, which may change the numbers: a, b"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_params_are_refused(case: str, tmp_path: Path) -> None:
    params, message = HARMFUL[case]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, params)
    assert "params.json" in str(error.value)
    assert "\n" not in str(error.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from([*BASE, "n_kv_heads", "rope_theta", "use_scaled_rope", "lora_args"]) | st.text(), ANYTHING))
def test_any_values_are_read_or_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    try:
        params, _ = read(tmp_path, {**BASE, **changes}, allow_unknown=True)
        config, _ = meta_params.config(params, vocab_size=32_000, intermediate_size=11_008)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert (config.hidden_size, config.intermediate_size) == (params["dim"], 11_008)


def test_unknown_and_empty_keys_pass_when_told(tmp_path: Path) -> None:
    params, notes = read(tmp_path, {**BASE, "a": 1, "n_kv_heads": None, "lora_args": None, "max_seq_len": 2048}, allow_unknown=True)
    assert notes == [f"{tmp_path / 'params.json'}: unknown keys are ignored: a"]
    assert meta_params.config(params, vocab_size=7, intermediate_size=11_008)[0].num_kv_heads == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 32_000}, "vocab_size is 32,000, the tensors have 49,953 rows: they belong to two models"),
        ({"multiple_of": 512}, "multiple_of 512 and ffn_dim_multiplier None give feed-forward layers of 11,264, the tensors have 11,008"),
        ({"n_kv_heads": 5}, "num_key_value_heads 5 must divide"),
    ],
)
def test_contradictions(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    params, _ = read(tmp_path, {**BASE, **change})
    with pytest.raises(ValueError, match=message):
        meta_params.config(params, vocab_size=49_953, intermediate_size=11_008)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 16}, "Meta's format cannot describe a head_dim of 16"),
        ({"rope_scaling": rope_config.RopeScaling("linear", 2.0)}, "RoPE scaling of kind linear"),
        ({"rope_scaling": rope_config.RopeScaling("llama3", 8.0, 4_096, 1.0, 4.0)}, "RoPE scaling of kind llama3 with .* 4096"),
        ({"rope_scaling": rope_config.RopeScaling("yarn", 2.0)}, "RoPE scaling of kind yarn"),
    ],
)
def test_what_the_format_cannot_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta_params.to_json(config_lib.named("micro", **change))
