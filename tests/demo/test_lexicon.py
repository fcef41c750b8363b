"""Words and facts: unambiguous names, and facts that hold in both directions."""

import pytest

from zhllama_jax.demo import lexicon
from zhllama_jax.demo.lexicon import English


def _everything() -> list[lexicon.Word]:
    groups = [value for value in vars(lexicon).values() if isinstance(value, tuple) and value and isinstance(value[0], lexicon.Word)]
    return list(dict.fromkeys(word for group in groups for word in group))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_exercises_can_name_a_translated_word_in_one_way_only(language: str) -> None:
    names = [str(getattr(word, language)) for word in (*lexicon.ITEMS, *lexicon.VEHICLES, *lexicon.COLOURS, *lexicon.JOBS)]
    assert len(set(names)) == len(names)


def test_names_are_clean() -> None:
    words = _everything()
    assert len(words) > 150
    assert all(word.en.isascii() and word.en.strip() == word.en for word in words)
    assert all(len(word.zh) <= 4 and not any(c.isascii() for c in word.zh) for word in words)


def test_opposites_are_mutual() -> None:
    assert all(lexicon.OPPOSITE[other] == word and other != word for word, other in lexicon.OPPOSITE.items())


def test_days_go_round() -> None:
    monday, sunday = lexicon.DAYS[0], lexicon.DAYS[-1]
    assert lexicon.day_after(sunday) == monday
    assert lexicon.day_after(monday, -1) == sunday
    assert lexicon.day_after(lexicon.DAYS[5], 2) == monday


def test_every_job_has_its_own_workplace_and_every_thing_one_kind() -> None:
    assert len(set(lexicon.WORKPLACE.values())) == len(lexicon.JOBS)
    assert sum(len(members) for _, members in lexicon.CATEGORIES) == len(lexicon.CATEGORY)


@pytest.mark.parametrize(
    ("word", "article", "plural"),
    [
        (English("cat"), "a cat", "cats"),
        (English("apple"), "an apple", "apples"),
        (English("box", "boxes"), "a box", "boxes"),
        (English("rice", mass=True), "some rice", "rice"),
    ],
)
def test_english_names_carry_article_and_plural(word: English, article: str, plural: str) -> None:
    assert (word.a, word.s) == (article, plural)
