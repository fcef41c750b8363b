"""Where the pipeline's steps leave what the others take up: models on top of the output, all else below `steps`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax.adapt import config as config_lib

BASE_TOKENIZER = "base_tokenizer"
ADDED = "added_tokenizer"
TOKENIZER = "tokenizer"
RESIZED = "resized"
BASELINE = "baseline"
PRETRAINED = "pretrained"
FINAL = "model"
MODEL = "model"
OLD, NEW = "old", "new"
ADAPTER = "adapter"


def of(config: config_lib.Adapt, step: str) -> Path:
    """The folder of a step; the two models that the pipeline is for lie on top."""
    return Path(config.output) / (step if step in (FINAL, PRETRAINED) else f"steps/{step}")


def rows(config: config_lib.Adapt, tokenizer: str, text: str) -> Path:
    """The store of a text's rows under one of the two tokenizers."""
    return of(config, f"rows_{tokenizer}") / text


def base_model(config: config_lib.Adapt) -> Path:
    """The directory of the model to adapt: given, or trained by the pipeline."""
    if config.base.model is not None:
        return Path(config.base.model)
    assert config.base.training is not None, "Base checks that a new base has its training"
    return of(config, config.base.training.name) / MODEL


def old_tokenizer(config: config_lib.Adapt) -> Path:
    """The base's tokenizer: a model file, or a directory that holds one."""
    if config.base.model is not None:
        return Path(config.base.model)
    return Path(config.base.tokenizer) if isinstance(config.base.tokenizer, str) else of(config, BASE_TOKENIZER)


def after(config: config_lib.Adapt, figures: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """The model directory and the adapters to fold into it, in order, that a training's figures name."""
    model = figures["model"]
    return base_model(config) if model is None else Path(config.output) / model, inside(config, figures["adapters"])


def inside(config: config_lib.Adapt, places: Sequence[str]) -> list[str]:
    """Paths of places named relative to the pipeline's output."""
    return [str(Path(config.output) / place) for place in places]
