"""The merge by its verb: the released digests, and what it says."""

from pathlib import Path

import pytest

from zhllama_jax import files
from zhllama_jax.cli import program
from zhllama_jax.tokenizer import merge as tokenizer_merge


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


@pytest.mark.parametrize(("mode", "next_said"), [("safe", True), ("reference", False)])
def test_words_that_reference_mode_strands_are_told_in_the_place_of_what_is_next(
    mode: str, next_said: bool, english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("新能源汽车\n热失控\n", encoding="utf-8")
    assert merge(english_pieces, tmp_path / "words.txt", tmp_path / "merged.model", "--mode", mode, "--proof_strings", "50") == 0
    err = capsys.readouterr().err
    assert ("next: zhllama resize" in err) == next_said
    assert ("no text is ever encoded as 2 words of lists, such as 新能源汽车," in err and "safe mode does" in err) != next_said


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that was begun fails the test."""
    monkeypatch.setattr(tokenizer_merge, "merge", lambda *_, **__: pytest.fail("the work began before the output was looked at"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to standard error: one line."""
    err = capsys.readouterr().err
    assert err.startswith("zhllama: error: ") and err.count("\n") == 1
    return err


def test_a_directory_is_no_output(no_work: None, english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys) -> None:
    assert merge(english_pieces, chinese_pieces, tmp_path) == 1
    assert f"{tmp_path} is a directory: name a file" in said(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_replaced_only_on_demand(english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "merged.model"
    output.write_bytes(b"precious")
    assert merge(english_pieces, chinese_pieces, output, "--proof_strings", "50") == 1
    assert f"{output} exists already" in said(capsys) and output.read_bytes() == b"precious"
    assert merge(english_pieces, chinese_pieces, output, "--proof_strings", "50", "--overwrite") == 0
    assert output.read_bytes() != b"precious"


@pytest.mark.parametrize("which", [0, 1], ids=["the base's directory", "an added file"])
def test_an_input_is_never_replaced(no_work: None, which: int, english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys) -> None:
    inputs = tmp_path / "tokenizer.model", tmp_path / "zh.model"
    for copy, source in zip(inputs, (english_pieces, chinese_pieces), strict=True):
        copy.write_bytes(source.read_bytes())
    assert merge(tmp_path, inputs[1], inputs[which], "--overwrite") == 1
    assert f"{inputs[which]} is read as an input" in said(capsys)
    assert inputs[0].read_bytes() == english_pieces.read_bytes() and inputs[1].read_bytes() == chinese_pieces.read_bytes()


@pytest.mark.parametrize(
    ("base", "words", "message"),
    [
        (None, ["--script", "klingon"], "klingon"),
        (Path("nowhere.model"), [], "nowhere.model not found"),
    ],
)
def test_wrong_input_is_one_line(
    base: Path | None,
    words: list[str],
    message: str,
    english_pieces: Path,
    chinese_pieces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert merge(base or english_pieces, chinese_pieces, tmp_path / "merged.model", *words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "merged.model").exists()
