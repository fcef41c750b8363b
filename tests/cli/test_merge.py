"""Adapters folded by the verb, and used unfolded by others."""

from pathlib import Path

import jax
import numpy as np
import pytest

from zhllama_jax.cli import program, ready
from zhllama_jax.convert import host, manifest, peft, source
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config
from zhllama_jax.tokenizer import processor


def save_adapter(directory: Path, model: Path, seed: int, requires: tuple[str, ...] = ()) -> tuple[Path, str]:
    """An adapter with random factors for `model`, and its digest."""
    config = source.load_config(model)
    settings = lora_config.LoraConfig(rank=2)
    lora = adapters.init(jax.random.key(seed), host.load(model).params, settings)
    lora = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.random.normal(jax.random.key(seed), leaf.shape) if path[-1].key == "b" else leaf, lora
    )
    written = peft.save(
        directory,
        config=config,
        lora=jax.device_get(lora),
        rows={},
        lora_config=settings,
        base=model,
        base_fingerprint=source.fingerprint(model),
        requires=requires,
        tokenizer=processor.Tokenizer.load(model),
    )
    return directory, written["fingerprint"]


@pytest.fixture
def stack(base_model: Path, tmp_path: Path) -> list[Path]:
    """Two adapters, the second trained on top of the first."""
    first, digest = save_adapter(tmp_path / "first", base_model, 1)
    second, _ = save_adapter(tmp_path / "second", base_model, 2, (digest,))
    return [first, second]


def test_what_is_merged_is_what_would_have_run(
    base_model: Path, stack: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(base_model), "--adapter", *map(str, stack)]
    assert program.run(["merge", *words, "--output", str(tmp_path / "merged")]) == 0
    assert "2 adapters folded" in capsys.readouterr().out
    merged, unfolded, base = ready.load(tmp_path / "merged"), ready.load(base_model, adapters=stack), ready.load(base_model)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, merged.weights, unfolded.weights)))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, merged.weights, base.weights)))


def test_one_adapter_is_one(base_model: Path, stack: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "--model", str(base_model), "--adapter", str(stack[0]), "--output", str(tmp_path / "merged")]
    assert program.run([*words, "--template", "alpaca", "--boundary", "joined"]) == 0
    assert f"1 adapter folded into {base_model}" in capsys.readouterr().out
    assert source.load_prompt(tmp_path / "merged") == manifest.Prompt("alpaca", "joined")


def test_adapters_joined_by_a_comma_are_told_apart(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--lora_model A,B` of the original has them."""
    assert program.run(["merge", "--model", str(base_model), "--adapter", "first,second", "--output", str(tmp_path / "merged")]) == 1
    assert "first,second is no directory: give several adapters with a blank between them, first second" in capsys.readouterr().err


def test_the_wrong_order_is_refused(base_model: Path, stack: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "--model", str(base_model), "--adapter", str(stack[1]), "--output", str(tmp_path / "merged")]
    assert program.run(words) == 1
    said = capsys.readouterr().err
    assert "was trained on top of" in said and "or fold them all the same with --force" in said
    assert program.run(["generate", *words[1:-2], "--prompt", "hi"]) == 1
    assert "force" not in capsys.readouterr().err, "a flag that this verb has not"
    assert not (tmp_path / "merged").exists()
    assert program.run([*words, "--force"]) == 0
    assert "note: " in capsys.readouterr().err


def test_an_adapter_takes_the_place_of_no_model(stack: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["merge", "--model", str(stack[0]), "--adapter", str(stack[1]), "--output", str(tmp_path / "merged")]) == 1
    assert "is an adapter, not a model" in capsys.readouterr().err


def test_no_adapter_is_replaced_by_what_it_is_folded_into(base_model: Path, stack: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for output in (base_model, stack[1]):
        words = ["--model", str(base_model), "--adapter", *map(str, stack), "--output", str(output), "--overwrite"]
        assert program.run(["merge", *words]) == 1
        assert f"{output} is read as an input and would be replaced" in capsys.readouterr().err
    assert manifest.verify(base_model) == manifest.verify(stack[1], "adapter") == []
