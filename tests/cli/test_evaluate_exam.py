"""The exam by its verb: exact answers of a model, by task."""

import json
from pathlib import Path

import pytest

from zhllama_jax.adapt import measure
from zhllama_jax.cli import program, ready
from zhllama_jax.convert import manifest


@pytest.fixture
def exam(tuned_model: Path, tmp_path: Path) -> Path:
    """Four questions, of which the model answers those right that were written down from its own answers."""
    loaded = ready.load(tuned_model)
    subject = measure.Subject(loaded.config, loaded.weights, loaded.tokenizer)
    asked = [("Count.", ""), ("Name a river.", "sea"), ("Say it.", ""), ("Again.", "")]
    prompt = manifest.Prompt("alpaca", "joined")
    given = measure.ask(subject, asked, prompt=prompt, max_new_tokens=4, options=loaded.options, batch_size=64)
    rows = [
        {
            "instruction": instruction,
            "input": text,
            "output": answer if number % 2 else "nothing of the kind",
            "task": f"task {number // 2}",
        }
        for number, ((instruction, text), answer) in enumerate(zip(asked, given, strict=True))
    ]
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_exact_answers_are_counted_by_task(tuned_model: Path, exam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    words = ["--model", str(tuned_model), "--exam", str(exam), "--max_new_tokens", "4", "--output", str(output)]
    assert program.run(["evaluate", "exam", *words]) == 0
    figures = json.loads(output.read_text())
    assert (figures["right"], figures["total"], figures["exact"], figures["template"]) == (2, 4, 0.5, "alpaca")
    assert figures["by_task"] == {"task 0": [1, 2], "task 1": [1, 2]}
    assert [wrong["wanted"] for wrong in figures["wrong"]] == ["nothing of the kind"] * 2
    out = capsys.readouterr().out
    assert out.count("50.0%") == 4, "two tasks, all of them, and the most frequent answer"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exam", "missing.jsonl"], "missing.jsonl"),
        (["--max_new_tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        (["--template", "alpacca"], "no template 'alpacca'"),
    ],
)
def test_wrong_words_stop_before_the_model_is_read(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "exam.jsonl"
    path.write_text('{"instruction": "Say a.", "output": "a"}\n')
    given = words if "--exam" in words else ["--exam", str(path), *words]
    assert program.run(["evaluate", "exam", "--model", "nowhere", *given]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_figures_replace_no_input_and_no_other_file_by_chance(
    tuned_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exam, figures = tmp_path / "exam.jsonl", tmp_path / "figures.json"
    exam.write_text('{"instruction": "Say a.", "output": "a"}\n')
    figures.write_text("precious")
    words = ["evaluate", "exam", "--model", str(tuned_model), "--exam", str(exam), "--max_new_tokens", "1", "--output"]
    for output, overwrite, message in (
        (exam, ["--overwrite"], "is read as an input"),
        (tuned_model / "config.json", ["--overwrite"], "lies inside"),
        (figures, [], "exists already"),
    ):
        before = output.read_bytes()
        assert program.run([*words, str(output), *overwrite]) == 1
        assert message in capsys.readouterr().err and output.read_bytes() == before
    assert program.run([*words, str(figures), "--overwrite"]) == 0
    assert json.loads(figures.read_text())["total"] == 1
