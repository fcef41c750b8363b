"""A model written anew is the same model."""

from pathlib import Path

import jax
import numpy as np
import pytest

from zhllama_jax.cli import program
from zhllama_jax.convert import llama_hf, manifest


def test_another_cut_into_shards_keeps_every_bit(tuned_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(tuned_model), "--output", str(tmp_path / "out"), "--to", "hf"]) == 0
    assert manifest.fingerprint(tmp_path / "out") == manifest.fingerprint(tuned_model)
    assert llama_hf.load_prompt(tmp_path / "out") == manifest.Prompt("alpaca")
    assert manifest.verify(tmp_path / "out") == []
    assert "fingerprint" in capsys.readouterr().out


def test_another_dtype_is_rounded_once(base_model: Path, tmp_path: Path) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    before, after = llama_hf.load(base_model, dtype="bfloat16"), llama_hf.load(tmp_path / "out")
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before.params, after.params)))
    assert after.history[-1] == {"step": "convert", "dtype": "bfloat16"}


def test_an_existing_output_is_kept(base_model: Path, tuned_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["convert", "--input", str(base_model), "--output", str(tuned_model)]) == 1
    assert "exists already" in capsys.readouterr().err
