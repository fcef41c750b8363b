"""The report of a merge by its verb."""

import json
import shutil
from pathlib import Path

import pytest

from zhllama_jax.cli import program, terminal

SENTENCE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"


@pytest.fixture
def merged(english_pieces: Path, chinese_pieces: Path, tmp_path: Path) -> Path:
    """The English tokenizer with Chinese pieces behind."""
    path = tmp_path / "merged.model"
    words = ["tokenizer", "merge", "--base", str(english_pieces), "--added", str(chinese_pieces), "--output", str(path)]
    assert program.run([*words, "--proof_strings", "50"]) == 0
    return path


def report(base: Path, merged: Path, *words: str) -> int:
    return program.run(["tokenizer", "report", "--base", str(base), "--merged", str(merged), "--size", "micro", *words])


def test_the_report_is_shown_and_written(english_pieces: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chinese, english = tmp_path / "chinese.txt", tmp_path / "english.txt"
    chinese.write_text("江河都往海里流\n今天天气很好\n")
    english.write_text("The sea is never full.\n")
    capsys.readouterr()
    assert report(english_pieces, merged, "--text", f"诗={chinese}", str(english), "--output", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert SENTENCE in shown
    assert shown == terminal.aligned((tmp_path / "out" / "report.md").read_text())
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(figures["texts"]) == ["诗", "english"]
    assert figures["texts"]["english"]["changed_lines"] == 0
    assert figures["cost"]["hidden_size"] == 32
    assert "诗" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "compression.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_sentence(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, added = (shared_data / "tokenizers" / name for name in ("llama_32000.model", "chinese_sp_20000.model"))
    words = ["--base", str(base), "--added", str(added), "--output", str(tmp_path / "m.model"), "--mode", "reference"]
    assert program.run(["tokenizer", "merge", *words]) == 0
    text = tmp_path / "one.txt"
    text.write_text(SENTENCE)
    capsys.readouterr()
    assert report(base, tmp_path / "m.model", "--text", str(text)) == 0
    assert "35 → 16 tokens" in capsys.readouterr().out


def test_a_missing_text_is_one_line(english_pieces: Path, merged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(english_pieces, merged, "--text", "zh=missing.txt") == 1
    assert "missing.txt not found" in capsys.readouterr().err


def test_exchanged_tokenizers_are_refused(english_pieces: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "one.txt"
    text.write_text("x")
    assert report(merged, english_pieces, "--text", str(text)) == 1
    assert "does not extend the base" in capsys.readouterr().err


def test_a_report_replaces_no_input_and_no_other_file_by_chance(
    english_pieces: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "report.md"
    text.write_text("江河都往海里流")
    named = f"text={shutil.copy(text, tmp_path / 'text.txt')}"
    capsys.readouterr()
    assert report(english_pieces, merged, "--text", named, "--output", str(tmp_path)) == 1
    assert f"{text} exists already: choose another output or replace it with --overwrite" in capsys.readouterr().err
    (tmp_path / "compression.png").symlink_to(tmp_path / "text.txt")
    assert report(english_pieces, merged, "--text", named, "--output", str(tmp_path), "--overwrite") == 1
    assert "compression.png is read as an input and would be replaced" in capsys.readouterr().err
    (tmp_path / "compression.png").unlink()
    assert report(english_pieces, merged, "--text", named, "--output", str(tmp_path), "--overwrite") == 0
    assert SENTENCE in text.read_text()


def test_a_training_has_tokens(english_pieces: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "one.txt"
    text.write_text("x")
    for tokens in ("-5", "0"):
        assert report(english_pieces, merged, "--text", str(text), "--training_tokens", tokens) == 1
        assert f"training_tokens must be at least 1, got {tokens}" in capsys.readouterr().err
