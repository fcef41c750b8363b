"""What verbs are given by name, as folders and files of this machine: models of the Hugging Face hub are fetched here, before the work.

Below, everything is a path. Local paths come back as they were written.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from zhllama_jax import hub
from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import terminal
from zhllama_jax.train import config as train_config


def model(name: str | Path, *, expects: train_config.Expected | None = None) -> Path:
    """The directory of a model; one of the hub with another shape than `expects` is refused before its weights are fetched."""

    def look(directory: Path) -> None:
        _look(directory)
        if expects is not None:
            from zhllama_jax.convert import source

            expects.check(source.load_config(directory), where=str(name))

    return hub.resolve(name, "model", say=terminal.say, look=look)


def adapters(names: Sequence[str | Path] | None) -> list[Path]:
    """The directories of adapters, in order.

    Raises:
      ValueError: names were joined by commas, as the original's scripts have them.
    """
    for name in names or ():
        if "," in str(name) and not Path(name).exists():
            raise ValueError(f"{name} is no directory: give several adapters with a blank between them, {str(name).replace(',', ' ')}")
    return [hub.resolve(name, "adapter", say=terminal.say) for name in names or ()]


def either(name: str | Path) -> Path:
    """The directory of a model or an adapter."""
    return hub.resolve(name, "either", say=terminal.say, look=_look)


def shape(name: str | Path) -> Path:
    """A directory with at least the model's configuration."""
    return hub.resolve(name, "shape", say=terminal.say)


def tokenizer(name: str | Path) -> Path:
    """A tokenizer's file, or a directory that holds one."""
    return hub.resolve(name, "tokenizer", say=terminal.say)


def experiment(given: train_config.Experiment, *, weights: bool = True) -> train_config.Experiment:
    """A training with every name as a path; without `weights` only what its shapes need is fetched."""
    of = given.model
    found: str | train_config.NewModel
    if isinstance(of, train_config.NewModel):
        found = dataclasses.replace(of, tokenizer=str(tokenizer(of.tokenizer)))
    else:
        found = str(model(of, expects=given.expects) if weights else shape(of))
    former = tuple(map(str, adapters(given.adapters))) if weights else given.adapters
    return dataclasses.replace(given, model=found, adapters=former)


def pipeline(given: adapt_config.Adapt, *, weights: bool = True) -> adapt_config.Adapt:
    """A pipeline with every name as a path; without `weights` only what its shapes need is fetched.

    What is neither here nor an address stays as it is: the pipeline tells all that is missing together.
    """
    base, vocabulary = given.base, given.vocabulary
    if base.model is not None and hub.address(base.model):
        base = dataclasses.replace(base, model=str(model(base.model) if weights else shape(base.model)))
    elif isinstance(base.tokenizer, str) and hub.address(base.tokenizer):
        base = dataclasses.replace(base, tokenizer=str(tokenizer(base.tokenizer)))
    if isinstance(vocabulary.added, tuple) and weights:
        added = tuple(str(tokenizer(name)) if hub.address(name) else name for name in vocabulary.added)
        vocabulary = dataclasses.replace(vocabulary, added=added)
    return dataclasses.replace(given, base=base, vocabulary=vocabulary)


def _look(directory: Path) -> None:
    """Refuses another kind of model before its weights are fetched."""
    from zhllama_jax.convert import source, tokenizer_hf

    source.load_config(directory)
    tokenizer_hf.require_sentencepiece(directory)
