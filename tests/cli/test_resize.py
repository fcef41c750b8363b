"""A model grown to a merged tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from zhllama_jax.cli import program
from zhllama_jax.convert import safetensors_io, source
from zhllama_jax.tokenizer import merge


def resize(model: Path, tokenizer: Path, output: Path, *words: str) -> int:
    return program.run(["resize", "--model", str(model), "--tokenizer", str(tokenizer), "--output", str(output), *words])


@pytest.mark.parametrize("init", ["mean_of_pieces", "mean", "normal"])
def test_old_rows_stay_bit_for_bit(
    init: str, base_model: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resize(base_model, merged_pieces, tmp_path / "grown", "--init", init) == 0
    before, after = source.load_config(base_model), source.load_config(tmp_path / "grown")
    assert (after.base_vocab_size, after.vocab_size > before.vocab_size) == (before.vocab_size, True)
    assert f"{before.vocab_size} rows grown to {after.vocab_size}" in capsys.readouterr().out
    with safetensors_io.open_model(base_model) as old, safetensors_io.open_model(tmp_path / "grown") as new:
        for name in old.entries:
            assert np.array_equal(old.read(name), new.read(name)[: old.shapes[name][0]])


def test_what_is_next_trains_the_new_rows_or_else_goes_on_to_instructions(
    base_model: Path, merged_pieces: Path, english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A padding piece, which the paper adds before it tunes, has nothing to learn."""
    made = merge.merge(english_pieces, [chinese_pieces], mode="safe", pad_token=True, proof_strings=50)
    (tmp_path / "pad.model").write_bytes(made.serialized)
    assert resize(base_model, merged_pieces, tmp_path / "zh") == 0
    assert "--stage embeddings --data.sources '{text: {files: [TEXT]}}'" in capsys.readouterr().err
    assert resize(tmp_path / "zh", tmp_path / "pad.model", tmp_path / "padded") == 0
    assert "--stage sft --data.sources '{sft: {files: [ROWS]}}'" in capsys.readouterr().err


def test_a_vocabulary_that_does_not_extend_the_models_is_refused(
    base_model: Path, chinese_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resize(base_model, chinese_pieces, tmp_path / "grown") == 1
    assert capsys.readouterr().err.startswith("zhllama: error: ")
    assert not (tmp_path / "grown").exists()


def test_the_models_own_tokenizer_adds_nothing(
    base_model: Path, english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resize(base_model, english_pieces, tmp_path / "grown") == 1
    assert "nothing to add" in capsys.readouterr().err


def test_neither_the_model_nor_the_tokenizer_is_replaced(
    base_model: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory of ours that holds the merged tokenizer is replaced by nothing that is made from it."""
    shutil.copytree(base_model, tmp_path / "ours")
    shutil.copy(merged_pieces, tmp_path / "ours" / "merged.model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert resize(base_model, tmp_path / "ours" / "merged.model", tmp_path / "ours", "--overwrite") == 1
    assert f"ours holds {tmp_path / 'ours' / 'merged.model'}, which is read as an input" in capsys.readouterr().err
    assert resize(tmp_path / "ours", merged_pieces, tmp_path / "ours", "--overwrite") == 1
    assert "is read as an input and would be replaced" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == before
