"""Instruction tasks: right answers, new arguments for procedures, new wordings of known facts."""

import re

import pytest

from zhllama_jax.demo import chinese, english, instructions, lexicon
from zhllama_jax.demo.draw import Draw
from zhllama_jax.demo.speech import Speech

NAMES = sorted(
    {str(word.zh) for word in (*lexicon.CATEGORY, *lexicon.OPPOSITE, *lexicon.JOBS, *lexicon.DAYS, *lexicon.NUMBERS, *lexicon.MEASURED)}
    | {str(w.en) for w in lexicon.TRANSLATED},
    key=len,
    reverse=True,
)


@pytest.fixture(scope="module", params=[0, 1, 2])
def split(request: pytest.FixtureRequest) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    train, held_out = (
        instructions.write_rows(Draw(request.param, held_out=side, stream="i"), rows) for side, rows in ((False, 6000), (True, 450))
    )
    return train, held_out


def _subject_and_wording(row: dict[str, str]) -> tuple[str, str]:
    """The word that a fact is asked about, and the instruction with it cut out."""
    opening = next(filter(row["instruction"].startswith, filter(None, chinese.SPEECH.openings)), "")
    body = row["instruction"].removeprefix(opening)
    subject = next(name for name in NAMES if re.search(rf"(?<![a-z]){name}(?![a-z])", body))
    return subject, opening + body.replace(subject, "X", 1)


def _wording(row: dict[str, str]) -> str:
    return _subject_and_wording(row)[1]


def _argument(row: dict[str, str]) -> frozenset[str]:
    """What must be new in a procedure: the set of a list, or the core words of a sentence."""
    if row["task"] == "extract":
        groups = (lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)
        return frozenset(str(word.zh) for group in groups for word in group if word.zh in row["input"])
    return frozenset(re.split("、|和", row["input"]))


def test_held_out_procedures_have_new_arguments(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    train, held_out = ([row for row in rows if row["task"] not in instructions.FACT_TASKS] for rows in split)
    known = {_argument(row) for row in train}
    assert len(held_out) == 136
    assert not [row for row in held_out if _argument(row) in known]


def test_held_out_facts_are_known_in_other_words(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    train, held_out = ([row for row in rows if row["task"] in instructions.FACT_TASKS] for rows in split)
    known_wordings = {(row["task"], _wording(row)) for row in train}
    known_facts = {(row["task"], _subject_and_wording(row)[0], row["output"]) for row in train}
    assert len(held_out) == 314
    assert not [row for row in held_out if (row["task"], _wording(row)) in known_wordings]
    assert {(row["task"], _subject_and_wording(row)[0], row["output"]) for row in held_out} <= known_facts


def test_held_out_wordings_are_made_of_known_pieces(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    def pieces(rows: list[dict[str, str]]) -> set[tuple[str, str]]:
        """Opening, question and ending of every fact question, by task."""
        found = set()
        for row in rows:
            if row["task"] not in instructions.FACT_TASKS:
                continue
            wording = _wording(row)
            opening = next(filter(wording.startswith, filter(None, chinese.SPEECH.openings)), "")
            ending = next(filter(wording.endswith, sorted(chinese.SPEECH.endings, key=len, reverse=True)))
            found |= {(row["task"], piece) for piece in (opening, ending, wording.removeprefix(opening).removesuffix(ending))}
        return found

    train, held_out = split
    assert pieces(held_out) <= pieces(train)


def test_no_instruction_occurs_in_both(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    train, held_out = ({(row["instruction"], row["input"]) for row in rows} for rows in split)
    assert not train & held_out


def _answer(row: dict[str, str]) -> str:
    """Works a procedure out again from the text of the row alone."""
    items = re.split("、|和", row["input"])
    asked = row["instruction"]
    if row["task"] == "count":
        return "一两三四五六"[len(items) - 1] + "个"
    if row["task"] == "member":
        return "有" if re.search("有没有(.+)？", asked)[1] in items else "没有"  # type: ignore[index]
    kinds = {str(kind.zh): {str(word.zh) for word in members} for kind, members in lexicon.CATEGORIES}
    [kind] = [kind for kind, members in kinds.items() if set(items) <= members]
    return kind


def test_list_answers_are_right(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    for row in split[0] + split[1]:
        if row["task"] in ("kind", "count", "member"):
            assert row["output"] == _answer(row), row


def test_reading_answers_stand_in_the_input_and_not_in_the_question(split: tuple[list[dict[str, str]], list[dict[str, str]]]) -> None:
    for row in split[0] + split[1]:
        if row["task"] == "extract":
            assert row["output"] in row["input"]
            assert row["output"] not in row["instruction"]


def test_the_table_lists_every_task() -> None:
    documented = set(re.findall(r"^\| (\w+) +\|", instructions.__doc__ or "", re.MULTILINE)) - {"task"}
    assert documented == {task.__name__ for task in instructions.TASKS}


def test_every_question_belongs_to_a_task() -> None:
    names = {task.__name__ for task in instructions.TASKS}
    assert {asked.split()[0] for asked in chinese.QUESTIONS} == names
    assert {asked.split()[0] for asked in english.QUESTIONS} == {task.__name__ for task in instructions.TASKS_OF_ANY_LANGUAGE}


@pytest.mark.parametrize("seeds", [range(first, first + 10) for first in range(0, 60, 10)], ids=lambda seeds: f"from {seeds[0]}")
def test_every_seed_gives_the_rows_that_are_asked_for(seeds: range) -> None:
    for seed in seeds:
        assert len(instructions.write_rows(Draw(seed, held_out=True, stream="instructions"), 450)) == 450


def test_more_rows_than_a_task_has_are_refused_by_its_name() -> None:
    draw = Draw(0, held_out=True, stream="instructions")
    # Seven days in the 12 of 96 wordings that are held out.
    with pytest.raises(
        ValueError, match=r"1300 instruction rows \(held out\) need 100 different ones of task weekday, which gave 84; .* 1092"
    ):
        instructions.write_rows(draw, 1300)


@pytest.mark.parametrize("speech", [chinese.SPEECH, english.SPEECH], ids=["chinese", "english"])
def test_an_exercise_is_one_sentence(speech: Speech) -> None:
    draw = Draw(0, held_out=False, stream="exercise")
    for _ in range(300):
        text = instructions.exercise(draw, speech)
        assert text.count(speech.full_stop) == 1
        assert text.endswith(speech.full_stop)
