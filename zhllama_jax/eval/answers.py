"""Instructions with checkable answers: exact match of what the model writes, by task, beside what guessing gives."""

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import lines


class Question(NamedTuple):
    """An instruction with its one right answer.

    Attributes:
      instruction: what is asked.
      input: the text it is asked about, maybe empty.
      output: the answer.
      task: the kind of question; figures are given by task.
    """

    instruction: str
    input: str
    output: str
    task: str


class Grades(NamedTuple):
    """How many answers are exactly right.

    Attributes:
      right: exact answers.
      total: questions.
      by_task: task -> (right, total), tasks in alphabetical order.
      most_frequent: share that the single most frequent answer would get right, the price of guessing.
    """

    right: int
    total: int
    by_task: dict[str, tuple[int, int]]
    most_frequent: float

    @property
    def exact(self) -> float:
        """Share of exact answers."""
        return self.right / self.total

    def figures(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**self._asdict(), "exact": self.exact}


def read(path: str | Path) -> list[Question]:
    """Reads questions from rows, one a line or in a `.json` list, with `instruction`, `output` and, optionally, `input` and `task`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a row is no object, lacks a key, or a value is no text; the place is named. Or there is no row.
    """
    questions = []
    for place, row in lines.values(path):
        if not isinstance(row, dict):
            raise ValueError(f"{place}: a question must be an object with instruction and output")
        values = {"input": "", "task": "all", **{key: row[key] for key in Question._fields if key in row}}
        missing = [key for key in Question._fields if not isinstance(values.get(key), str)]
        if missing:
            raise ValueError(f"{place}: a question needs the text fields instruction and output; missing or no text: {', '.join(missing)}")
        questions.append(Question(**values))
    if not questions:
        raise ValueError(f"{path} holds no question")
    return questions


def grade(questions: Sequence[Question], answers: Iterable[str]) -> Grades:
    """Compares answers with questions, both without blanks at their ends."""
    right: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    wanted: collections.Counter[str] = collections.Counter()
    for question, answer in zip(questions, answers, strict=True):
        total[question.task] += 1
        wanted[question.output.strip()] += 1
        right[question.task] += answer.strip() == question.output.strip()
    return Grades(
        right=right.total(),
        total=total.total(),
        by_task={task: (right[task], total[task]) for task in sorted(total)},
        most_frequent=wanted.most_common(1)[0][1] / total.total(),
    )
