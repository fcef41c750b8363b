"""Exact match: by task, blind to blanks at the ends and to nothing else, beside the price of guessing."""

import gzip
import json
from pathlib import Path

import pytest

from zhllama_jax.eval import answers

QUESTIONS = [
    answers.Question("今天星期一，明天呢？", "", "星期二", "weekday"),
    answers.Question("今天星期三，明天呢？", "", "星期四", "weekday"),
    answers.Question("倒过来写。", "ab", "ba", "reverse"),
    answers.Question("倒过来写。", "cd", "ba", "reverse"),
]


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_right_answers_are_counted_by_task() -> None:
    grades = answers.grade(QUESTIONS, ["星期二", "星期二", " ba\n", "ba"])
    assert (grades.right, grades.total, grades.exact) == (3, 4, 0.75)
    assert grades.by_task == {"reverse": (2, 2), "weekday": (1, 2)}
    assert list(grades.by_task) == ["reverse", "weekday"]


@pytest.mark.parametrize("answer", ["", "星期二。", "星期 二", "星期", "我想是星期二"])
def test_an_answer_is_right_as_a_whole_or_not_at_all(answer: str) -> None:
    assert answers.grade(QUESTIONS[:1], [answer]).right == 0


def test_the_most_frequent_answer_is_worth_what_always_giving_it_gets() -> None:
    for guess in {question.output for question in QUESTIONS}:
        assert answers.grade(QUESTIONS, [guess] * 4).exact <= answers.grade(QUESTIONS, [""] * 4).most_frequent
    assert answers.grade(QUESTIONS, [""] * 4).most_frequent == answers.grade(QUESTIONS, ["ba"] * 4).exact == 0.5


def test_figures_are_json_and_hold_the_share() -> None:
    figures = json.loads(json.dumps(answers.grade(QUESTIONS, ["星期二"] * 4).figures()))
    assert figures == {"right": 1, "total": 4, "by_task": {"reverse": [0, 2], "weekday": [1, 2]}, "most_frequent": 0.5, "exact": 0.25}


def test_too_few_answers_are_no_grades() -> None:
    with pytest.raises(ValueError, match="shorter"):
        answers.grade(QUESTIONS, ["星期二"])


def test_rows_are_read_in_order_with_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path / "exam.jsonl",
        {"instruction": "问", "output": "答"},
        {"instruction": "a", "input": "b", "output": "c", "task": "letters", "source": "else"},
    )
    assert answers.read(path) == [answers.Question("问", "", "答", "all"), answers.Question("a", "b", "c", "letters")]


def test_a_list_holds_the_same_questions(tmp_path: Path) -> None:
    """As instruction rows do, packed or not; its rows are named by their numbers."""
    rows = [{"instruction": "问", "output": "答"}, {"instruction": "a", "output": "b"}]
    path = tmp_path / "exam.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    assert answers.read(path) == answers.read(write(tmp_path / "exam.jsonl", *rows))
    with gzip.open(tmp_path / "exam.json.gz", "wt", encoding="utf-8") as packed:
        json.dump(rows, packed)
    assert answers.read(tmp_path / "exam.json.gz") == answers.read(path)
    for row in ({"instruction": "a"}, "问"):
        path.write_text(json.dumps([*rows, row]), encoding="utf-8")
        with pytest.raises(ValueError, match=r"exam\.json: row 2: a question "):
            answers.read(path)


@pytest.mark.parametrize(
    ("row", "named"),
    [({"instruction": "a"}, "output"), ({"output": "a"}, "instruction"), ({"instruction": "a", "output": 7}, "output")],
)
def test_a_row_that_is_no_question_is_named(tmp_path: Path, row: object, named: str) -> None:
    path = write(tmp_path / "exam.jsonl", {"instruction": "a", "output": "b"}, row)
    with pytest.raises(ValueError, match=rf"exam\.jsonl:2: .*missing or no text: {named}"):
        answers.read(path)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no question"):
        answers.read(write(tmp_path / "exam.jsonl"))
    with pytest.raises(FileNotFoundError):
        answers.read(tmp_path / "none.jsonl")
