"""Every sentence of a scene names all parts of one of its cores: the rule on which the split rests."""

import itertools
import re
from types import ModuleType

import pytest

from zhllama_jax.demo import chinese, english, lexicon, scenes
from zhllama_jax.demo.draw import Draw


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"。|\.(?:\s|$)", text) if part.strip('”" ')]


@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("language", [english, chinese], ids=["english", "chinese"])
def test_every_sentence_names_a_core(make: object, language: ModuleType) -> None:
    draw = Draw(0, held_out=False, stream="test")
    for _ in range(150):
        scene = make(draw)  # type: ignore[operator]
        cores = [{word.zh if language is chinese else word.en for word in core} for core in scenes.cores(scene)]
        if scene.kind == "job":
            # The place of work stands for the job.
            place = scene.parts["w"].zh if language is chinese else scene.parts["w"].en
            cores.append(cores[0] - {scene.parts["j"].zh, scene.parts["j"].en} | {place})
        if scene.kind == "numbers" and language is chinese:
            cores.append({word.zh.counting for word in scenes.cores(scene)[0]})
        for sentence in _sentences(language.tell(scene, draw)):
            assert any(all(name.lower() in sentence.lower() for name in core) for core in cores), (sentence, cores)


@pytest.mark.parametrize("make", scenes.SCENES, ids=lambda make: make.__name__)
def test_persons_days_and_places_that_meet_in_a_sentence_are_cores_or_guarded(make: object) -> None:
    groups = (lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES)
    draw = Draw(0, held_out=False, stream="met")
    for _ in range(150):
        scene = make(draw)  # type: ignore[operator]
        watched = {*scenes.cores(scene), *scenes.guarded(scene)}
        for sentence in _sentences(chinese.tell(scene, draw)):
            met = itertools.product(*([word for word in group if word.zh in sentence] for group in groups))
            assert {frozenset(words) for words in met} <= watched, sentence


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_stay_on_their_side(held_out: bool) -> None:
    draw, other = Draw(0, held_out=held_out, stream="a"), Draw(0, held_out=not held_out, stream="b")
    for _ in range(100):
        for core in scenes.cores(scenes.happen(draw)):
            assert draw.accepts(core)
            assert not other.accepts(core)


def test_training_text_has_no_guarded_combination_that_is_held_out() -> None:
    train, held_out = Draw(0, held_out=False, stream="a"), Draw(0, held_out=True, stream="b")
    told = [words for _ in range(300) for words in scenes.guarded(scenes.happen(train))]
    assert len(told) > 100
    assert not [words for words in told if held_out.accepts(words)]


def test_every_kind_of_scene_has_patterns_and_cores() -> None:
    kinds = {make(Draw(0, held_out=False, stream="kinds")).kind for make in scenes.SCENES}
    assert kinds == set(scenes.CORES) == set(english.PATTERNS) == set(chinese.PATTERNS)
