"""What convert and merge say of what they wrote."""

from pathlib import Path

import pytest

from zhllama_jax.cli import program


def test_a_gguf_comes_with_the_line_for_k_quants(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), "--to", "gguf", "--dtype", "q8_0"]
    assert program.run(words) == 0
    said = capsys.readouterr()
    assert "llama-quantize --allow-requantize" in said.err and "Q4_K_M" in said.err
    assert "certificate: " in said.out and "logits up to" in said.out
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".gguf", ".json", ".md"}


def test_meta_goes_there_and_back_by_the_verbs(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "meta"), "--to", "meta", "--shards", "2"]) == 0
    assert program.run(["convert", "--input", str(tmp_path / "meta"), "--output", str(tmp_path / "back")]) == 0
    capsys.readouterr()
    assert program.run(["verify", "--left", str(tmp_path / "meta"), "--right", str(tmp_path / "back")]) == 0
    assert "are bit for bit the same; tokenizer: equal" in capsys.readouterr().out
    assert program.run(["generate", "--model", str(tmp_path / "meta"), "--prompt", "the", "--max_new_tokens", "2"]) == 0


def test_formats_that_do_not_know_a_flag_s_value_refuse_it(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), "--dtype", "q8_0"]) == 1
    assert "dtype must be one of float32, float16, bfloat16 for Hugging Face" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
