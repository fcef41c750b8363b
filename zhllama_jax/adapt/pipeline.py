"""The pipeline as one list of steps, in the order of the story, and the report at its end."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import files
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import evaluation, inputs, places, progress, steps, summary, texts, training, vocabulary
from zhllama_jax.convert import verify
from zhllama_jax.data import build
from zhllama_jax.eval import report, report_html
from zhllama_jax.train import guard, trackers

REPORT = "report.md"
PAGE = "report.html"
UNFINISHED = "UNFINISHED.txt"
"""Lies beside a report of former settings until the one of the present settings takes its place."""


def run(config: config_lib.Adapt, *, say: Callable[[str], None]) -> Path:
    """Does what is not done yet and writes the report.

    Args:
      config: the pipeline.
      say: takes one line before and after each step.

    Returns:
      The report, `<output>/report.md`; `report.html`, `report.json`, `config.yaml`, `plots/` and the adapted `model` lie beside it.

    Raises:
      FileNotFoundError, ValueError: an input is missing or does not fit, which is looked for before the first step; or the output holds
        what no pipeline wrote, or another process works on it; or, when all is done and reported, the exported model gives other
        logits in `transformers`.
    """
    inputs.check(config)
    trackers.check(config.wandb)
    planned, output = plan(config, say=say), Path(config.output)
    steps.check(planned, output)
    with guard.lock(output):
        steps.claim(output)
        _announce(config, output, say)
        files.atomic_write(output / summary.CONFIG, config.to_yaml())
        records = steps.run(planned, output, say)
        figures = summary.collect(config, records)
        report.plots(figures, output / "plots")
        files.write_json(output / "report.json", figures)
        files.atomic_write(output / PAGE, report_html.page(figures))
        files.atomic_write(output / REPORT, report.markdown(figures))
        (output / UNFINISHED).unlink(missing_ok=True)
    if (figures["check"] or {}).get("agrees") is False:
        raise ValueError(f"{places.of(config, places.FINAL)} gives other logits in transformers than here; see {output / REPORT}")
    return output / REPORT


def _announce(config: config_lib.Adapt, output: Path, say: Callable[[str], None]) -> None:
    """Says, and notes beside a former report until it is replaced, that it and the models are of other settings than this run's."""
    written, note = output / summary.CONFIG, output / UNFINISHED
    if not (output / REPORT).is_file():
        return
    if note.is_file() or not written.is_file() or written.read_text(encoding="utf-8") != config.to_yaml():
        text = f"{REPORT}, {PAGE} and the models are of former settings until the run with those of {summary.CONFIG} has ended"
        files.atomic_write(note, f"{text}.\n")
        say(f"note: {output}: {text}")


def plan(config: config_lib.Adapt, *, say: Callable[[str], None] = lambda line: None) -> list[steps.Step]:
    """All steps of a pipeline, in order: what needs no weights first, so that its faults are found before hours of training.

    Args:
      config: the pipeline.
      say: takes a line now and then from steps that are long in measuring.
    """
    return [*_tokenizer_steps(config), *_packing_steps(config), *_training_steps(config), *_measuring_steps(config, say)]


def evaluated(config: config_lib.Adapt) -> list[str]:
    """The points at which the model is measured, in order: base, resized, each training, and the baseline."""
    points = [evaluation.base_name(config), places.RESIZED, *(training.name for training in config.trainings)]
    return [*points, *([places.BASELINE] if _wants_baseline(config) else [])]


def _tokenizer_steps(config: config_lib.Adapt) -> list[steps.Step]:
    """The base's tokenizer where it is made here, the added pieces, and both merged."""
    made = []
    base, added = config.base, config.vocabulary.added
    if isinstance(base.tokenizer, config_lib.NewVocabulary):
        made.append(_learning(config, places.BASE_TOKENIZER, base.tokenizer))
    if isinstance(added, config_lib.NewVocabulary):
        made.append(_learning(config, places.ADDED, added))
    needs, reads = _old_tokenizer(config)
    merging = steps.Step(
        places.TOKENIZER,
        functools.partial(vocabulary.merge_in, config),
        settings=[_plain(config.vocabulary), {name: _plain(text) for name, text in config.texts.items()}],
        reads=[*reads, *(added if isinstance(added, tuple) else []), *inputs.files(config, config.texts)],
        needs=[*needs, *([places.ADDED] if isinstance(added, config_lib.NewVocabulary) else [])],
    )
    return [*made, merging]


def _packing_steps(config: config_lib.Adapt) -> list[steps.Step]:
    """Every text that is trained on, under the vocabularies that it is trained under."""
    old = _names(
        [*([config.base.training] if config.base.training else []), *(_pretraining(config)[-1:] if _wants_baseline(config) else [])]
    )
    return [
        *(_packing(config, places.OLD, name) for name in old),
        *(_packing(config, places.NEW, name) for name in _names(config.trainings)),
    ]


def _training_steps(config: config_lib.Adapt) -> list[steps.Step]:
    """The base where it is made here and the base grown, the trainings, each on what the former left, the baseline, the folded models."""
    made = []
    if config.base.training is not None:
        made.append(
            steps.Step(
                config.base.training.name,
                functools.partial(training.base, config),
                settings=_settings(config, config.base.training, config.base.init),
                needs=[_rows(places.OLD, name) for name in config.base.training.texts],
            )
        )
    needs, reads = _base(config)
    made.append(
        steps.Step(
            places.RESIZED,
            functools.partial(vocabulary.grow, config),
            settings=[config.vocabulary.init, config.seed],
            reads=reads,
            needs=[*needs, places.TOKENIZER],
        )
    )
    former: str | None = None
    for one in config.trainings:
        made.append(
            steps.Step(
                one.name,
                functools.partial(training.stage, config, one, former),
                settings=_settings(config, one),
                needs=[places.RESIZED, *([former] if former else []), *(_rows(places.NEW, name) for name in one.texts)],
            )
        )
        former = one.name
    pretraining = _pretraining(config)
    if _wants_baseline(config):
        rows = [_rows(places.OLD, name) for name in pretraining[-1].texts]
        made.append(
            steps.Step(
                places.BASELINE,
                functools.partial(training.baseline, config, pretraining),
                settings=_settings(config, pretraining[-1]),
                needs=[*_base(config)[0], *(one.name for one in pretraining), *rows],
            )
        )
    last = config.trainings[-1].name
    folded = {places.PRETRAINED: pretraining[-1].name} if pretraining and pretraining[-1].name != last else {}
    for name, source in {**folded, places.FINAL: last}.items():
        made.append(steps.Step(name, functools.partial(training.export, config, source), needs=[places.RESIZED, source], folder=name))
    return made


def _measuring_steps(config: config_lib.Adapt, say: Callable[[str], None]) -> list[steps.Step]:
    """One step for each point at which the model is measured, and what is measured once; they leave figures and no files."""
    measured = config.evaluation
    last = config.trainings[-1].name
    reads = [
        *inputs.files(config, [*config.texts, *([config_lib.INSTRUCTIONS] if config.instructions else [])]),
        *([measured.exam] if measured.exam else []),
    ]
    settings = [
        _plain(measured),
        _plain(config.instructions),
        {name: _plain(text) for name, text in config.texts.items()},
        config.sequence_length,
        config.dtype,
    ]
    base = evaluation.base_name(config)
    made = []
    for name in evaluated(config):
        needs = [name] if name != "base" else []
        needs += [places.RESIZED] if name not in (places.RESIZED, base) else []
        point_reads = [*reads, *(_base(config)[1] if name == "base" else [])]
        point_settings = [*settings, name in evaluation.exam_points(config)]
        step = f"measure_{name}"
        measuring = functools.partial(evaluation.point, config, name, watch=progress.lines(say, step))
        made.append(steps.Step(step, measuring, point_settings, point_reads, needs))
    if measured.ngram:
        fitted = [*settings, evaluation.adaptation_texts(config)]
        made.append(steps.Step("ngram", functools.partial(evaluation.character_ngram, config), fitted, reads))
    needs = [places.RESIZED, last, *([base] if base != "base" else [])]
    spoken = [*settings, config.adapted]
    made.append(steps.Step("generation", functools.partial(evaluation.generation, config, last), spoken, reads, needs))
    if measured.verify_with_transformers:
        made.append(
            steps.Step("check", functools.partial(evaluation.check, config), [verify.installed(), *settings], reads, [places.FINAL])
        )
    return [dataclasses.replace(step, leaves_files=False) for step in made]


def _base(config: config_lib.Adapt) -> tuple[list[str], list[str]]:
    """(steps, files) that the base is made from."""
    if config.base.model is not None:
        return [], inputs.base_files(config)
    assert config.base.training is not None, "Base checks that a new base has its training"
    return [config.base.training.name], []


def _old_tokenizer(config: config_lib.Adapt) -> tuple[list[str], list[str]]:
    """(steps, files) that the base's tokenizer is made from."""
    if isinstance(config.base.tokenizer, config_lib.NewVocabulary):
        return [places.BASE_TOKENIZER], []
    return [], _base(config)[1] or [str(places.old_tokenizer(config))]


def _rows(tokenizer: str, name: str) -> str:
    """The name of the step that packs a text."""
    return f"rows_{tokenizer}_{name}"


def _packing(config: config_lib.Adapt, tokenizer: str, name: str) -> steps.Step:
    """Packs a text under the old or the new vocabulary."""
    needs, reads = ([places.TOKENIZER], []) if tokenizer == places.NEW else _old_tokenizer(config)
    instructions = name == config_lib.INSTRUCTIONS
    text = config.instructions if instructions else config.texts[name]
    return steps.Step(
        _rows(tokenizer, name),
        functools.partial(training.pack, config, tokenizer, name),
        settings=[_plain(text), config.sequence_length, *([] if instructions else _rules(config, [name]))],
        reads=[*reads, *inputs.files(config, [name]), *([] if instructions else inputs.held_out_files(config.texts, [name]))],
        needs=needs,
        folder=f"steps/rows_{tokenizer}/{name}",
    )


def _learning(config: config_lib.Adapt, name: str, new: config_lib.NewVocabulary) -> steps.Step:
    learned = {text: _plain(config.texts[text]) for text in new.texts}
    run = functools.partial(vocabulary.learn, config, new)
    reads = [*inputs.files(config, new.texts), *inputs.held_out_files(config.texts, new.texts)]
    return steps.Step(name, run, settings=[_plain(new), learned, config.seed, *_rules(config, new.texts)], reads=reads)


def _rules(config: config_lib.Adapt, names: Sequence[str]) -> list[Any]:
    """How the files of other texts tell what is not learned from the named ones."""
    return [build.rule(other) for other in texts.holding(config.texts, names)]


def _settings(config: config_lib.Adapt, one: config_lib.Training, init: Any = None) -> Any:
    """Whatever decides a training's numbers; how often it is saved is no part of it, and validated only where that chooses the weights."""
    spared = {"checkpoint", *(["validation"] if one.validation.keep == "last" else [])}
    own = {name: value for name, value in dataclasses.asdict(one).items() if name not in spared}
    return [own, _plain(init), config.sequence_length, config.dtype, config.seed]


def _names(trainings: Sequence[config_lib.Training]) -> list[str]:
    """The texts of some trainings, each once."""
    return list(dict.fromkeys(name for one in trainings for name in one.texts))


def _pretraining(config: config_lib.Adapt) -> list[config_lib.Training]:
    """The trainings without instructions."""
    return [one for one in config.trainings if config_lib.INSTRUCTIONS not in one.texts]


def _wants_baseline(config: config_lib.Adapt) -> bool:
    return config.evaluation.equal_compute and bool(_pretraining(config))


def _plain(value: Any) -> Any:
    """A dataclass as JSON values without paths, whose content counts instead of their names."""
    if value is None:
        return None
    return {name: item for name, item in dataclasses.asdict(value).items() if name not in ("files", "validation_files", "added", "exam")}
