"""English sentences: lists with articles, capitals, and nothing but ASCII."""

import re

import pytest

from zhllama_jax.demo import english, instructions, lexicon, scenes
from zhllama_jax.demo.draw import Draw


def test_lists_have_articles() -> None:
    assert english.listed((lexicon.FRUIT[0], lexicon.DISHES[0], lexicon.ANIMALS[0])) == "an apple, some bread and a rabbit"


@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
def test_scenes_are_told_whole(make: object) -> None:
    draw = Draw(0, held_out=False, stream="told")
    for _ in range(50):
        text = english.tell(make(draw), draw)  # type: ignore[operator]
        assert text.isascii()
        assert not set("{}<>") & set(text)
        assert text[0].isupper()
        assert text.count('"') % 2 == 0
        assert not re.search(r"\ba [aeiou]", text), text


def test_exercises_have_articles_too() -> None:
    draw = Draw(0, held_out=False, stream="exercise")
    texts = [instructions.exercise(draw, english.SPEECH) for _ in range(500)]
    assert not [text for text in texts if re.search(r"\b(a [aeiou]|an [^aeiou])", text) or "  " in text]
    assert any("what is an " in text for text in texts)
    assert not [text for text in texts if re.search(r"(kind|what) (is|of thing is) an? (red|doctor)", text)]
