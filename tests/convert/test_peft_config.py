"""Every key of an adapter_config.json is accounted for."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import released_adapters
from zhllama_jax.convert import peft_config
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib

CONFIG = config_lib.named("micro", vocab_size=300, base_vocab_size=260)

# As released with Chinese-LLaMA-Alpaca; Plus and Pro have another rank.
RELEASED = {**released_adapters.RELEASED, "r": 64, "lora_alpha": 128, "lora_dropout": 0.05}


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
    {"layers_to_transform": [-1]},
    {"layers_to_transform": "all"},
    {"layers_to_transform": [10**9]},
    {"layers_pattern": "h"},
    {"layer_replication": [[0, 1]]},
    {"target_parameters": ["x"]},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_16"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "loftq"},
    {"frobnicate": 0},
    {"frobnicate": "x"},
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
    {"trainable_token_indices": [10**30]},
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: json.dumps(change)[:50])
def test_what_changes_the_numbers_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read(tmp_path, **change)


def test_several_problems_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use_dora.*r must be"):
        read(tmp_path, use_dora=True, r=-1)


def test_neutral_keys_pass_and_unknown_ones_if_they_are_off_or_allowed(tmp_path: Path) -> None:
    neutral = {"init_lora_weights": True, "peft_version": "0.21.2", "use_dora": False, "revision": None, "pretraining_tp": 1}
    assert read(tmp_path, **neutral)[1] == []
    assert read(tmp_path, frobnicate=False, frobnication=None, frobnicators=[], frobnicated={})[1] == []
    with pytest.raises(ValueError, match=r"frobnicate is unknown .*`zhllama convert --to peft --allow_unknown_keys`"):
        read(tmp_path, frobnicate=1)
    _, [note] = peft_config.read(tmp_path / "adapter_config.json", allow_unknown=True)
    assert "frobnicate" in note
    with pytest.raises(ValueError, match="use_dora"):
        read(tmp_path, use_dora=True)
        peft_config.read(tmp_path / "adapter_config.json", allow_unknown=True)


def test_every_setting_of_the_installed_peft_is_known(tmp_path: Path) -> None:
    """Of a configuration that PEFT writes by itself nothing is unknown, also once it is not off."""
    theirs = pytest.importorskip("peft")
    theirs.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]).save_pretrained(tmp_path)
    settings, notes = peft_config.read(tmp_path / "adapter_config.json")
    assert (settings.rank, settings.targets, notes) == (8, ("q_proj",), [])
    for key in json.loads((tmp_path / "adapter_config.json").read_text()):
        try:
            read(tmp_path, **{key: "something"})
        except ValueError as error:
            assert "unknown" not in str(error), key


def test_patterns_are_read_as_peft_does(tmp_path: Path) -> None:
    settings, _ = read(
        tmp_path, rank_pattern={"layers.1.mlp.up_proj": 2, "up_proj": 4}, alpha_pattern={"^model\\.layers\\.0\\.mlp\\.up_proj$": 8}
    )
    assert settings.rank_and_scale("model.layers.1.mlp.up_proj") == (2, 64.0)
    assert settings.rank_and_scale("model.layers.0.mlp.up_proj") == (4, 2.0)
    assert settings.rank_and_scale("model.layers.0.self_attn.q_proj") == (64, 2.0)
    assert settings.rank_and_scale("model.layers.11.mlp.up_proj") == (4, 32.0)


def test_a_pattern_that_begins_with_the_whole_name_means_that_module_alone(tmp_path: Path) -> None:
    settings, _ = read(tmp_path, alpha_pattern={"^up_proj": 8})
    assert settings.rank_and_scale("model.layers.0.mlp.up_proj") == (64, 2.0)


@pytest.mark.parametrize(
    ("changes", "layers", "every"),
    [
        ({}, (), True),
        ({"target_modules": "all-linear"}, (), True),
        ({"target_modules": None}, (), True),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, (1,), False),
        ({"layers_to_transform": [0, 2]}, (0, 2), False),
        ({"target_modules": ["layers.0.self_attn.q_proj"]}, (), False),
        ({"target_modules": r".*\.q_proj"}, (), False),
        ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, (), False),
    ],
)
def test_which_layers_have_factors(tmp_path: Path, changes: dict[str, Any], layers: tuple[int, ...], every: bool) -> None:
    settings, _ = read(tmp_path, **changes)
    assert (settings.layers, settings.every_layer) == (layers, every)


def test_what_was_read_is_written_again_in_keys_of_today(tmp_path: Path) -> None:
    changes = {"use_rslora": True, "rank_pattern": {"up_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 2.5}}
    settings, _ = read(tmp_path, **changes, base_model_name_or_path="team/base", revision="ab" * 20, trainable_token_indices=[5, 3])
    assert settings.base == f"team/base@{'ab' * 20}"
    contents = peft_config.again(settings, targets=["q_proj"], whole=["lm_head"], some={"embed_tokens": [3, 5]})
    assert not contents.keys() & {"enable_lora", "merge_weights", "pretraining_tp"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(contents))
    found, notes = peft_config.read(tmp_path / "adapter_config.json")
    assert notes == []
    assert found == settings._replace(targets=("q_proj",), indices={"embed_tokens": [3, 5]}, saved=("lm_head", "embed_tokens"))


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


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["q_proj", "lm_head", "none"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("up_proj"), inner, max_size=3)
)
KEYS = st.sampled_from([*RELEASED, "rank_pattern", "alpha_pattern", "trainable_token_indices", "layers_to_transform", "revision"])


@given(changes=st.dictionaries(KEYS | st.text(max_size=5), VALUES, max_size=5), allow=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_json_is_settings_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], allow: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps({**RELEASED, **changes}))
    try:
        found, _ = peft_config.read(path, allow_unknown=allow)
    except ValueError as error:
        assert len(str(error)) < 5_000
        return
    rank, scale = found.rank_and_scale("model.layers.0.mlp.up_proj")
    assert rank >= 1 and math.isfinite(scale) and scale > 0
    assert json.loads(json.dumps(peft_config.again(found, targets=found.targets or (), whole=(), some=found.indices)))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        peft_config.read(path)
