"""The baseline by its verb: the figures are those of `eval.ngram`."""

import json
from pathlib import Path

import pytest

from zhllama_jax.cli import program
from zhllama_jax.eval import ngram

TEXTS = ["江河都往海里流", "海却不满", "她把信读了两遍"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """(text to fit, text to score)."""
    fit, scored = tmp_path / "fit.jsonl", tmp_path / "scored.txt"
    fit.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    scored.write_text("海流不满\n\n第二")
    return fit, scored


def test_bits_are_those_of_the_model(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit, scored = files
    output = tmp_path / "figures.json"
    words = ["--fit", str(fit), "--text", f"诗={scored}", str(fit), "--order", "3", "--output", str(output)]
    assert program.run(["evaluate", "ngram", *words]) == 0
    fitted = ngram.fit(TEXTS, order=3)
    figures = json.loads(output.read_text())["texts"]
    assert figures["诗"] == {"documents": 2, "characters": 6, "bits_per_character": fitted.bits_per_character(["海流不满", "第二"])}
    assert figures["fit"]["bits_per_character"] == fitted.bits_per_character(TEXTS) < figures["诗"]["bits_per_character"]
    assert f"{figures['诗']['bits_per_character']:.4f}" in capsys.readouterr().out


def test_the_first_documents_may_be_enough(files: tuple[Path, Path], tmp_path: Path) -> None:
    fit, scored = files
    output = tmp_path / "figures.json"
    words = ["--fit", str(fit), "--text", str(scored), "--max_documents", "1", "--output", str(output)]
    assert program.run(["evaluate", "ngram", *words]) == 0
    assert json.loads(output.read_text())["texts"]["scored"]["characters"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fit", "missing.txt"], "missing.txt does not exist"),
        (["--order", "0"], "order is 0"),
        (["--max_documents", "0"], "max_documents must be at least 1, got 0"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    fit, scored = files
    given = words if "--fit" in words else ["--fit", str(fit), *words]
    assert program.run(["evaluate", "ngram", *given, "--text", str(scored)]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_figures_replace_no_input_and_no_other_file_by_chance(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, scored = files
    (tmp_path / "figures.json").write_text("precious")
    words = ["evaluate", "ngram", "--fit", str(fit), "--text", str(scored), "--output"]
    for output, overwrite, message in (
        (fit, ["--overwrite"], "is read as an input"),
        (scored, ["--overwrite"], "is read as an input"),
        (tmp_path / "figures.json", [], "exists already"),
    ):
        before = output.read_bytes()
        assert program.run([*words, str(output), *overwrite]) == 1
        assert message in capsys.readouterr().err and output.read_bytes() == before
    assert program.run([*words, str(tmp_path / "figures.json"), "--overwrite"]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["order"] == 5
    assert capsys.readouterr().err == f"wrote {tmp_path / 'figures.json'}\n"
