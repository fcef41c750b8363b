"""The merge by its verb: the released digests, and what it says."""

from pathlib import Path

import pytest

from zhllama_jax import files
from zhllama_jax.cli import program


def merge(base: Path, added: Path, output: Path, *words: str) -> int:
    return program.run(["tokenizer", "merge", "--base", str(base), "--added", str(added), "--output", str(output), *words])


@pytest.mark.parametrize(
    ("words", "pieces", "digest"),
    [
        ([], "49,953", "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"),
        (["--pad_token"], "49,954", "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"),
    ],
)
def test_reference_mode_writes_the_released_file(
    words: list[str], pieces: str, digest: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, added = (shared_data / "tokenizers" / name for name in ("llama_32000.model", "chinese_sp_20000.model"))
    assert merge(base, added, tmp_path / "merged.model", "--mode", "reference", *words) == 0
    assert files.sha256(tmp_path / "merged.model") == digest
    assert f"merged.model: {pieces} pieces" in capsys.readouterr().out


def test_safe_mode_says_what_it_proved(
    english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(english_pieces, chinese_pieces, tmp_path / "merged.model", "--proof_strings", "50") == 0
    out = capsys.readouterr().out
    assert "`--mode reference`" in out
    assert "is encoded exactly as before" in out
    assert files.sha256(tmp_path / "merged.model") in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--script", "klingon"], "klingon"),
        (["--base", "nowhere.model"], "nowhere.model not found"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], message: str, english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(english_pieces, chinese_pieces, tmp_path / "merged.model", *words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "merged.model").exists()
