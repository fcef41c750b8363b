"""A pipeline's configuration is refused at once, in one sentence, where it could only fail hours later."""

import dataclasses
from typing import Any

import pytest

from zhllama_jax.adapt import config
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config as train_config


def training(name: str, **fields: Any) -> config.Training:
    return config.Training(**{"name": name, "texts": {"chinese": 1.0}, "stage": train_config.Stage("embeddings"), "steps": 2} | fields)


NEW = config.NewVocabulary(texts=("english",), vocab_size=400, model_type="bpe")
FULL = training("start", texts={"english": 1.0}, stage=train_config.Stage("full"))
TEXTS = {
    "english": data_config.TextData(files=("en.txt",)),
    "chinese": data_config.TextData(files=("zh.txt",), held_out=0.1),
    "poems": data_config.TextData(files=("poems.txt",), validation_files=("more.txt",)),
}


def adapt(**fields: Any) -> config.Adapt:
    usual = {
        "output": "run",
        "texts": TEXTS,
        "base": config.Base(model="llama"),
        "vocabulary": config.Vocabulary(added=("zh.model",)),
        "trainings": (training("rows"),),
    }
    return config.Adapt(**usual | fields)


def test_what_is_complete_is_taken() -> None:
    assert adapt().adapted == "chinese"
    new = config.Base(tokenizer=NEW, init=train_config.Dimensions("micro"), training=FULL)
    instructions = data_config.SftData(files=("rows.json",))
    tuned = training("tune", texts={config.INSTRUCTIONS: 1.0, "poems": 0.5}, stage=train_config.Stage("sft"))
    assert adapt(base=new, instructions=instructions, trainings=(training("rows"), tuned)).trainings[-1] == tuned
    assert adapt(evaluation=config.Evaluation(texts=("poems",)), adapted="poems").evaluation.texts == ("poems",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainings": (training("rows", texts={"chinse": 1.0}),)}, "'rows' names the text 'chinse'; there are chinese, english, poems"),
        ({"trainings": (training("rows", texts={config.INSTRUCTIONS: 1.0}),)}, "names the text 'instructions'"),
        ({"vocabulary": config.Vocabulary(added=dataclasses.replace(NEW, texts=("prose",)))}, "a vocabulary names the text 'prose'"),
        ({"adapted": "japanese"}, "evaluation names the text 'japanese'"),
        ({"evaluation": config.Evaluation(texts=("chinese", "prose"))}, "evaluation names the text 'prose'"),
        ({"texts": TEXTS | {config.INSTRUCTIONS: TEXTS["english"]}}, "stands for the instruction rows"),
        ({"trainings": ()}, "trainings is empty"),
        ({"trainings": (training("rows"), training("rows"))}, "distinct names"),
        ({"adapted": "english"}, "nothing of english is held out"),
        ({"evaluation": config.Evaluation(texts=("chinese", "english"))}, "nothing of english is held out"),
        ({"evaluation": config.Evaluation(texts=("poems",))}, "must name the adapted text 'chinese'"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(**fields)


@pytest.mark.parametrize("name", [*sorted(config.RESERVED), "measure_base", "rows_new_chinese"])
def test_names_of_the_pipeline_s_own_steps_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="distinct names other than"):
        adapt(trainings=(training(name),))


def test_several_wrong_names_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"'a' names the text 'x'.*'b' names the text 'y'"):
        adapt(trainings=(training("a", texts={"x": 1.0}), training("b", texts={"y": 1.0})))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "llama", "training": FULL}, "excludes training"),
        ({}, "also tokenizer, init, training"),
        ({"tokenizer": NEW, "training": FULL}, "also init"),
        ({"tokenizer": NEW, "init": train_config.Dimensions("micro"), "training": training("start")}, "preset to full"),
        *(
            ({"tokenizer": strange, "init": train_config.Dimensions("micro"), "training": FULL}, "model_type bpe with byte_fallback")
            for strange in (dataclasses.replace(NEW, model_type="unigram"), dataclasses.replace(NEW, byte_fallback=False))
        ),
    ],
)
def test_a_base_is_given_or_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.Base(**fields)


@pytest.mark.parametrize("fields", [{"steps": None}, {"tokens": 100}, {"texts": {}}])
def test_a_training_has_one_length_and_some_text(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="training 'rows'"):
        training("rows", **fields)


def test_every_step_of_a_plan_has_a_reserved_name() -> None:
    """So that no training can be called like it: the plan of a pipeline with everything in it."""
    from zhllama_jax.adapt import pipeline

    new = config.Base(tokenizer=NEW, init=train_config.Dimensions("micro"), training=FULL)
    rows = data_config.SftData(files=("rows.json",))
    tuned = training("tune", texts={config.INSTRUCTIONS: 1.0}, stage=train_config.Stage("sft"))
    whole = adapt(base=new, instructions=rows, vocabulary=config.Vocabulary(added=NEW), trainings=(training("rows"), tuned))
    own = {step.name for step in pipeline.plan(whole)} - {"start", "rows", "tune"}
    assert {name for name in own if name not in config.RESERVED and not name.startswith(config.RESERVED_PREFIXES)} == set()
