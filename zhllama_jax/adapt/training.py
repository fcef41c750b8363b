"""The steps that train, and those that fold what was learned into model directories."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import tree
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import places, texts
from zhllama_jax.convert import rewrite, source
from zhllama_jax.data import account, build
from zhllama_jax.model import config as model_config
from zhllama_jax.tokenizer import processor
from zhllama_jax.train import config as train_config
from zhllama_jax.train import flops, log, loop, stages

OLD_ROWS, NEW_ROWS = ([f"params/{matrix}/{block}" for matrix in model_config.MATRICES] for block in ("base", "extension"))


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
    """Trains one stage on what the former one left: the grown model with its adapters, or a model of its own."""
    model, adapters = (places.of(config, places.RESIZED), []) if former is None else places.after(config, before[former])
    return _run(config, training, model=str(model), adapters=adapters, rows=places.NEW, folder=folder)


def baseline(config: config_lib.Adapt, trainings: Sequence[config_lib.Training], folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Trains the un-extended base on the text of the given trainings, with as many FLOPs as they took, as the last of them does.

    Where that trains new rows only, of which this base has none, all rows learn.
    """
    budget = sum(before[training.name]["flops"] for training in trainings)
    last = dataclasses.replace(trainings[-1], stage=unextended(trainings[-1].choice))
    per_token = _flops_per_token(config, last, source.load_config(places.base_model(config)))
    training = dataclasses.replace(last, name=places.BASELINE, adapter="fresh", tokens=round(budget / per_token), steps=None)
    return _run(config, training, model=str(places.base_model(config)), rows=places.OLD, folder=folder)


def unextended(stage: train_config.Stage) -> train_config.Stage:
    """The stage for a model without new rows: all rows learn where new ones would, and the user's rules for new rows alone are left out."""
    rules = tuple(rule for rule in stage.extra_rules if not _matches(rule, NEW_ROWS) or _matches(rule, OLD_ROWS))
    rows = "all" if stage.trained_rows == "new" else stage.rows
    return dataclasses.replace(stage, rows=rows, extra_rules=rules)


def _matches(rule: train_config.Rule, paths: Sequence[str]) -> bool:
    return any(re.fullmatch(rule.pattern, path) for path in paths)


def export(config: config_lib.Adapt, last: str, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Folds the adapters that the step `last` left into the model that they stand on, once, accumulating in float32."""
    model, adapters = places.after(config, before[last])
    rewrite.run(model, folder, adapters=adapters, overwrite=True)
    return {name: before[last][name] for name in ("model", "adapters")}


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
    splits = built.metadata["splits"]
    remarks = [
        *account.shortened(splits, length=config.sequence_length, setting="sequence_length"),
        *account.apart(splits[build.TRAIN], name=name),
    ]
    return {"rows": len(built.train), "splits": splits, "remarks": remarks}


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
    stores = [str(places.rows(config, rows, name)) for name in training.texts]
    return training.experiment(model=model, stores=stores, output=str(output), adapters=adapters, **config.computing(training))


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

    In the figures, adapters and the model that they stand on (none for a given base) are named by their place in the pipeline's output,
    so that the output can be moved.
    """
    made = experiment(config, training, model=model, adapters=adapters, rows=rows, output=folder)
    result = loop.run(made)
    shape = source.load_config(result["model"])
    output, directory = Path(config.output), Path(result["model"])
    lines = log.read(folder)
    table = stages.table(training.choice, shape, training.lora)
    first = next(iter(training.texts))
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    return {
        **result,
        "model": directory.relative_to(output).as_posix() if directory.is_relative_to(output) else None,
        "adapters": [Path(path).relative_to(output).as_posix() for path in result["adapters"]],
        "flops": _flops_per_token(config, training, shape) * result["tokens"],
        "table": str(table),
        "rules": [row._asdict() for row in table.rows],
        "losses": losses,
        "validation": [(line["step"], line[first]["loss"]) for line in lines if line["kind"] == "validation" and first in line],
        "loss_first": losses[0][1],
        "loss_last": losses[-1][1],
    }


def _flops_per_token(config: config_lib.Adapt, training: config_lib.Training, model: model_config.LlamaConfig) -> float:
    weights = stages.abstract(training.choice, model, training.lora)
    mask = stages.plan(training.choice, weights).mask
    return flops.per_token(model, tree.flatten(weights), mask, length=config.sequence_length)
