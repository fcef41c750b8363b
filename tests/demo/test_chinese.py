"""Chinese sentences: lists, measure words and quotations."""

import pytest

from zhllama_jax.demo import chinese, lexicon, scenes
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


def test_owners_are_told_with_the_measure_word() -> None:
    draw = Draw(0, held_out=False, stream="measure")
    for _ in range(50):
        scene = scenes.pet(draw)
        text = chinese.tell(scene, draw)
        animal = scene.parts["a"]
        assert isinstance(animal, lexicon.Word)
        assert f"一{animal.zh.m}{scene.parts['c'].zh}的{animal.zh}" in text  # type: ignore[union-attr]
