"""Adapters written and rewritten: the same numbers under the names of today, with what is known of them, and nothing that is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.reference import released_adapters
from zhllama_jax import tree
from zhllama_jax.convert import manifest, peft, peft_tensors, peft_write
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

SQUARE = ("q_proj", "o_proj")


def test_a_released_adapter_is_rewritten_number_for_number(
    tmp_path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer
) -> None:
    found = released_adapters.tensors(config)
    source = released_adapters.write(tmp_path / "released", found, tokenizer)
    contents, _ = peft.rewrite(source, tmp_path / "ours")
    written = safetensors.numpy.load_file(tmp_path / "ours" / peft.WEIGHTS)
    assert written.keys() == found.keys()
    for name, value in written.items():
        assert value.dtype == np.float16
        np.testing.assert_array_equal(value, found[name])
    settings = json.loads((tmp_path / "ours" / peft.CONFIG).read_text())
    assert not settings.keys() & {"enable_lora", "merge_weights"}
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 32, 0.1)
    assert sorted(settings["target_modules"]) == sorted(released_adapters.RELEASED["target_modules"])
    assert settings["modules_to_save"] == ["embed_tokens", "lm_head"]
    assert manifest.verify(tmp_path / "ours", "adapter") == []
    assert contents["history"] == [{"step": "convert", "from": "adapter_model.bin", "to": peft.WEIGHTS}]
    before, after = peft.load(source), peft.load(tmp_path / "ours")
    assert after.notes == []
    assert (after.base_fingerprint, after.requires, after.vocab_size, after.tokenizer_sha256, after.prompt) == (None, [], None, None, None)
    assert after.lora_config == before.lora_config
    assert processor.Tokenizer.load(tmp_path / "ours").sha256 == tokenizer.sha256
    proof = json.loads((tmp_path / "ours" / "certificate.json").read_text())
    assert proof["compared"] == proof["equal"] == 7 * 3 + 2
    assert "Base: not recorded" in (tmp_path / "ours" / "README.md").read_text()
    assert "in float16" in (tmp_path / "ours" / "README.md").read_text()


def test_without_a_tokenizer_none_is_written(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    peft.rewrite(released_adapters.write(tmp_path / "released", released_adapters.tensors(config)), tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("tokenizer*"))
    assert "grown first" not in (tmp_path / "ours" / "README.md").read_text()


def test_what_a_manifest_knows_goes_along(tmp_path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> None:
    """And the digest stays, by which later adapters ask for this one."""
    rng = np.random.default_rng(0)
    lora_config = lora_config_lib.LoraConfig(rank=2, alpha=4.0, targets=SQUARE, rslora=True)
    leaves: dict[str, np.ndarray] = {}
    for name in SQUARE:
        leaves[f"layers/self_attn/{name}/a"] = rng.normal(size=(2, 32, 2)).astype(np.float32)
        leaves[f"layers/self_attn/{name}/b"] = rng.normal(size=(2, 2, 32)).astype(np.float32)
        leaves[f"layers/self_attn/{name}/scale"] = np.full(2, lora_config.scale, np.float32)
    leaves["layers/self_attn/o_proj/scale"][1] = 7
    rows = {"lm_head": {"extension": rng.normal(size=(128, 32)).astype(np.float32)}}
    known = {"base_fingerprint": "cd" * 32, "requires": ["ab" * 32], "prompt": manifest.Prompt("alpaca"), "history": [{"step": "train"}]}
    first = peft.save(
        tmp_path / "first", config=config, lora=tree.unflatten(leaves), rows=rows, lora_config=lora_config, base="team/base",
        tokenizer=tokenizer, **known,
    )  # fmt: skip
    second, _ = peft.rewrite(tmp_path / "first", tmp_path / "second")
    assert second["fingerprint"] == first["fingerprint"]
    assert second["tensors"] == first["tensors"]
    for key in ("base", "requires", "prompt", "vocab_size", "base_vocab_size", "tokenizer_sha256", "scales"):
        assert second[key] == first[key]
    assert [step["step"] for step in second["history"]] == ["train", "convert"]
    before, after = ((tmp_path / name / peft.CONFIG).read_text() for name in ("first", "second"))
    assert json.loads(after) == json.loads(before)


def test_a_base_that_nobody_knows_is_written_as_such(
    tmp_path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer
) -> None:
    rows = {"lm_head": {"extension": np.ones((128, 32), np.float32)}}
    peft.save(tmp_path / "a", config=config, lora={}, rows=rows, lora_config=None, base="x", base_fingerprint=None, tokenizer=tokenizer)
    assert peft.load(tmp_path / "a").base_fingerprint is None
    assert "nobody wrote down" in (tmp_path / "a" / "README.md").read_text()


PARTS = {"self_attn": lora_config_lib.ATTENTION, "mlp": lora_config_lib.MLP}


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_to_transform": [1]},
        {"target_modules": [f"layers.1.{part}.{name}" for part, named in PARTS.items() for name in named]},
        {"target_modules": ".*", "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.mlp.up_proj": 5, "down_proj": 3}},
    ],
)
def test_adapters_of_some_layers_stay_such(tmp_path: Path, config: config_lib.LlamaConfig, changes: dict[str, Any]) -> None:
    found = released_adapters.tensors(config, layers=range(1, 2))
    source = released_adapters.write(tmp_path / "released", found, **changes)
    peft.rewrite(source, tmp_path / "ours")
    before, after = (peft.fitted(peft.load(folder), config) for folder in (source, tmp_path / "ours"))
    assert before.modules == after.modules
    for path, leaf in tree.flatten(before.lora).items():
        np.testing.assert_array_equal(tree.flatten(after.lora)[path], leaf, err_msg=path)


def test_tied_rows_are_written_for_both_matrices(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    """PEFT cuts the tie when it saves whole matrices, so it needs both."""
    found = released_adapters.tensors(config)
    del found["base_model.model.lm_head.weight"]
    peft.rewrite(released_adapters.write(tmp_path / "released", found, ensure_weight_tying=True), tmp_path / "ours")
    written = safetensors.numpy.load_file(tmp_path / "ours" / peft.WEIGHTS)
    np.testing.assert_array_equal(written["base_model.model.lm_head.weight"], found["base_model.model.model.embed_tokens.weight"])
    assert peft.load(tmp_path / "ours").rows.keys() == {"embed_tokens"}


def test_unknown_keys_need_leave_and_are_gone_afterwards(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    source = released_adapters.write(tmp_path / "released", released_adapters.tensors(config), frobnicate=1)
    with pytest.raises(ValueError, match="frobnicate is unknown"):
        peft.rewrite(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    peft.rewrite(source, tmp_path / "ours", allow_unknown=True)
    assert peft.load(tmp_path / "ours").notes == []


def test_other_numbers_than_were_meant_are_not_kept(
    tmp_path: Path, config: config_lib.LlamaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = released_adapters.write(tmp_path / "released", released_adapters.tensors(config))
    plain = peft_write.rows
    monkeypatch.setattr(
        peft_write, "rows", lambda found: (each._replace(make=lambda each=each: each.make() + np.float16(1)) for each in plain(found))
    )
    with pytest.raises(ValueError, match="embed_tokens, lm_head was written with other numbers than were meant: nothing was kept"):
        peft.rewrite(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_output_is_never_the_input(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    source = released_adapters.write(tmp_path / "released", released_adapters.tensors(config))
    with pytest.raises(ValueError, match="released"):
        peft.rewrite(source, source, overwrite=True)
    assert (source / "adapter_model.bin").is_file()


@pytest.mark.parametrize(
    ("content", "length"), [({"model_max_length": 4096}, 4096), ({"model_max_length": 10**30}, 2048), ([], 2048), (None, 2048)]
)
def test_the_context_is_what_the_tokenizer_says(tmp_path: Path, content: Any, length: int) -> None:
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    assert peft_write.context(tmp_path) == length


def test_names_are_ours_layer_by_layer() -> None:
    found = [f"model.layers.{layer}.self_attn.q_proj.lora_{side}.default.weight" for layer in (10, 2) for side in "BA"]
    assert list(peft_tensors.canonical(found, "here")) == [
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight" for layer in (2, 10) for side in "AB"
    ]


def test_rows_beside_the_trained_ones_do_not_part_a_tied_head(tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    """PEFT adds the embedding of a resized vocabulary to any adapter; that is in no modules_to_save, before and after."""
    found = released_adapters.tensors(config)
    del found["base_model.model.lm_head.weight"]
    source = released_adapters.write(tmp_path / "released", found, modules_to_save=None)
    peft.rewrite(source, tmp_path / "ours")
    for folder in (source, tmp_path / "ours"):
        loaded = peft.load(folder)
        assert (loaded.rows["embed_tokens"].whole, loaded.settings.saved, loaded.parts_tied) == (True, (), False)
        peft.check_fits(loaded, config.replace(tie_word_embeddings=True))
