"""Every spelling of RoPE means here what it means in transformers, and what we write means the same in all versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax.convert import config_hf, rope_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope, rope_config

SHAPE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

# Configurations as they stand in released models, of all ages; lengths are cut down.
GIVEN: Mapping[str, dict[str, Any]] = {
    "no word about it": {},
    "null": {"rope_scaling": None, "rope_theta": 500_000.0},
    "empty": {"rope_scaling": {}},
    "plain, new": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "linear, old": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, whole factor": {"rope_scaling": {"rope_type": "linear", "factor": 8}, "rope_theta": 1e6},
    "linear, new": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 5e5}},
    "linear, both names": {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
    "linear with an original length": {"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 32}},
    "dynamic, old": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64},
    "dynamic, new": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    "llama 3": {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 500_000.0, "max_position_embeddings": 512},
    "llama 3, new": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}, "max_position_embeddings": 512},
    "llama 3 without the original length": {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "max_position_embeddings": 512,
    },
    "yarn": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "max_position_embeddings": 256,
    },
    "yarn without the original length": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 256},
    "yarn with the original length outside": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": 64,
        "max_position_embeddings": 256,
    },
    "yarn whose factor is null": {
        "rope_parameters": {"rope_type": "yarn", "factor": None, "rope_theta": 1e4, "original_max_position_embeddings": 64},
        "max_position_embeddings": 256,
    },
    "yarn, all set": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 40,
            "original_max_position_embeddings": 64,
            "beta_fast": 16,
            "beta_slow": 2,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
        "max_position_embeddings": 2560,
    },
    "yarn with its own attention": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3, "original_max_position_embeddings": 64},
        "max_position_embeddings": 256,
    },
}


def read(tmp_path: Path, raw: Mapping[str, Any]) -> config_hf.Contents:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **SHAPE, **raw}))
    return config_hf.read(path)


def same_rotation(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    """The directory's configuration, read by transformers, turns as `config` does."""
    transformers = pytest.importorskip("transformers")
    modeling_llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    theirs = modeling_llama.LlamaRotaryEmbedding(transformers.LlamaConfig.from_pretrained(tmp_path))
    assert theirs.rope_type == (config.rope_scaling.kind if config.rope_scaling else "default")
    ours = rope.frequencies(head_dim=config.head_width, theta=config.rope_theta, scaling=config.rope_scaling)
    np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=1e-6)
    if config.rope_scaling:
        assert config.rope_scaling.attention_scale == pytest.approx(theirs.attention_scaling, rel=1e-12)
    if theirs.rope_type == "dynamic":
        assert theirs.config.rope_parameters["factor"] == config.rope_scaling.factor
        assert theirs.max_seq_len_cached == config.max_position_embeddings


@pytest.mark.parametrize("name", GIVEN)
def test_every_spelling_means_what_it_means_in_transformers_and_round_trips(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, GIVEN[name])
    same_rotation(tmp_path, found.config)
    written = config_hf.to_json(found.config, "float16")
    again = read(tmp_path, written)
    assert (again.config, again.notes) == (found.config, [])
    same_rotation(tmp_path, found.config)


@pytest.mark.parametrize("name", GIVEN)
def test_each_spelling_that_we_write_suffices_alone(tmp_path: Path, name: str) -> None:
    """transformers 4 reads only the old one, later ones may read only the new one."""
    config = read(tmp_path, GIVEN[name]).config
    written = config_hf.to_json(config, "float16")
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    new = {key: value for key, value in written.items() if key not in ("rope_scaling", "rope_theta")}
    assert read(tmp_path, old).config == read(tmp_path, new).config == config


def test_the_old_spelling_is_the_one_that_the_oldest_versions_know() -> None:
    """Before 4.43: two keys, a float; and "rope_type" where no older version knows the kind."""
    config = config_lib.LlamaConfig(**SHAPE, rope_scaling=rope_config.RopeScaling("linear", 4))
    written = rope_hf.to_json(config)
    assert written["rope_scaling"] == {"type": "linear", "factor": 4.0} and type(written["rope_scaling"]["factor"]) is float
    assert written["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    written = rope_hf.to_json(config.replace(rope_scaling=rope_config.RopeScaling("llama3", **LLAMA3)))
    assert written["rope_scaling"] == {"rope_type": "llama3", **LLAMA3}
    yarn = config.replace(max_position_embeddings=64, rope_scaling=rope_config.RopeScaling("yarn", 4))
    assert "original_max_position_embeddings" not in rope_hf.to_json(yarn)["rope_scaling"], "versions between would take the factor for 1"
    assert rope_hf.to_json(yarn.replace(max_position_embeddings=256))["rope_scaling"]["original_max_position_embeddings"] == 64
    assert rope_hf.to_json(config.replace(rope_scaling=None)) == {
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
        "'longrope', which is not supported (allowed: def",
    ),
    ({"rope_scaling": {"type": "su", "factor": 2.0}}, "'su'"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "'mrope'"),
    ({"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2]}}, "has rope_type 'default' and type 'mrope'"),
    (
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        "has mrope_section, which RoPE of type default does not know",
    ),
    ({"rope_parameters": {"rope_type": "proportional", "factor": 2.0}}, "'proportional'"),
    ({"rope_parameters": {"rope_type": ["linear"], "factor": 2.0}}, "['linear']"),
    ({"rope_parameters": {"rope_type": False, "factor": 2.0}}, "False"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention is unknown"),
    ({"rope_scaling": "linear"}, "rope_scaling must be an object or null, got 'linear'"),
    ({"rope_scaling": {"factor": 2.0}}, "has factor, which RoPE of type default does not know"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling: RoPE scaling of kind linear: factor is missing"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1}}, "has beta_fast, which RoPE of type linear does not know"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "has partial_rotary_factor"),
    ({"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "factor must be a number from 1"),
    ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "low_freq_factor is missing; high_freq_factor is missing"),
    ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}}, "factor is missing"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}}, "whole number from 1 to"),
    ({"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 4096}}, "factor must be a number from 1"),
    (
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, "original_max_position_embeddings": 32},
        "rope_scaling.original_max_position_embeddings 64, original_max_position_embeddings 32: versions of transformers would disagree",
    ),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        "rope_scaling and rope_parameters differ",
    ),
    (
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        "rope_scaling and rope_parameters differ",
    ),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 5e5}, "rope_theta": 1e4},
        "rope_theta 10000.0, rope_scaling.rope_theta 500000.0: versions of transformers would disagree",
    ),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, "dynamic needs a head_dim above 2"),
]


@pytest.mark.parametrize(("raw", "message"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_is_not_supported_or_contradicts_itself_is_refused_by_name(tmp_path: Path, raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"config\.json: ") as error:
        read(tmp_path, raw)
    assert message in str(error.value)


def test_what_has_no_effect_is_noted(tmp_path: Path) -> None:
    [note] = read(tmp_path, GIVEN["linear with an original length"]).notes
    assert note == "rope_scaling.original_max_position_embeddings has no effect on RoPE of type linear, here as in transformers"


def test_a_yarn_whose_lengths_do_not_fit_its_factor_is_noted(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    [note] = read(tmp_path, {"rope_scaling": yarn, "max_position_embeddings": 512}).notes
    assert "the factor 4, but max_position_embeddings 512 is 8 times original_max_position_embeddings 64: the factor counts" in note
    assert read(tmp_path, {"rope_scaling": yarn, "max_position_embeddings": 256}).notes == []
