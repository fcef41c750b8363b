"""What exercises need of a language, held for both."""

import re
import string

import pytest

from zhllama_jax.demo import chinese, english, lexicon
from zhllama_jax.demo.speech import Speech

SPEECHES = pytest.mark.parametrize("speech", [chinese.SPEECH, english.SPEECH], ids=["chinese", "english"])


@SPEECHES
def test_wordings_are_distinct_and_hold_no_full_stop(speech: Speech) -> None:
    for wordings in speech.questions.values():
        assert len(set(wordings)) == len(wordings)
    pieces = [*speech.openings, *speech.endings, *(wording for wordings in speech.questions.values() for wording in wordings)]
    assert not any(speech.full_stop in re.sub(r"\{.*?\}", "", piece) for piece in pieces)


@SPEECHES
def test_an_exercise_has_its_three_places(speech: Speech) -> None:
    fields = [name for _, name, _, _ in string.Formatter().parse(speech.exercise) if name]
    assert fields == ["instruction", "given", "output"]
    assert [name for _, name, _, _ in string.Formatter().parse(speech.given) if name] == ["input"]
    assert speech.exercise.endswith(speech.full_stop)


@SPEECHES
def test_a_row_names_its_words_in_order(speech: Speech) -> None:
    words = lexicon.ANIMALS[:4]
    row = speech.row(words)
    places = [row.index(speech.name(word)) for word in words]
    assert places == sorted(places)


@SPEECHES
def test_yes_and_no_differ(speech: Speech) -> None:
    assert speech.yes != speech.no
