"""A pipeline's configuration is refused at once, in one sentence, where it could only fail hours later."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.adapt import config
from zhllama_jax.data import config as data_config
from zhllama_jax.lora import config as lora_config
from zhllama_jax.train import config as train_config
from zhllama_jax.train import watch


def training(name: str, **fields: Any) -> config.Training:
    return config.Training(**{"name": name, "texts": {"chinese": 1.0}, "stage": train_config.Stage("embeddings"), "steps": 2} | fields)


NEW = config.NewVocabulary(texts=("english",), vocab_size=400, model_type="bpe")
FULL = training("start", texts={"english": 1.0}, stage=train_config.Stage("full"))
LORA = training("lora", stage=train_config.Stage("pretrain_lora"))
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


def test_a_stage_s_name_is_a_stage() -> None:
    """As in `train`."""
    named = training("rows", stage="pretrain_lora")
    assert named == dataclasses.replace(LORA, name="rows")
    assert adapt(trainings=(named,)).trainings[0].choice.lora_targets == lora_config.ATTENTION
    with pytest.raises(ValueError, match="preset must be one of embeddings"):
        training("rows", stage="embedding")


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
        ({"texts": TEXTS | {"step": TEXTS["english"]}}, "'step' is a key of every line of a training's log"),
        ({"trainings": (training("a/b"),)}, "'a/b' cannot name a folder"),
        ({"texts": TEXTS | {"..": TEXTS["english"]}}, "'..' cannot name a folder"),
        ({"evaluation": config.Evaluation(exam="exam.jsonl")}, "evaluation.exam needs instructions"),
        ({"seed": -1}, "seed"),
        ({"trainings": (training("x", stage=train_config.Stage("sft", lora=("q_prj",))),)}, "'x': stage.lora: 'q_prj' names no kernel"),
        ({"sequence_length": 1}, "length must be 2 to"),
        (
            {"texts": TEXTS | {"english": data_config.TextData(files=("en.txt",), length=128)}},
            "english: length 128 has no effect, all rows have sequence_length 256",
        ),
        (
            {"trainings": (dataclasses.replace(LORA, adapter="continue"),)},
            "'lora': adapter: continue, but none of the adapters holds LoRA factors",
        ),
        ({"trainings": (training("rows", adapter="fold"),)}, "'rows': adapter: fold, but there is no former adapter: say fresh"),
        ({"trainings": (LORA, training("more", stage=train_config.Stage("sft")))}, "'more': adapter: fresh, but lora holds LoRA factors"),
        (
            {"trainings": (LORA, dataclasses.replace(LORA, name="more", adapter="continue", lora=train_config.Lora(rank=4)))},
            "'more': adapter: continue cannot take over lora: its rank is 8, the stage's 4",
        ),
        (
            {"trainings": (LORA, training("all", stage=FULL.stage, adapter="fold"), dataclasses.replace(LORA, name="x", adapter="fold"))},
            "'x': adapter: fold, but there is no former adapter",
        ),
        (
            {
                "instructions": data_config.SftData(files=("rows.json",)),
                "trainings": (training("tune", texts={config.INSTRUCTIONS: 1.0}), training("rows")),
            },
            "'rows' on text alone comes after 'tune' on instructions",
        ),
        (
            {"trainings": (training("rows", texts={"english": 1.0}, validation=train_config.Validation(keep="best")),)},
            "'rows': validation.keep: best needs a text that holds something out",
        ),
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
        ({"tokenizer": NEW, "init": train_config.Dimensions("micro"), "training": training("start")}, "set training.stage to full"),
        *(
            ({"tokenizer": strange, "init": train_config.Dimensions("micro"), "training": FULL}, "model_type bpe with byte_fallback")
            for strange in (dataclasses.replace(NEW, model_type="unigram"), dataclasses.replace(NEW, byte_fallback=False))
        ),
    ],
)
def test_a_base_is_given_or_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.Base(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": None},
        {"tokens": 100},
        {"texts": {}},
        {"steps": 0},
        {"steps": None, "tokens": -1},
        {"texts": {"chinese": 0.0}},
        {"texts": {"chinese": -1.0}},
        {"global_batch": 0},
        {"adapter": "continue"},
    ],
)
def test_a_training_has_one_length_and_some_text(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="training 'rows'"):
        training("rows", **fields)


def test_every_step_of_a_plan_has_a_reserved_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no training can be called like it: the plan of a pipeline with everything in it."""
    from zhllama_jax.adapt import pipeline

    monkeypatch.chdir(tmp_path)
    for name in ("en.txt", "zh.txt", "poems.txt", "more.txt", "rows.json"):
        Path(name).touch()
    new = config.Base(tokenizer=NEW, init=train_config.Dimensions("micro"), training=FULL)
    rows = data_config.SftData(files=("rows.json",))
    tuned = training("tune", texts={config.INSTRUCTIONS: 1.0}, stage=train_config.Stage("sft"))
    whole = adapt(base=new, instructions=rows, vocabulary=config.Vocabulary(added=NEW), trainings=(training("rows"), tuned))
    own = {step.name for step in pipeline.plan(whole)} - {"start", "rows", "tune"}
    assert {name for name in own if name not in config.RESERVED and not name.startswith(config.RESERVED_PREFIXES)} == set()


def test_rows_may_state_the_length_that_they_have() -> None:
    texts = TEXTS | {"english": data_config.TextData(files=("en.txt",), length=64)}
    assert adapt(texts=texts, sequence_length=64).texts["english"].length == 64


def test_every_training_is_a_run_of_its_own_at_weights_and_biases() -> None:
    assert adapt().tracked(training("one")) is None
    pipeline = adapt(output="runs/zh", wandb=watch.Wandb(project="p", mode="offline"))
    assert pipeline.tracked(training("one")) == watch.Wandb(project="p", name="zh-one", mode="offline")
    named = dataclasses.replace(pipeline, wandb=watch.Wandb(name="n"))
    assert named.tracked(training("one")) == watch.Wandb(name="n-one")


def test_trainings_may_follow_each_other_in_every_way() -> None:
    """Rows, factors, the same on more kernels, folded under new ones, every weight, and factors again."""
    more = train_config.Stage("sft", lora=("layers/self_attn/.*", *lora_config.MLP))
    ways = (
        training("rows"),
        LORA,
        dataclasses.replace(LORA, name="on", adapter="continue"),
        training("wide", stage=more, adapter="extend"),
        training("new", stage=more, adapter="fold"),
        training("all", stage=train_config.Stage("full"), adapter="fold"),
        dataclasses.replace(LORA, name="again"),
    )
    assert [one.name for one in adapt(trainings=ways).all_trainings] == ["rows", "lora", "on", "wide", "new", "all", "again"]
