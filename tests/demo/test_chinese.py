"""Chinese sentences: lists, measure words and quotations."""

import re

import pytest

from zhllama_jax.demo import chinese, instructions, lexicon, scenes
from zhllama_jax.demo.draw import Draw


@pytest.mark.parametrize(("count", "expected"), [(2, "兔子和老虎"), (3, "兔子、老虎和狮子"), (4, "兔子、老虎、狮子和大象")])
def test_lists(count: int, expected: str) -> None:
    assert chinese.listed(lexicon.ANIMALS[:count]) == expected


@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
def test_scenes_are_told_whole(make: object) -> None:
    draw = Draw(0, held_out=False, stream="told")
    for _ in range(50):
        text = chinese.tell(make(draw), draw)  # type: ignore[operator]
        assert text.endswith("。")
        assert not set("{}<>") & set(text)
        assert text.count("“") == text.count("”")


def test_two_of_anything_is_liang_and_the_number_two_is_er() -> None:
    assert [number.zh.counting for number in (lexicon.NUMBERS[1], lexicon.NUMBERS[11], lexicon.NUMBERS[19])] == ["两", "十二", "二十"]
    assert chinese.SPEECH.amount(lexicon.NUMBERS[1]) == "两个"
    draw = Draw(0, held_out=False, stream="two")
    measures = "".join({word.zh.m for word in lexicon.MEASURED} | {"样"})
    text = "".join(chinese.tell(make(draw), draw) for make in (scenes.shopping, scenes.picture, scenes.numbers) for _ in range(300))
    assert not re.findall(rf"(?<![十第])二[{measures}]", text)
    assert {"两样", "两个", "两只"} <= {text[place.start() : place.end()] for place in re.finditer("两.", text)}
    assert "和二，" in text  # the number itself


def test_exercises_have_one_mark_between_question_and_answer() -> None:
    draw = Draw(0, held_out=False, stream="exercise")
    texts = [instructions.exercise(draw, chinese.SPEECH) for _ in range(300)]
    assert not [text for text in texts if re.search(r"[？！][，。]", text)]


def test_owners_are_told_with_the_measure_word() -> None:
    draw = Draw(0, held_out=False, stream="measure")
    for _ in range(50):
        scene = scenes.pet(draw)
        text = chinese.tell(scene, draw)
        animal = scene.parts["a"]
        assert isinstance(animal, lexicon.Word)
        assert f"一{animal.zh.m}{scene.parts['c'].zh}的{animal.zh}" in text  # type: ignore[union-attr]
