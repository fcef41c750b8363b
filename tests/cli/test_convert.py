"""A model written anew is the same model."""

import io
import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.reference import released_adapters
from zhllama_jax.cli import program
from zhllama_jax.convert import host, llama_hf, manifest, peft, source
from zhllama_jax.tokenizer import processor


def test_another_cut_into_shards_keeps_every_bit(tuned_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(tuned_model), "--output", str(tmp_path / "out"), "--to", "hf"]) == 0
    assert source.fingerprint(tmp_path / "out") == source.fingerprint(tuned_model)
    assert source.load_prompt(tmp_path / "out") == manifest.Prompt("alpaca")
    assert manifest.verify(tmp_path / "out") == []
    assert "fingerprint" in capsys.readouterr().out


def test_another_dtype_is_rounded_once(base_model: Path, tmp_path: Path) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    before, after = host.load(base_model, dtype="bfloat16"), host.load(tmp_path / "out")
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before.params, after.params)))
    assert after.history[-1] == {"step": "convert", "dtype": "bfloat16"}


@pytest.mark.parametrize(("dtype", "other"), [([], True), (["--dtype", "float32"], True), (["--dtype", "bfloat16"], False)])
def test_the_next_command_that_is_named_succeeds(
    base_model: Path, tmp_path: Path, dtype: list[str], other: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), *dtype]) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "zhllama verify" in line]
    words = shlex.split(line.partition("zhllama ")[2])
    assert ("--right" in words) == other, "weights in another dtype are not bit for bit the same"
    assert program.run(words) == 0


def test_padding_without_a_piece_is_kept(base_model: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in many a released LLaMA: pad_token_id 0, and a tokenizer that has no piece for padding."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    checkpoint, tokenizer = host.load(base_model), processor.Tokenizer.load(base_model)
    config = checkpoint.config.replace(pad_token_id=0)
    llama_hf.save(model, config=config, params=checkpoint.params, tokenizer=tokenizer)
    rows = {"lm_head": checkpoint.params["lm_head"]}
    peft.save(
        adapter,
        config=config,
        lora={},
        rows=rows,
        lora_config=None,
        base=model,
        base_fingerprint=source.fingerprint(model),
        tokenizer=tokenizer,
    )
    for verb, words in (
        ("convert", ["--input", str(model)]),
        ("resize", ["--model", str(model), "--tokenizer", str(merged_pieces)]),
        ("merge", ["--model", str(model), "--adapter", str(adapter)]),
    ):
        assert program.run([verb, *words, "--output", str(tmp_path / verb)]) == 0
        assert source.load_config(tmp_path / verb).pad_token_id == 0
        assert llama_hf.load_generation(tmp_path / verb)["pad_token_id"] == 0
    assert program.run(["verify", "--left", str(model), "--right", str(tmp_path / "convert")]) == 0


def test_an_existing_output_is_kept(base_model: Path, tuned_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tuned_model)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_neither_inputs_nor_files_of_others_are_replaced(
    base_model: Path, tmp_path: Path, overwrite: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base_model, tmp_path / "home" / "model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output, words in (
        ("home", "home holds"),
        ("home/model", "is read as an input and would be replaced"),
        ("home/model/new", "lies inside"),
        ("home/model/config.json", "config.json lies inside"),
    ):
        assert program.run(["convert", "--input", str(tmp_path / "home" / "model"), "--output", str(tmp_path / output), *overwrite]) == 1
        assert words in capsys.readouterr().err
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "home"), *overwrite]) == 1
    assert "home holds files and no zhllama.json" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_model_of_ours_is_replaced_when_told(base_model: Path, tmp_path: Path) -> None:
    words = ["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), "--dtype"]
    assert program.run([*words, "float16"]) == 0
    assert program.run([*words, "bfloat16", "--overwrite"]) == 0
    assert source.fingerprint(tmp_path / "out") != source.fingerprint(base_model)
    assert host.load(tmp_path / "out").history[-1] == {"step": "convert", "dtype": "bfloat16"}


def test_what_was_changed_gets_no_new_manifest(
    base_model: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of one weight: no verb writes the model anew, as if nothing had happened, and the check that is named tells which weight."""
    model = shutil.copytree(base_model, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    resize = ["resize", "--model", str(model), "--tokenizer", str(merged_pieces)]
    for words in (["convert", "--input", str(model)], resize):
        assert program.run([*words, "--output", str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert f"{weights}: lm_head.weight is not what zhllama.json beside it records" in told
        assert not (tmp_path / "out").exists()
    [check] = re.findall(r"`zhllama (verify [^`]+)`", told)
    assert program.run(shlex.split(check)) == 1
    assert "lm_head.weight" in capsys.readouterr().out


@pytest.fixture
def released(base_model: Path, tmp_path: Path) -> Path:
    """A model as others publish them: no manifest, a licence, nothing about sampling."""
    model = shutil.copytree(base_model, tmp_path / "released")
    (model / manifest.FILE).unlink()
    (model / "LICENSE").write_text("You may.")
    (model / "training_args.bin").write_text("pickle")
    (model / "generation_config.json").write_text('{"_from_model_config": true, "eos_token_id": 2}')
    return model


def test_a_released_alpaca_is_told_its_template_and_chats(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert program.run(["convert", "--input", str(released), "--output", str(out), "--template", "alpaca"]) == 0
    assert source.load_prompt(out) == manifest.Prompt("alpaca", "faithful")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert program.run(["chat", "--model", str(out), "--max_new_tokens", "2"]) == 0
    assert "error" not in capsys.readouterr().err
    assert program.run(["convert", "--input", str(released), "--output", str(tmp_path / "x"), "--template", "vicuna"]) == 1
    assert "no template 'vicuna': choose one of alpaca" in capsys.readouterr().err


def test_nothing_of_the_source_is_dropped_in_silence_and_nothing_put_into_its_mouth(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert program.run(["convert", "--input", str(released), "--output", str(out)]) == 0
    assert "note: left out of what is written: README.md, training_args.bin\n" in capsys.readouterr().err
    assert (out / "LICENSE").read_text() == "You may." and manifest.verify(out) == []
    assert llama_hf.load_generation(out).keys() == {"bos_token_id", "eos_token_id", "pad_token_id"}


def test_a_released_adapter_becomes_one_of_ours(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = released_adapters.write(tmp_path / "lora", released_adapters.tensors(source.load_config(base_model)), frobnicate=1)
    words = ["convert", "--input", str(released), "--to", "peft", "--output", str(tmp_path / "out")]
    assert program.run(words) == 1
    assert "frobnicate is unknown" in capsys.readouterr().err
    assert program.run([*words, "--allow_unknown_keys"]) == 0
    assert "30 tensors, digest" in capsys.readouterr().out
    assert manifest.verify(tmp_path / "out", "adapter") == []
    assert program.run(["merge", "--model", str(base_model), "--adapter", str(tmp_path / "out"), "--output", str(tmp_path / "merged")]) == 0
    assert program.run([*words[:2], str(base_model), *words[3:], "--overwrite"]) == 1
    assert "is a model, not an adapter" in capsys.readouterr().err
