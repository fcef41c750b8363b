"""Every key of a config.json is accounted for."""

import json
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.convert import config_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

MINIMAL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def read(tmp_path: Path, *, allow_unknown: bool = False, **changes: Any) -> config_hf.Contents:
    contents = {key: value for key, value in {**MINIMAL, **changes}.items() if value != "absent"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(contents))
    return config_hf.read(path, allow_unknown=allow_unknown)


def refuse(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(ValueError, match=r"config\.json") as error:
        read(tmp_path, **changes)
    return str(error.value)


def test_round_trip(tmp_path: Path) -> None:
    config = config_lib.named(
        "micro",
        vocab_size=300,
        base_vocab_size=260,
        rope_theta=5e5,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=299,
        head_dim=16,
    )
    found = read(tmp_path, **config_hf.to_json(config, "bfloat16"))
    assert found == (config, [], {"initializer_range": 0.02, "attention_dropout": 0.0, "pretraining_tp": 1, "use_cache": True})


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("heads", [4, 2])
def test_transformers_reads_ours_and_we_read_theirs(tmp_path: Path, theta: float, heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = config_lib.named("micro", vocab_size=300, num_key_value_heads=heads, rope_theta=theta)
    (tmp_path / "config.json").write_text(json.dumps(config_hf.to_json(config, "float16")))
    theirs = transformers.LlamaConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": theta}
    assert str(theirs.dtype).removeprefix("torch.") == "float16"
    theirs.save_pretrained(tmp_path)
    assert config_hf.read(tmp_path / "config.json")[0] == config


def test_llama_1_style_config_reads(tmp_path: Path) -> None:
    old = {"architectures": ["LLaMAForCausalLM"], "torch_dtype": "float16", "max_sequence_length": 2048, "pad_token_id": -1}
    config, notes, _ = read(tmp_path, **old)
    assert config == config_lib.LlamaConfig(300, 32, 88, 2, 4)
    assert len(notes) == 1
    assert "no padding piece" in notes[0]


def test_missing_optional_keys_take_llama_s_defaults(tmp_path: Path) -> None:
    config = read(tmp_path).config
    assert (config.rope_theta, config.rms_norm_eps, config.max_position_embeddings) == (10_000.0, 1e-6, 2048)
    assert config.num_kv_heads == 4


NUMBERS_CHANGE: list[dict[str, Any]] = [
    {"attention_bias": True},
    {"mlp_bias": True},
    {"hidden_act": "gelu"},
    {"quantization_config": {"bits": 4}},
    {"sliding_window": 4096},
    {"auto_map": {"AutoModel": "evil.Model"}},
    {"partial_rotary_factor": 0.5},
    {"rope_scaling": {"type": "longrope", "factor": 2.0}},
    {"rope_interleaved": True},
    {"final_logit_softcapping": 30.0},
    {"layer_types": ["sliding_attention"] * 2},
    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
    {"rope_parameters": {"rope_type": "default", "factor": 2.0}},
    {"rope_scaling": "linear"},
    {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"attention_bias": 1},
]


@pytest.mark.parametrize("change", NUMBERS_CHANGE, ids=lambda change: json.dumps(change)[:50])
def test_keys_that_change_the_numbers_are_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    assert next(iter(change)) in refuse(tmp_path, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        read(tmp_path, **change, allow_unknown=True)


def test_neutral_keys_pass_in_silence(tmp_path: Path) -> None:
    neutral = {
        "pretraining_tp": 2,
        "use_cache": False,
        "attention_dropout": 0.1,
        "initializer_range": 0.01,
        "transformers_version": "4.28.1",
        "attention_bias": False,
        "hidden_act": "silu",
        "rope_scaling": None,
        "quantization_config": None,
        "num_beams": 1,
        "frobnicate": None,
    }
    assert read(tmp_path, **neutral).notes == []


def test_neutral_keys_go_on_to_the_next_file(tmp_path: Path) -> None:
    """Those that say something about the model; not who wrote the file, how it was run, or what another file says."""
    about = {"pretraining_tp": 2, "initializer_range": 0.01, "attention_dropout": 0.1, "use_cache": False, "max_sequence_length": 16_384}
    gone = {"_name_or_path": "/home/me", "transformers_version": "4.28.1", "torch_dtype": "float16", "_attn_implementation": "eager"}
    found = read(tmp_path, **about, **gone, temperature=0.7, unsloth_version="2024.9", id2label="wrong type")
    assert found.kept == about
    written = config_hf.to_json(found.config, "bfloat16", found.kept)
    assert written == {**config_hf.to_json(found.config, "bfloat16"), **about}
    assert read(tmp_path, **written) == found
    assert config_hf.to_json(found.config, "bfloat16", {"vocab_size": 1, "frobnicate": 2}) == config_hf.to_json(found.config, "bfloat16")


def test_unknown_keys_are_refused_unless_allowed(tmp_path: Path) -> None:
    odd = {"frobnicate": 1, "aardvark": False, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "finetuned": True}}
    message = refuse(tmp_path, **odd)
    assert "aardvark, frobnicate, rope_parameters.finetuned are unknown" in message and "--allow_unknown_keys" in message
    found = read(tmp_path, **odd, allow_unknown=True)
    assert len(found.notes) == 1 and "aardvark, frobnicate, rope_parameters.finetuned" in found.notes[0]
    assert found.kept == {}
    assert found.config.rope_scaling == rope_config.RopeScaling("linear", 2)
    many = refuse(tmp_path, **{f"key{number}": 1 for number in range(1000)})
    assert "and 980 more are unknown" in many and len(many) < 1000


OUT_OF_RANGE: list[dict[str, Any]] = [
    {"num_hidden_layers": 10**9},
    {"vocab_size": -1},
    {"vocab_size": 300.0},
    {"hidden_size": True},
    {"hidden_size": "32"},
    {"num_attention_heads": "absent"},
    {"num_key_value_heads": 3},
    {"rms_norm_eps": 0},
    {"rms_norm_eps": "small"},
    {"rope_theta": -1.0},
    {"rope_theta": 10**400},
    {"rope_theta": [1]},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": ["default"]}},
    {"head_dim": 7},
    {"bos_token_id": 300},
    {"eos_token_id": []},
    {"base_vocab_size": 301},
    {"tie_word_embeddings": "yes"},
    {"max_position_embeddings": 0},
]


@pytest.mark.parametrize("change", OUT_OF_RANGE, ids=lambda change: json.dumps(change)[:50])
def test_values_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    refuse(tmp_path, **change)


def test_several_problems_are_listed_together(tmp_path: Path) -> None:
    message = refuse(tmp_path, attention_bias=True, hidden_size=-3, rope_scaling={"type": "yarn"})
    assert all(key in message for key in ("attention_bias", "hidden_size", "yarn"))


@pytest.mark.parametrize("change", [{"model_type": "mistral"}, {"architectures": ["MistralForCausalLM"]}, {"model_type": "absent"}])
def test_other_models_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    assert "only LLaMA" in refuse(tmp_path, **change)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"a":1,"a":2}', "[" * 100_000, "\ud800"])
def test_what_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json"):
        config_hf.read(path)


def test_huge_config_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b" " * (config_hf.MAX_CONFIG_BYTES + 1))
    with pytest.raises(ValueError, match="more than"):
        config_hf.read(path)


def test_several_end_ids_keep_the_first(tmp_path: Path) -> None:
    config, notes, _ = read(tmp_path, eos_token_id=[2, 7])
    assert config.eos_token_id == 2
    assert len(notes) == 1
