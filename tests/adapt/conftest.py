"""One whole pipeline, the demo's recipe on a shrunken world, run once for all tests of this folder."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from zhllama_jax import files
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import demonstration, pipeline, steps
from zhllama_jax.demo import world
from zhllama_jax.train import config as train_config

STEPS = {"english": 3, "embeddings": 2, "pretrain": 3, "tune": 2}
PIECES = {"base": 420, "added": 700}


class Run(NamedTuple):
    """What a run left.

    Attributes:
      config: the pipeline.
      said: the lines it said, in order.
      report: the path it returned.
    """

    config: config_lib.Adapt
    said: list[str]
    report: Path

    @property
    def records(self) -> dict[str, steps.Record]:
        """The records of all steps, in the order of the plan."""
        found = {}
        for step in pipeline.plan(self.config):
            path = Path(self.config.output) / ".steps" / f"{step.name}.json"
            found[step.name] = steps.Record(**files.read_json(path, what="a record"))
        return found

    @property
    def before(self) -> Mapping[str, Any]:
        """The figures of all steps, as a step gets them."""
        return {name: record.figures for name, record in self.records.items()}


def go(config: config_lib.Adapt) -> Run:
    """Runs a pipeline and keeps what it says."""
    said: list[str] = []
    return Run(config, said, pipeline.run(config, say=said.append))


def shorter(training: config_lib.Training) -> config_lib.Training:
    """The demo's training in a few steps of eight rows, one for each device; its loss is noted at each."""
    return dataclasses.replace(
        training,
        steps=STEPS[training.name],
        global_batch=8,
        lora=train_config.Lora(rank=2, alpha=4.0, dropout=0.0),
        validation=train_config.Validation(every=0, max_rows=8),
    )


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> world.World:
    """The demo's world with a few hundred documents."""
    return world.write(
        tmp_path_factory.mktemp("world"),
        seed=0,
        english_documents=500,
        chinese_documents=500,
        held_out_documents=15,
        instruction_rows=200,
        held_out_instruction_rows=15,
    )


@pytest.fixture(scope="session")
def recipe(small_world: world.World, tmp_path_factory: pytest.TempPathFactory) -> config_lib.Adapt:
    """The demo's pipeline, every step of it there, each as small as it can be."""
    full = demonstration.recipe(small_world, output=tmp_path_factory.mktemp("adapt") / "run", seed=0)
    base, vocabulary = full.base, full.vocabulary
    assert isinstance(base.tokenizer, config_lib.NewVocabulary) and isinstance(vocabulary.added, config_lib.NewVocabulary)
    assert base.training is not None
    return dataclasses.replace(
        full,
        base=dataclasses.replace(
            base,
            tokenizer=dataclasses.replace(base.tokenizer, vocab_size=PIECES["base"]),
            init=train_config.Dimensions(size="micro", max_position_embeddings=128),
            training=shorter(base.training),
        ),
        vocabulary=dataclasses.replace(vocabulary, added=dataclasses.replace(vocabulary.added, vocab_size=PIECES["added"])),
        trainings=tuple(map(shorter, full.trainings)),
        evaluation=dataclasses.replace(full.evaluation, max_characters=1500, samples=full.evaluation.samples[:2], max_new_tokens=4),
    )


@pytest.fixture(scope="session")
def done(recipe: config_lib.Adapt) -> Run:
    """The pipeline, run. Nobody writes into its output."""
    return go(recipe)
