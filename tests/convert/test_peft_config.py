"""Every key of an adapter_config.json is accounted for."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax.convert import peft_config
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib

CONFIG = config_lib.named("micro", vocab_size=300, base_vocab_size=260)

# As released with Chinese-LLaMA-Alpaca.
RELEASED = {
    "base_model_name_or_path": "decapoda-research/llama-7b-hf",
    "bias": "none",
    "enable_lora": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "lora_alpha": 128,
    "lora_dropout": 0.05,
    "merge_weights": False,
    "modules_to_save": ["embed_tokens", "lm_head"],
    "peft_type": "LORA",
    "r": 64,
    "target_modules": ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
    "task_type": "CAUSAL_LM",
}


def read(tmp_path: Path, **changes: Any) -> tuple[peft_config.Settings, list[str]]:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({key: value for key, value in {**RELEASED, **changes}.items() if value != "absent"}))
    return peft_config.read(path)


def test_released_adapters_read(tmp_path: Path) -> None:
    settings, notes = read(tmp_path)
    assert notes == []
    assert settings.rank_and_scale("model.layers.0.mlp.up_proj") == (64, 2.0)
    assert settings.lora_config(("q_proj",)) == lora_config_lib.LoraConfig(64, 128.0, 0.05, ("q_proj",))


REFUSED: list[dict[str, Any]] = [
    {"use_dora": True},
    {"bias": "all"},
    {"fan_in_fan_out": True},
    {"lora_bias": True},
    {"layers_to_transform": [0]},
    {"layer_replication": [[0, 1]]},
    {"target_parameters": ["x"]},
    {"init_lora_weights": "pissa"},
    {"peft_type": "IA3"},
    {"peft_type": "absent"},
    {"task_type": "SEQ_CLS"},
    {"enable_lora": [True, False]},
    {"r": 0},
    {"r": 8.0},
    {"r": True},
    {"r": 10**9},
    {"lora_alpha": -1},
    {"lora_alpha": "32"},
    {"lora_dropout": 1.5},
    {"use_rslora": 1},
    {"rank_pattern": {"(a+)+$": 4}},
    {"rank_pattern": {"q_proj": 0}},
    {"alpha_pattern": ["q_proj"]},
    {"trainable_token_indices": {"norm": [1]}},
    {"trainable_token_indices": [-1]},
    {"trainable_token_indices": 7},
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: json.dumps(change)[:50])
def test_what_changes_the_numbers_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read(tmp_path, **change)


def test_several_problems_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use_dora.*r must be"):
        read(tmp_path, use_dora=True, r=-1)


def test_neutral_and_unknown_keys_pass(tmp_path: Path) -> None:
    assert read(tmp_path, init_lora_weights=True, peft_version="0.21.2", use_dora=False, revision=None)[1] == []
    notes = read(tmp_path, frobnicate=1)[1]
    assert len(notes) == 1
    assert "frobnicate" in notes[0]


def test_patterns_are_read_as_peft_does(tmp_path: Path) -> None:
    settings, _ = read(
        tmp_path, rank_pattern={"layers.1.mlp.up_proj": 2, "up_proj": 4}, alpha_pattern={"^model\\.layers\\.0\\.mlp\\.up_proj$": 8}
    )
    assert settings.rank_and_scale("model.layers.1.mlp.up_proj") == (2, 64.0)
    assert settings.rank_and_scale("model.layers.0.mlp.up_proj") == (4, 2.0)
    assert settings.rank_and_scale("model.layers.0.self_attn.q_proj") == (64, 2.0)
    assert settings.rank_and_scale("model.layers.11.mlp.up_proj") == (4, 32.0)


def test_rank_stabilised_scale(tmp_path: Path) -> None:
    assert read(tmp_path, use_rslora=True)[0].rank_and_scale("model.layers.0.mlp.up_proj") == (64, 16.0)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_written_reads_back(tmp_path: Path, rslora: bool) -> None:
    lora_config = lora_config_lib.LoraConfig(rank=3, alpha=8.0, dropout=0.0, targets=("q_proj", "o_proj", "up_proj"), rslora=rslora)
    paths = ("layers/self_attn/q_proj", "layers/self_attn/o_proj", "layers/mlp/up_proj")
    scales = dict(zip(paths, ([lora_config.scale] * 2, [0.1, 0.1], [0.3, 0.7]), strict=True))
    contents = peft_config.to_json(
        CONFIG,
        lora_config=lora_config,
        ranks=dict(zip(paths, (3, 3, 5), strict=True)),
        scales={f"{path}/scale": np.float32(scale).tolist() for path, scale in scales.items()},
        rows={"embed_tokens": np.arange(300), "lm_head": np.arange(260, 300)},
        base="base",
    )
    assert contents["rank_pattern"] == {"up_proj": 5}
    assert contents["alpha_pattern"].keys() == {"o_proj", "layers.0.mlp.up_proj", "layers.1.mlp.up_proj"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(contents))
    settings, notes = peft_config.read(tmp_path / "adapter_config.json")
    assert notes == []
    assert settings.indices == {"lm_head": list(range(260, 300))}
    for path, scale in scales.items():
        for layer in range(2):
            rank, found = settings.rank_and_scale(path.replace("layers/", f"model.layers.{layer}.").replace("/", "."))
            assert rank == (5 if "up_proj" in path else 3)
            assert np.float32(found) == np.float32(scale[layer])
    assert math.isclose(settings.alpha, 8.0)


def test_rows_alone_name_no_target() -> None:
    contents = peft_config.to_json(CONFIG, lora_config=None, ranks={}, scales={}, rows={"lm_head": np.arange(300)}, base="b")
    assert (contents["target_modules"], contents["modules_to_save"]) == ([], ["lm_head"])
