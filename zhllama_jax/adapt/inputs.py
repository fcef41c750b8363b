"""What a pipeline reads from outside: which files its names stand for, and a look at all of them before the first step."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax

from zhllama_jax import hub, published, templates
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import texts, training
from zhllama_jax.convert import llama_hf, source
from zhllama_jax.data import build, documents, instructions
from zhllama_jax.data import config as data_config
from zhllama_jax.eval import answers
from zhllama_jax.model import config as model_config
from zhllama_jax.tokenizer import processor, scripts
from zhllama_jax.train import config as train_config
from zhllama_jax.train import stages, takeover

SOME_ROWS = 1024
"""Rows of a vocabulary whose size nobody knows yet, where only the weights' paths matter."""


def files(config: config_lib.Adapt, names: Iterable[str]) -> list[str]:
    """The files behind named texts, as everything that reads them resolves folders and patterns.

    Raises:
      FileNotFoundError, ValueError: see `documents.expand`.
    """
    found: list[Path] = []
    for name in names:
        source = config.instructions if name == config_lib.INSTRUCTIONS else config.texts[name]
        assert source is not None, "Adapt checks that the name stands for something"
        found += [*_expand(source, source.files), *_expand(source, source.validation_files)]
    return [str(path) for path in found]


def held_out_files(named: Mapping[str, data_config.TextData], names: Iterable[str]) -> list[str]:
    """The files of other texts that tell what is not learned from the texts `names`, as it is held out elsewhere."""
    return [str(path) for text in texts.holding(named, names) for path in build.telling(text)]


def base_files(config: config_lib.Adapt) -> list[str]:
    """The given base: its directory, or, where that lies in the hub's cache, the files that are read, since others may join them there."""
    assert config.base.model is not None, "the pipeline's own base is a step"
    directory = config.base.model
    if hub.id_of(directory) is None:
        return [directory]
    with contextlib.closing(llama_hf.open_weights(directory)) as reader:
        weights = {reader.file(name).name for name in reader.entries}
    present = [name for name in (*published.MODEL_FILES, *sorted(weights)) if os.path.isfile(os.path.join(directory, name))]
    return [os.path.join(directory, name) for name in present]


def check(config: config_lib.Adapt) -> None:
    """Looks at every input and tells at once what would else fail hours later.

    Raises:
      FileNotFoundError: something is missing, and nothing else is wrong.
      ValueError: something does not fit; all problems are listed together.
    """
    looks: list[Callable[[], object]] = [lambda: _check_base(config)]
    named = [*config.texts, *([config_lib.INSTRUCTIONS] if config.instructions else [])]
    looks += [lambda name=name: files(config, [name]) for name in named]  # type: ignore[misc]
    if isinstance(config.vocabulary.added, tuple):
        looks += [lambda path=path: _exists(path) for path in config.vocabulary.added]  # type: ignore[misc]
    if config.vocabulary.mode == "safe":
        looks.append(lambda: scripts.named(config.vocabulary.script))
    if config.instructions is not None:
        template = config.instructions.template
        looks.append(lambda: templates.named(template))
    if config.evaluation.exam is not None:
        exam = config.evaluation.exam
        looks.append(lambda: answers.read(exam))
    looks += [lambda one=one: _check_batch(one) for one in config.all_trainings]  # type: ignore[misc]
    missing, wrong = [], []
    for look in looks:
        try:
            look()
        except FileNotFoundError as error:
            missing.append(str(error))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(dict.fromkeys([*missing, *wrong])))
    if missing:
        raise FileNotFoundError("; ".join(dict.fromkeys(missing)))


def _check_base(config: config_lib.Adapt) -> None:
    """The base, or what it will be made from: there, readable, with a context that holds a row and weights that the rules decide."""
    base = config.base
    if base.model is not None:
        if not os.path.exists(base.model):
            raise FileNotFoundError(f"{base.model} not found: {hub.absent('model')}")
        shape = source.load_config(base.model)
        processor.Tokenizer.load(base.model)
    else:
        assert base.init is not None, "Base checks that a new base has its shape"
        shape = base.init.llama(vocab_size=SOME_ROWS)
        if isinstance(base.tokenizer, str):
            processor.Tokenizer.load(base.tokenizer)
    config.check_length(context=shape.context)
    if base.training is not None:
        _check_stage(base.training.name, base.training.choice, base.training.lora, shape)
    grown = shape.replace(vocab_size=shape.vocab_size + SOME_ROWS, base_vocab_size=shape.vocab_size)
    for one in config.trainings:
        _check_stage(one.name, one.choice, one.lora, grown)
    pretraining = [one for one in config.trainings if config_lib.INSTRUCTIONS not in one.texts]
    if config.evaluation.equal_compute and pretraining:
        last = pretraining[-1]
        _check_stage(f"{last.name} of the un-extended base", training.unextended(last.choice), last.lora, shape)


def _check_stage(name: str, stage: train_config.Stage, lora: train_config.Lora, shape: model_config.LlamaConfig) -> None:
    """A stage's rules on a model of some shape: each decides something, something learns, and an adapter can hold it."""
    try:
        takeover.check_trainable(stage, stages.plan(stage, stages.abstract(stage, shape, lora)).mask)
    except ValueError as error:
        raise ValueError(f"training {name}: {error}") from None


def _check_batch(one: config_lib.Training) -> None:
    """A batch that this machine's devices can share."""
    try:
        one.stand_in().accumulation(batch=one.global_batch, devices=jax.device_count())
    except ValueError as error:
        raise ValueError(f"training {one.name!r}: {error}") from None


def _exists(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} not found, which vocabulary.added names: {hub.absent('tokenizer')}")


def _expand(source: data_config.TextData | data_config.SftData, paths: Sequence[str]) -> list[Path]:
    if isinstance(source, data_config.SftData):
        return documents.expand(paths, suffixes=instructions.SUFFIXES)
    return documents.expand(paths)
