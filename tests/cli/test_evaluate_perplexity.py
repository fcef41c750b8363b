"""The table and the figures of texts under a model."""

import json
from pathlib import Path

import pytest

from zhllama_jax.cli import program, ready
from zhllama_jax.eval import likelihood


def evaluate(model: Path, *words: str) -> int:
    return program.run(["evaluate", "perplexity", "--model", str(model), *words])


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    """One file of each kind."""
    plain, rows = tmp_path / "plain.txt", tmp_path / "rows.jsonl"
    plain.write_text("The sea is never full.\nRivers run.\n\nA second document.\n")
    rows.write_text('{"text": "江河都往海里流"}\n{"text": "She reads."}\n')
    return plain, rows


def test_figures_are_those_of_the_library(
    base_model: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, rows = texts
    output = tmp_path / "figures.json"
    assert evaluate(base_model, "--text", str(plain), f"混合={rows}", "--length", "32", "--output", str(output)) == 0
    figures = json.loads(output.read_text())["texts"]
    assert list(figures) == ["plain", "混合"]
    loaded = ready.load(base_model)
    documents = ["The sea is never full.\nRivers run.", "A second document."]
    score = likelihood.score(loaded.config, loaded.weights, loaded.tokenizer, documents, length=32)
    assert figures["plain"] == pytest.approx(score.figures())
    out = capsys.readouterr().out
    assert f"{score.bits_per_character:.4f}" in out
    assert len({len(line) for line in out.splitlines()[:3]}) == 1


def test_the_first_documents_may_be_enough(base_model: Path, texts: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    assert evaluate(base_model, "--text", str(texts[0]), "--max_documents", "1", "--output", str(output)) == 0
    assert json.loads(output.read_text())["texts"]["plain"]["documents"] == 1


def test_a_missing_file_stops_before_the_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(Path("nowhere"), "--text", "zh=missing.txt") == 1
    assert "missing.txt does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--length", "0", "length must be at least 2 tokens, got 0"),
        ("--length", "-5", "length must be at least 2 tokens, got -5"),
        ("--batch_size", "0", "batch_size must be at least 1 window, got 0"),
        ("--max_documents", "0", "max_documents must be at least 1, got 0"),
        ("--max_documents", "-1", "max_documents must be at least 1, got -1"),
    ],
)
def test_numbers_out_of_range_stop_before_the_model_is_read(
    flag: str, value: str, message: str, texts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(Path("nowhere"), "--text", str(texts[0]), flag, value) == 1
    assert message in capsys.readouterr().err


def test_a_malformed_row_is_named_with_its_line(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n{"txt": "bad"}\n')
    assert evaluate(base_model, "--text", str(path)) == 1
    assert f"{path}:2: no field 'text'" in capsys.readouterr().err


def test_an_empty_file_is_refused(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    assert evaluate(base_model, "--text", str(path)) == 1
    assert f"there is no text to score in {path}" in capsys.readouterr().err


def test_figures_replace_no_input_and_no_other_file_by_chance(
    base_model: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "figures.json").write_text("precious")
    words = ["--text", *map(str, texts), "--max_documents", "1", "--length", "32", "--output"]
    for output, overwrite, message in (
        (texts[1], ["--overwrite"], "is read as an input and would be replaced"),
        (base_model / "config.json", ["--overwrite"], "lies inside"),
        (tmp_path / "figures.json", [], "exists already: choose another output or replace it with --overwrite"),
    ):
        before = output.read_bytes()
        assert evaluate(base_model, *words, str(output), *overwrite) == 1
        assert message in capsys.readouterr().err and output.read_bytes() == before
    assert evaluate(base_model, *words, str(tmp_path / "figures.json"), "--overwrite") == 0
    assert list(json.loads((tmp_path / "figures.json").read_text())["texts"]) == ["plain", "rows"]
    assert capsys.readouterr().err.splitlines()[-1] == f"wrote {tmp_path / 'figures.json'}"
