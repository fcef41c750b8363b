"""The steps that train, and those that fold what was learned into model directories."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import tree
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import places, texts
from zhllama_jax.convert import fold, llama_hf
from zhllama_jax.data import build
from zhllama_jax.data import config as data_config
from zhllama_jax.model import config as model_config
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config as train_config
from zhllama_jax.train import flops, log, loop, stages


def base(config: config_lib.Adapt, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Trains the base from random weights."""
    del before
    new = config.base
    assert new.training is not None and new.init is not None and new.tokenizer is not None, "Base checks that a new base has all three"
    model = train_config.NewModel(str(places.old_tokenizer(config)), new.init)
    return _run(config, new.training, model=model, rows=places.OLD, folder=folder)


def stage(
    config: config_lib.Adapt, training: config_lib.Training, former: str | None, folder: Path, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains one stage on the grown model with the adapters that the former stage left."""
    adapters = before[former]["adapters"] if former is not None else []
    model = str(places.of(config, places.RESIZED))
    return _run(config, training, model=model, adapters=adapters, rows=places.NEW, folder=folder)


def baseline(config: config_lib.Adapt, trainings: Sequence[config_lib.Training], folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Trains the un-extended base on the text of the given trainings, with as many FLOPs as they took, as the last of them does."""
    budget = sum(before[training.name]["flops"] for training in trainings)
    last = trainings[-1]
    per_token = _flops_per_token(config, last, llama_hf.load_config(places.base_model(config)))
    training = dataclasses.replace(last, name=places.BASELINE, adapter="fresh", tokens=round(budget / per_token), steps=None)
    return _run(config, training, model=str(places.base_model(config)), rows=places.OLD, folder=folder)


def export(config: config_lib.Adapt, last: str, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Folds the adapters that the step `last` left into the grown model, once, accumulating in float32."""
    adapters = before[last]["adapters"]
    fold.merge(places.of(config, places.RESIZED), places.inside(config, adapters), folder, overwrite=True)
    return {"adapters": adapters}


def pack(config: config_lib.Adapt, tokenizer: str, name: str, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Tokenises and packs one text (or the instructions) under the old or the new vocabulary, once for all trainings."""
    del before
    old = tokenizer == places.OLD
    model = processor.Tokenizer.load(places.old_tokenizer(config) if old else places.of(config, places.TOKENIZER))
    if name == config_lib.INSTRUCTIONS:
        assert config.instructions is not None, "Adapt checks that the name stands for something"
        built = build.sft(dataclasses.replace(config.instructions, length=config.sequence_length), model, folder, overwrite=True)
    else:
        data = dataclasses.replace(config.texts[name], length=config.sequence_length)
        built = build.text(data, model, folder, others=texts.others(config.texts, name), overwrite=True)
    return {"rows": len(built.train), "splits": built.metadata["splits"]}


def experiment(
    config: config_lib.Adapt,
    training: config_lib.Training,
    *,
    model: str | train_config.NewModel,
    adapters: Sequence[str] = (),
    rows: str,
    output: Path,
) -> train_config.Experiment:
    """The experiment of one training, on the packed rows of its texts under the old or the new vocabulary."""
    sources = [
        train_config.Source(store=str(places.rows(config, rows, name)), share=data_config.Share(weight=weight))
        for name, weight in training.texts.items()
    ]
    shared = {field.name for field in dataclasses.fields(training)} - {"name", "texts", "separate"}
    return train_config.Experiment(
        model=model,
        data=train_config.Data(sources=tuple(sources), separate=training.separate),
        output=str(output),
        adapters=tuple(adapters),
        seed=config.seed,
        dtype=config.dtype,
        **{name: getattr(training, name) for name in shared},
    )


def _run(
    config: config_lib.Adapt,
    training: config_lib.Training,
    *,
    model: str | train_config.NewModel,
    adapters: Sequence[str] = (),
    rows: str,
    folder: Path,
) -> dict[str, Any]:
    """Trains, and collects what the report says about it: figures, FLOPs, the stage's table, the curves of loss.

    Adapters are named by their place in the pipeline's output, in the figures too, so that the output can be moved.
    """
    made = experiment(config, training, model=model, adapters=places.inside(config, adapters), rows=rows, output=folder)
    result = loop.run(made)
    shape = llama_hf.load_config(result["model"])
    lines = [json.loads(line) for line in (folder / log.METRICS).read_text(encoding="utf-8").splitlines()]
    first = next(iter(training.texts))
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    return {
        **result,
        "adapters": [Path(path).relative_to(config.output).as_posix() for path in result["adapters"]],
        "flops": _flops_per_token(config, training, shape) * result["tokens"],
        "table": str(stages.table(training.stage, shape, training.lora)),
        "losses": losses,
        "validation": [(line["step"], line[first]["loss"]) for line in lines if line["kind"] == "validation" and first in line],
        "loss_first": losses[0][1],
        "loss_last": losses[-1][1],
    }


def _flops_per_token(config: config_lib.Adapt, training: config_lib.Training, model: model_config.LlamaConfig) -> float:
    weights = stages.abstract(training.stage, model, training.lora)
    mask = stages.plan(training.stage, weights).mask
    return flops.per_token(model, tree.flatten(weights), mask, length=config.sequence_length)
