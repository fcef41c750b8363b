"""The demo world: no held-out sentence, argument or wording occurs in training, and every part of it does."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from zhllama_jax.demo import english, lexicon, world

SIZES = {
    "english_documents": 2500,
    "chinese_documents": 2500,
    "held_out_documents": 150,
    "instruction_rows": 6000,
    "held_out_instruction_rows": 450,
}


@pytest.fixture(scope="module", params=[0, 1])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> world.World:
    return world.write(tmp_path_factory.mktemp("world"), seed=request.param, **SIZES)


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _texts(path: Path) -> list[str]:
    return [row["text"] for row in _rows(path)]


def _sentences(texts: list[str]) -> set[str]:
    """Splits at full stops; a question and its answer stay together. The fixed heading of English exercises is left out."""
    bodies = (text.removeprefix(english.SPEECH.heading) for text in texts)
    return {part.strip() for body in bodies for part in re.split(r"。|\.(?:\s|$)", body) if part.strip()}


def test_counts_and_lengths(made: world.World) -> None:
    assert len(_rows(made.english)) == len(_rows(made.chinese)) == 2500
    assert len(_rows(made.english_held_out)) == len(_rows(made.chinese_held_out)) == 150
    assert all(80 <= len(text) <= 300 for text in _texts(made.chinese) + _texts(made.chinese_held_out))


def test_no_held_out_sentence_occurs_in_training(made: world.World) -> None:
    for train, held_out in ((made.english, made.english_held_out), (made.chinese, made.chinese_held_out)):
        new, known = _sentences(_texts(held_out)), _sentences(_texts(train))
        assert len(new) > 800
        assert not new & known


def test_held_out_persons_days_and_places_stand_together_in_no_sentence_of_training(made: world.World) -> None:
    groups = (lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)

    def met(sentence: str, language: str) -> set[frozenset[str]]:
        names = ([(word, getattr(word, language).lower()) for word in group] for group in groups)
        there = ([word.en for word, name in group if name in sentence.lower()] for group in names)
        return {frozenset(words) for words in itertools.product(*there)}

    rows = [row["input"] for row in _rows(made.instructions_held_out) if row["task"] == "extract"]
    asked = {words for row in rows for words in met(row, "zh")}
    assert len(asked) > 20
    for path, language in ((made.chinese, "zh"), (made.english, "en")):
        known = {words for sentence in _sentences(_texts(path)) for words in met(sentence, language)}
        assert len(known) > 500
        assert not asked & known


def test_held_out_sets_are_those_of_no_list_in_training(made: world.World) -> None:
    names = "|".join(sorted((word.zh for word in (*lexicon.CATEGORY,)), key=len, reverse=True))
    pattern = re.compile(f"(?:(?:{names})、)*(?:{names})和(?:{names})")

    def sets(texts: list[str]) -> set[frozenset[str]]:
        return {frozenset(re.split("、|和", found)) for text in texts for found in pattern.findall(text)}

    asked = sets([row["input"] for row in _rows(made.instructions_held_out) if row["task"] in ("kind", "count", "member")])
    known = sets(_texts(made.chinese)) | sets([row["input"] for row in _rows(made.instructions)])
    assert len(asked) > 90
    assert len(known) > 1500
    assert not asked & known


def test_every_held_out_part_occurs_in_training(made: world.World) -> None:
    def words(path: Path) -> set[str]:
        return {word.lower() for text in _texts(path) for word in re.findall(r"[A-Za-z]+", text)}

    def characters(path: Path) -> set[str]:
        return set("".join(_texts(path)))

    assert words(made.english_held_out) <= words(made.english)
    assert characters(made.chinese_held_out) <= characters(made.chinese)
    instructions = {c for row in _rows(made.instructions_held_out) for c in row["instruction"] + row["input"] + row["output"]}
    assert instructions <= {c for row in _rows(made.instructions) for c in row["instruction"] + row["input"] + row["output"]}


def test_symbols_are_the_marks_of_chinese_text(made: world.World) -> None:
    marks = {c for text in _texts(made.chinese) for c in text if not c.isalnum() and c != " "}
    assert set(made.symbols.read_text("utf-8")) - set(" \n") == marks


def test_same_seed_same_bytes_and_another_seed_another_world(tmp_path: Path) -> None:
    small = dict.fromkeys(SIZES, 60)
    first, again, other = (world.write(tmp_path / name, seed=seed, **small) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    for path in first.directory.iterdir():
        assert path.read_bytes() == (again.directory / path.name).read_bytes()
        if path != first.symbols:
            assert path.read_bytes() != (other.directory / path.name).read_bytes()


def test_a_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chinese_documents is 0"):
        world.write(tmp_path, chinese_documents=0)


def test_no_answer_alone_is_worth_a_tenth(made: world.World) -> None:
    answers = Counter(row["output"] for row in _rows(made.instructions_held_out))
    assert answers.most_common(1)[0][1] < 0.1 * answers.total()


def test_tasks_have_equal_shares_and_rows_are_distinct(made: world.World) -> None:
    for path in (made.instructions, made.instructions_held_out):
        rows = _rows(path)
        shares = Counter(row["task"] for row in rows)
        assert max(shares.values()) - min(shares.values()) <= 1
        assert len({tuple(row.values()) for row in rows}) == len(rows)
