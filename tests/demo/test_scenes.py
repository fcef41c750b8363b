"""Every sentence of a scene names all parts of one of its cores: the rule on which the split rests."""

import re
from types import ModuleType

import pytest

from zhllama_jax.demo import chinese, english, scenes
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
        for sentence in _sentences(language.tell(scene, draw)):
            assert any(all(name.lower() in sentence.lower() for name in core) for core in cores), (sentence, cores)


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_stay_on_their_side(held_out: bool) -> None:
    draw, other = Draw(0, held_out=held_out, stream="a"), Draw(0, held_out=not held_out, stream="b")
    for _ in range(100):
        for core in scenes.cores(scenes.happen(draw)):
            assert draw.accepts(core)
            assert not other.accepts(core)


def test_every_kind_of_scene_has_patterns_and_cores() -> None:
    kinds = {make(Draw(0, held_out=False, stream="kinds")).kind for make in scenes.SCENES}
    assert kinds == set(scenes.CORES) == set(english.PATTERNS) == set(chinese.PATTERNS)
