"""The same model or not: said, written, and in the exit status."""

import json
import shutil
from pathlib import Path

import pytest

from zhllama_jax import hub
from zhllama_jax.cli import program
from zhllama_jax.convert import verify as convert_verify
from zhllama_jax.convert import verify as verify_lib


def verify(left: Path, *words: str) -> int:
    return program.run(["verify", "--left", str(left), *words])


def test_the_same_weights_are_the_same_model(base_model: Path, tuned_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(base_model, "--right", str(tuned_model)) == 0
    out, err = capsys.readouterr()
    assert "21 of 21 are bit for bit the same; tokenizer: equal" in out
    assert "likeliest token the same in 100.00%" in out
    assert err == ""


def test_a_rounded_model_differs(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "rounded"
    assert program.run(["convert", "--input", str(base_model), "--output", str(other), "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert verify(base_model, "--right", str(other), "--logits", "false", "--output", str(tmp_path / "found.json")) == 1
    out, err = capsys.readouterr()
    assert "the same numbers, rounded to BF16" in out
    assert err == f"wrote {tmp_path / 'found.json'}\nzhllama: error: {base_model} and {other} differ in weights\n"
    assert json.loads((tmp_path / "found.json").read_text())["compared"]["equal"] is False


def test_the_same_weights_of_another_configuration_are_another_model(
    base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(base_model, other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.5}))
    with (other / "tokenizer.model").open("ab") as file:
        file.write(bytes([0x9A, 0x06, 0x00]))  # an empty field of protobuf that nothing reads
    assert verify(base_model, "--right", str(other), "--logits", "false") == 1
    assert capsys.readouterr().err == f"zhllama: error: {base_model} and {other} differ in configuration and tokenizer\n"


def test_what_the_manifest_does_not_know_is_told(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes the model no other one; weights that are not listed do, and are told once."""
    shutil.copytree(base_model, tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").touch()
    (tmp_path / "copy" / "results").mkdir()
    assert verify(tmp_path / "copy") == 0
    assert capsys.readouterr().err == "zhllama: note: not in the manifest, and not looked at: notes.txt, results\n"
    (tmp_path / "copy" / "extra.safetensors").touch()
    assert verify(tmp_path / "copy") == 1
    out, err = capsys.readouterr()
    assert out == "extra.safetensors is not in the manifest\n" and "not looked at: notes.txt, results\n" in err


def test_a_directory_is_held_against_its_manifest(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(base_model) == 0
    assert "every file is as its manifest says" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(base_model, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert verify(copy) == 1
    out, err = capsys.readouterr()
    assert out == "config.json has other contents than the manifest says\n"
    assert err == f"zhllama: error: {copy} is not what its manifest says\n"


def test_transformers_agrees(base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert verify(base_model, "--transformers") == 0
    assert "0 of 2 texts get other ids" in capsys.readouterr().out


def test_without_transformers_it_is_said_how_to_get_it(
    base_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(convert_verify, "against_transformers", lambda directory, texts: None)
    assert verify(base_model, "--transformers") == 1
    assert "pip install torch transformers (the extra `verify`)" in capsys.readouterr().err


def test_other_logits_in_transformers_end_with_status_1(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond the tolerance, after saying and writing what was found."""
    logits = {"max_abs": 0.02, "largest": 10.0, "same_argmax": 0.99}
    report = {"logits": logits, "texts": 2, "texts_with_other_ids": 0}
    monkeypatch.setattr(verify_lib, "against_transformers", lambda directory, *, texts: report)
    assert verify(base_model, "--transformers", "--output", str(tmp_path / "found.json")) == 1
    out, err = capsys.readouterr()
    assert "largest difference 0.02" in out
    assert err == f"wrote {tmp_path / 'found.json'}\nzhllama: error: {base_model} gives other logits in transformers than here\n"
    assert json.loads((tmp_path / "found.json").read_text())["transformers"]["agrees"] is False


def test_a_missing_directory_is_one_line(base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(base_model, "--right", "nowhere") == 1
    assert capsys.readouterr().err == f"zhllama: error: nowhere not found: {hub.absent('model')}\n"


def test_findings_replace_nothing_by_chance(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "found.json").write_text("precious")
    assert verify(base_model, "--output", str(tmp_path / "found.json")) == 1
    assert "exists already: choose another output or replace it with --overwrite" in capsys.readouterr().err
    assert verify(base_model, "--output", str(base_model / "config.json"), "--overwrite") == 1
    assert "lies inside" in capsys.readouterr().err
    assert verify(base_model, "--right", str(base_model), "--output", str(tmp_path / "found.json"), "--overwrite") == 0
    assert json.loads((tmp_path / "found.json").read_text())["compared"]["equal"] is True
    assert capsys.readouterr().err.splitlines()[-1] == f"wrote {tmp_path / 'found.json'}"


def test_a_released_model_is_held_against_what_there_is(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without digests plain verify names what works, and the comparisons run."""
    released = shutil.copytree(base_model, tmp_path / "released")
    (released / "zhllama.json").unlink()
    assert verify(released) == 1
    told = capsys.readouterr().err
    assert "has no zhllama.json, the digests of what zhllama writes: hold it against --right OTHER or --transformers" in told
    logits = {"max_abs": 0.0, "largest": 10.0, "same_argmax": 1.0}
    report = {"logits": logits, "texts": 2, "texts_with_other_ids": 0}
    monkeypatch.setattr(verify_lib, "against_transformers", lambda directory, *, texts: report)
    assert verify(released, "--transformers", "--output", str(tmp_path / "found.json")) == 0
    assert "held against nothing" in capsys.readouterr().err
    assert json.loads((tmp_path / "found.json").read_text())["manifest"] is None
    assert verify(released, "--right", str(base_model), "--logits", "false") == 0
    command = told.strip().rpartition("zhllama ")[2].replace("NEW", str(tmp_path / "new"))
    assert program.run(command.split()) == 0
    assert verify(tmp_path / "new") == 0


def test_a_grown_model_is_told_as_one(base_model: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grown = tmp_path / "grown"
    assert program.run(["resize", "--model", str(base_model), "--tokenizer", str(merged_pieces), "--output", str(grown)]) == 0
    assert verify(base_model, "--right", str(grown), "--logits", "false") == 1
    assert f": {grown} is {base_model} with 72 rows more, all else bit for bit the same\n" in capsys.readouterr().err
