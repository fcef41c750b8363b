"""What the pipeline measures equals what is measured on the exported directories, by other ways."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import evaluation, places, progress, texts
from zhllama_jax.convert import host, verify
from zhllama_jax.eval import answers, likelihood, ngram
from zhllama_jax.tokenizer import processor


@pytest.mark.parametrize(("name", "directory"), [("tune", places.FINAL), ("pretrain", places.PRETRAINED), ("resized", places.RESIZED)])
def test_a_point_s_figures_are_those_of_its_directory(done: Any, name: str, directory: str) -> None:
    model = host.load(places.of(done.config, directory))
    tokenizer = processor.Tokenizer.load(places.of(done.config, directory))
    for text, held_out in evaluation.held_out(done.config).items():
        found = done.before[f"measure_{name}"]["texts"][text]
        score = likelihood.score(model.config, {"params": model.params}, tokenizer, held_out, length=done.config.sequence_length)
        assert found["bits_per_character"] == pytest.approx(score.bits_per_character, rel=1e-5)
        assert (found["characters"], found["tokens"]) == (score.characters, score.tokens)


def test_every_part_of_a_point_tells_how_far_it_is(done: Any, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def watch(part: str) -> progress.Report:
        counts = told.setdefault(part, [])
        return lambda done, total: counts.append((done, total))

    found = evaluation.point(done.config, "tune", tmp_path, done.before, watch=watch)
    for figure in ("texts", "answers"):
        assert found[figure] == done.before["measure_tune"][figure]
    assert list(told) == ["held-out english, windows", "held-out chinese, windows", "held-out answers, windows", "exam, questions"]
    for counts in told.values():
        assert counts == sorted(counts) and counts[-1][0] == counts[-1][1], "up to all of it"


def test_all_points_score_the_same_characters_of_held_out_text_only(done: Any) -> None:
    assert list(evaluation.held_out(done.config)) == ["english", "chinese"]
    for name, held_out in evaluation.held_out(done.config).items():
        assert sum(map(len, held_out)) == done.config.evaluation.max_characters
        learned = set(texts.learned(done.config.texts, name))
        assert not learned & set(texts.held_out(done.config.texts[name]))
        for point in ("english", "resized", "embeddings", "pretrain", "tune", "baseline"):
            assert done.before[f"measure_{point}"]["texts"][name]["characters"] == sum(map(len, held_out))


def test_the_baseline_reads_chinese_as_the_base_does_and_better(done: Any) -> None:
    points = {name: done.before[f"measure_{name}"]["texts"]["chinese"] for name in ("english", "resized", "baseline")}
    assert points["english"]["tokens"] == points["baseline"]["tokens"] > points["resized"]["tokens"]
    assert points["baseline"]["bits_per_character"] < points["english"]["bits_per_character"], "it has learned some Chinese"


def test_the_exam_is_sat_three_times(done: Any) -> None:
    assert evaluation.exam_points(done.config) == ["resized", "pretrain", "tune"]
    sat = [name for name, figures in done.before.items() if "exam" in figures]
    assert sat == ["measure_resized", "measure_pretrain", "measure_tune"]
    questions = answers.read(done.config.evaluation.exam)
    for name in sat:
        exam = done.before[name]["exam"]
        assert (exam["total"], len(exam["wrong"])) == (len(questions), min(20, len(questions) - exam["right"]))
        assert sum(total for _, total in exam["by_task"].values()) == len(questions)


def test_the_same_answers_are_scored_under_both_vocabularies(done: Any) -> None:
    rows = texts.held_out_rows(done.config.instructions)
    for name in ("english", "resized", "embeddings", "pretrain", "tune", "baseline"):
        found = done.before[f"measure_{name}"]["answers"]
        assert (found["rows"], found["characters"]) == (len(rows), sum(len(row.output) for row in rows))


def test_without_training_on_text_the_exam_is_sat_twice(recipe: config_lib.Adapt) -> None:
    only = dataclasses.replace(recipe, trainings=(dataclasses.replace(recipe.trainings[-1], adapter="fresh"),))
    assert evaluation.exam_points(only) == ["resized", "tune"]
    assert evaluation.base_name(recipe) == "english"
    assert evaluation.base_name(dataclasses.replace(recipe, base=config_lib.Base(model="llama"))) == "base"


def test_named_texts_alone_are_scored(recipe: config_lib.Adapt) -> None:
    chosen = dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, texts=("chinese",), max_characters=100))
    assert {name: sum(map(len, held_out)) for name, held_out in evaluation.held_out(chosen).items()} == {"chinese": 100}
    assert "".join(evaluation.held_out_of(chosen, "english")) == "".join(texts.held_out(recipe.texts["english"]))[:100]


def test_the_ngram_is_fitted_on_what_the_adaptation_learns(done: Any) -> None:
    fitted = ngram.fit(list(texts.learned(done.config.texts, "chinese")), order=5)
    held_out = evaluation.held_out(done.config)["chinese"]
    assert done.before["ngram"]["texts"] == {"chinese": pytest.approx(fitted.bits_per_character(held_out))}
    assert done.before["ngram"]["fitted_on"] == evaluation.adaptation_texts(done.config) == ["chinese"]


def test_speed_counts_the_characters_of_each_vocabulary(done: Any) -> None:
    figures = done.before["generation"]
    sample = "\n".join(evaluation.held_out_of(done.config, "chinese"))[: evaluation.SPEED_CHARACTERS]
    for name, directory in (("old", places.base_model(done.config)), ("new", places.of(done.config, places.FINAL))):
        tokens = len(processor.Tokenizer.load(directory).encode(sample))
        assert figures[name]["characters_per_token"] == pytest.approx(len(sample) / tokens)
        assert figures[name]["characters_per_second"] == pytest.approx(
            figures[name]["tokens_per_second"] * figures[name]["characters_per_token"]
        )
    assert [sample["prompt"] for sample in figures["samples"]] == list(done.config.evaluation.samples)


def test_transformers_agrees_with_the_exported_directory(done: Any) -> None:
    pytest.importorskip("transformers")
    report = done.before["check"]["report"]
    assert report["logits"]["max_abs"] < 1e-4 < report["logits"]["largest"]
    assert (report["logits"]["same_argmax"], report["texts_with_other_ids"]) == (1, 0)
    assert report["texts"] == sum(len(held_out[:20]) for held_out in evaluation.held_out(done.config).values())
    assert f"0 of {report['texts']} texts get other ids" in done.before["check"]["sentence"]


def test_without_transformers_the_check_says_so(done: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "against_transformers", lambda directory, *, texts: None)
    found = evaluation.check(done.config, tmp_path, {})
    assert (found["report"], found["agrees"]) == (None, None)
    assert found["sentence"].startswith("Not compared: ") and "pip install torch transformers" in found["sentence"]


@pytest.mark.parametrize(("max_abs", "agrees"), [(0.01, True), (0.011, False), (float("nan"), False)])
def test_the_check_has_a_verdict(done: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, max_abs: float, agrees: bool) -> None:
    report = {"logits": {"max_abs": max_abs, "largest": 10.0, "same_argmax": 1.0}, "texts": 1, "texts_with_other_ids": 0}
    monkeypatch.setattr(verify, "against_transformers", lambda directory, *, texts: report)
    found = evaluation.check(done.config, tmp_path, {})
    assert found["agrees"] is agrees
    assert f"is {'within' if agrees else 'beyond'} the tolerance of 0.001 of the largest" in found["sentence"]
