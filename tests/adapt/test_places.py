"""The two models that the pipeline is for lie on top of the output, everything else in `steps`, and all of it can be moved."""

import dataclasses
from pathlib import Path

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import pipeline, places


def test_steps_work_where_places_says(recipe: config_lib.Adapt) -> None:
    """The folder that a step is given is the one in which the others look for its result."""
    for step in pipeline.plan(recipe):
        folder = Path(recipe.output) / (step.folder or f"steps/{step.name}")
        if step.name.startswith("rows_"):
            _, tokenizer, text = step.name.split("_", 2)
            assert folder == places.rows(recipe, tokenizer, text)
        else:
            assert folder == places.of(recipe, step.name)


def test_only_the_results_lie_on_top(recipe: config_lib.Adapt) -> None:
    output = Path(recipe.output)
    assert places.of(recipe, places.FINAL) == output / "model"
    assert places.of(recipe, places.PRETRAINED) == output / "pretrained"
    assert places.of(recipe, places.RESIZED) == output / "steps" / "resized"


def test_a_base_made_here_and_one_that_is_given(recipe: config_lib.Adapt) -> None:
    assert places.base_model(recipe) == places.of(recipe, "english") / "model"
    assert places.old_tokenizer(recipe) == places.of(recipe, places.BASE_TOKENIZER)
    file = dataclasses.replace(recipe, base=dataclasses.replace(recipe.base, tokenizer="llama.model"))
    assert places.old_tokenizer(file) == Path("llama.model")
    given = dataclasses.replace(recipe, base=config_lib.Base(model="llama"))
    assert places.base_model(given) == places.old_tokenizer(given) == Path("llama")


def test_names_relative_to_the_output_move_with_it(recipe: config_lib.Adapt) -> None:
    moved = dataclasses.replace(recipe, output="elsewhere")
    assert places.inside(moved, ["steps/a/adapter", "steps/b/adapter"]) == ["elsewhere/steps/a/adapter", "elsewhere/steps/b/adapter"]
