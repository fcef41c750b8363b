"""The steps that measure: a model after each step, the baselines, generation before and after, and the exported directory."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import measure, places, progress, texts
from zhllama_jax.convert import fold, manifest, verify, vocabulary
from zhllama_jax.eval import answers, ngram
from zhllama_jax.model import llama

NGRAM_ORDER = 5
SPEED_CHARACTERS = 2_000
CHECKED_TEXTS, CHECKED_CHARACTERS = 20, 500


def point(
    config: config_lib.Adapt, name: str, folder: Path, before: Mapping[str, Any], *, watch: progress.Watch = progress.silent
) -> dict[str, Any]:
    """Everything that is measured of the model after the step `name`.

    Where there are instructions, the cost of the held-out answers is measured everywhere, and the exam before the first training, before
    the first instruction and at the end. `watch` is told how far it is.
    """
    del folder
    subject = _subject(config, name, before)
    options = _options(config)
    found: dict[str, Any] = {
        "texts": measure.bits_per_character(subject, held_out(config), length=config.sequence_length, options=options, watch=watch),
    }
    prompt = _prompt(config)
    if prompt is not None and config.instructions is not None:
        rows = texts.held_out_rows(config.instructions)
        if rows:
            found["answers"] = measure.answer_bits_per_character(
                subject, rows, prompt=prompt, length=subject.config.max_position_embeddings, options=options, watch=watch
            )
        if config.evaluation.exam is not None and name in exam_points(config):
            questions = answers.read(config.evaluation.exam)
            found["exam"] = measure.exam(
                subject, questions, prompt=prompt, max_new_tokens=config.evaluation.max_new_tokens, options=options, watch=watch
            )
    return found


def exam_points(config: config_lib.Adapt) -> list[str]:
    """The steps after which the exam is sat."""
    before_instructions = [one.name for one in config.trainings if config_lib.INSTRUCTIONS not in one.texts][-1:]
    return [places.RESIZED, *before_instructions, config.trainings[-1].name]


def held_out(config: config_lib.Adapt) -> dict[str, list[str]]:
    """Name -> held-out documents of every text that is to be scored."""
    names = config.evaluation.texts or [name for name, text in config.texts.items() if texts.holds_out(text)]
    return {name: texts.held_out(config.texts[name], max_characters=config.evaluation.max_characters) for name in names}


def character_ngram(config: config_lib.Adapt, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """An interpolated 5-gram model of characters, fitted on all of the text that the adaptation learns from."""
    del folder, before
    names = adaptation_texts(config)
    fitted = ngram.fit([document for name in names for document in texts.learned(config.texts, name)], order=NGRAM_ORDER)
    scores = {name: fitted.bits_per_character(held) for name, held in held_out(config).items() if name in names}
    return {"texts": scores, "fitted_on": names}


def adaptation_texts(config: config_lib.Adapt) -> list[str]:
    """The texts that the adaptation learns from, instructions apart, each once."""
    return list(dict.fromkeys(name for training in config.trainings for name in training.texts if name != config_lib.INSTRUCTIONS))


def generation(config: config_lib.Adapt, last: str, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Characters per second with the old and the new vocabulary, and sample answers before and after."""
    del folder
    options = _options(config)
    sample = "\n".join(held_out_of(config, config.adapted))[:SPEED_CHARACTERS]
    old, new = (_subject(config, name, before) for name in (base_name(config), last))
    prompt = _prompt(config)
    samples = []
    if config.evaluation.samples:
        put = prompt or manifest.Prompt(template="none", boundary="joined")
        asked = [(text, "") for text in config.evaluation.samples]
        ask = functools.partial(measure.ask, questions=asked, prompt=put, max_new_tokens=config.evaluation.max_new_tokens, options=options)
        resized = _subject(config, places.RESIZED, before)
        for text, first, final in zip(config.evaluation.samples, ask(resized), ask(new), strict=True):
            samples.append({"prompt": text, "resized": first, "adapted": final})
    return {"old": measure.speed(old, sample, options=options), "new": measure.speed(new, sample, options=options), "samples": samples}


def held_out_of(config: config_lib.Adapt, name: str) -> list[str]:
    """The held-out documents of one text."""
    return texts.held_out(config.texts[name], max_characters=config.evaluation.max_characters)


def check(config: config_lib.Adapt, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Compares the exported directory's logits with those of `transformers`, where that is installed."""
    del folder, before
    chosen = [document[:CHECKED_CHARACTERS] for documents in held_out(config).values() for document in documents[:CHECKED_TEXTS]]
    report = verify.against_transformers(places.of(config, places.FINAL), texts=chosen)
    if report is None:
        return {"sentence": f"Not compared: {verify.MISSING}; the same command then compares.", "report": None, "agrees": None}
    logits, agrees = report["logits"], verify.agrees(report["logits"])
    sentence = (
        f"`transformers` loads the exported directory: logits differ by at most {logits['max_abs']:.2e} (largest {logits['largest']:.1f}), "
        f"which is {'within' if agrees else 'beyond'} the tolerance of {verify.TOLERANCE:g} of the largest, "
        f"and {report['texts_with_other_ids']} of {report['texts']} texts get other ids."
    )
    return {"sentence": sentence, "report": report, "agrees": agrees}


def base_name(config: config_lib.Adapt) -> str:
    """The name under which the base is measured."""
    return config.base.training.name if config.base.training is not None else "base"


def _subject(config: config_lib.Adapt, name: str, before: Mapping[str, Any]) -> measure.Subject:
    """The model after a step: the directory that a training's figures name, with their adapters folded in; the base; the grown one."""
    adapters: list[str] = []
    if name == places.RESIZED:
        directory = places.of(config, places.RESIZED)
    elif name in before:
        directory, adapters = places.after(config, before[name])
    else:
        directory = places.base_model(config)
    loaded = fold.load(directory, adapters, dtype=config.dtype)
    checkpoint = vocabulary.cut(loaded.checkpoint, loaded.tokenizer)
    weights = {"params": jax.tree.map(jnp.asarray, checkpoint.params)}
    return measure.Subject(checkpoint.config, weights, loaded.tokenizer)


def _prompt(config: config_lib.Adapt) -> manifest.Prompt | None:
    rows = config.instructions
    return None if rows is None else manifest.Prompt(template=rows.template, boundary=rows.boundary)


def _options(config: config_lib.Adapt) -> llama.Options:
    return llama.Options(dtype=jnp.dtype(config.dtype))
