"""The demo's recipe stands on the files that `demo` writes, and fits together before anything is trained."""

import inspect
from pathlib import Path

import pytest

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import demonstration, measure, pipeline, texts
from zhllama_jax.decode import throughput
from zhllama_jax.eval import answers


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> config_lib.Adapt:
    return demonstration.prepare(tmp_path_factory.mktemp("demo"), seed=5)


def test_the_world_is_written_below_the_output(recipe: config_lib.Adapt) -> None:
    named = [path for text in recipe.texts.values() for path in (*text.files, *text.validation_files)]
    assert recipe.instructions is not None and recipe.evaluation.exam is not None
    named += [*recipe.instructions.files, *recipe.instructions.validation_files, recipe.evaluation.exam]
    assert all(Path(path).is_file() and Path(path).parent == Path(recipe.output) / "world" for path in named)
    assert recipe.seed == 5


def test_the_whole_road_is_taken_with_every_measurement(recipe: config_lib.Adapt) -> None:
    names = [step.name for step in pipeline.plan(recipe)]
    road = ["base_tokenizer", "added_tokenizer", "tokenizer", "english", "resized", "embeddings", "pretrain", "tune", "model"]
    assert [name for name in names if name in road] == road
    assert set(names) >= {"baseline", "pretrained", "ngram", "generation", "check"}


def test_rows_speed_and_exam_fit_the_model(recipe: config_lib.Adapt) -> None:
    assert recipe.base.init is not None and recipe.base.init.max_position_embeddings is not None
    context = recipe.base.init.max_position_embeddings
    assert recipe.sequence_length <= context
    assert inspect.signature(throughput.measure).parameters["prompt_tokens"].default + measure.SPEED_TOKENS <= context
    assert recipe.evaluation.exam is not None
    assert {row.task for row in answers.read(recipe.evaluation.exam)} > {"weekday", "extract"}


def test_samples_are_written_in_the_world_s_characters(recipe: config_lib.Adapt) -> None:
    known = set("".join(texts.learned(recipe.texts, "chinese"))) | {"\n"}
    assert all(set(sample) <= known for sample in recipe.evaluation.samples)


def test_a_seed_that_is_not_allowed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed must lie in 0"):
        demonstration.prepare(tmp_path / "demo", seed=-1)
    assert list(tmp_path.iterdir()) == []
