"""What a pipeline reads is resolved in one way, and looked at before the first step."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import inputs, pipeline
from zhllama_jax.data import config as data_config
from zhllama_jax.data import documents
from zhllama_jax.train import config as train_config


def never(line: str) -> None:
    raise AssertionError(f"a step was begun: {line}")


def wrong(recipe: config_lib.Adapt, tmp_path: Path, message: str, kind: type[Exception] = ValueError) -> None:
    """Neither the look nor the pipeline goes past it, and nothing is written."""
    config = dataclasses.replace(recipe, output=str(tmp_path / "run"))
    with pytest.raises(kind, match=message):
        inputs.check(config)
    with pytest.raises(kind, match=message):
        pipeline.run(config, say=never)
    assert not (tmp_path / "run").exists()


def test_a_whole_recipe_passes(recipe: config_lib.Adapt) -> None:
    inputs.check(recipe)


def test_everything_that_is_missing_is_told_together(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    missing = dataclasses.replace(
        recipe,
        base=config_lib.Base(model="nowhere"),
        texts={**recipe.texts, "more": data_config.TextData(files=("more.txt",))},
        vocabulary=config_lib.Vocabulary(added=("pieces.model",)),
        evaluation=dataclasses.replace(recipe.evaluation, exam="exam.jsonl"),
    )
    wrong(missing, tmp_path, "(?s)nowhere not found.*more.txt does not exist.*pieces.model not found.*exam.jsonl", FileNotFoundError)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("vocabulary", {"script": "klingon"}, "no script named 'klingon'; known are"),
        ("instructions", {"template": "alpaka"}, "no template 'alpaka': choose one of alpaca"),
    ],
)
def test_unknown_names_are_refused(recipe: config_lib.Adapt, tmp_path: Path, part: str, fields: dict[str, Any], message: str) -> None:
    wrong(dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **fields)}), tmp_path, message)


def test_a_malformed_exam_is_refused(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").write_text('{"instruction": "1 + 1?", "answer": "2"}\n')
    exam = dataclasses.replace(recipe.evaluation, exam=str(tmp_path / "exam.jsonl"))
    wrong(dataclasses.replace(recipe, evaluation=exam), tmp_path, r"exam\.jsonl:1: a question needs .* missing or no text: output")


def test_rows_longer_than_the_context_are_refused(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    assert recipe.base.init is not None
    short = dataclasses.replace(recipe.base, init=train_config.Dimensions(size="micro", max_position_embeddings=127))
    wrong(dataclasses.replace(recipe, base=short), tmp_path, "sequence_length 128 is more than the base's context of 127 tokens")


def test_a_batch_that_the_devices_cannot_share_is_refused(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    """The tests force eight devices."""
    *former, last = recipe.trainings
    odd = dataclasses.replace(last, global_batch=12)
    wrong(dataclasses.replace(recipe, trainings=(*former, odd)), tmp_path, "training 'tune': global_batch of 12 .* over 8 devices")


@pytest.mark.parametrize(
    ("pattern", "train", "message"),
    [
        ("params/embed_tokens/extention", True, "training embeddings: stage.extra_rules: 'params/embed_tokens/extention' decides nothing"),
        ("params/norm/weight", True, "training embeddings: stage embeddings trains params/norm/weight, which no adapter can hold"),
        ("params/embed_tokens/.*", False, "training embeddings: stage embeddings trains nothing"),
        ("params/embed_tokens/base", False, "training embeddings of the un-extended base: stage embeddings trains nothing"),
    ],
)
def test_rules_that_would_stop_a_training_are_refused(
    recipe: config_lib.Adapt, tmp_path: Path, pattern: str, train: bool, message: str
) -> None:
    """Also those that would stop only the baseline, after hours."""
    first = recipe.trainings[0]
    ruled = dataclasses.replace(first.stage, extra_rules=(train_config.Rule(pattern, train=train),))
    wrong(dataclasses.replace(recipe, trainings=(dataclasses.replace(first, stage=ruled),)), tmp_path, message)


def test_a_base_that_is_no_model_is_refused(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    wrong(dataclasses.replace(recipe, base=config_lib.Base(model=str(tmp_path / "llama"))), tmp_path, "llama", FileNotFoundError)


def test_files_are_those_that_the_readers_expand_to(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    """Patterns that reach into folders, too: what lies there decides the keys of the steps."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/deep.txt", "top.txt", "a/notes.md"):
        (tmp_path / name).write_text("text")
    for pattern in (str(tmp_path / "**" / "*.txt"), str(tmp_path), str(tmp_path / "top.txt")):
        text = data_config.TextData(files=(pattern,), validation_files=(str(tmp_path / "top.txt"),))
        found = inputs.files(dataclasses.replace(recipe, texts=recipe.texts | {"more": text}), ["more"])
        assert found == [str(path) for path in (*documents.expand([pattern]), tmp_path / "top.txt")]
        assert (str(tmp_path / "a" / "b" / "deep.txt") in found) == ("**" in pattern)
    shared = data_config.TextData(files=(str(tmp_path / "a"),), held_out=0.1)
    named = {"more": text, "shared": shared, "none": data_config.TextData(files=("x.txt",))}
    (tmp_path / "a" / "one.txt").write_text("text")
    assert inputs.held_out_files(named, ["none"])[:2] == [str(tmp_path / "top.txt"), str(tmp_path / "a" / "one.txt")]
    named["less"] = data_config.TextData(files=("y.txt",), held_out=0.05)
    assert inputs.held_out_files(named, ["shared"]) == [str(tmp_path / "top.txt")]
