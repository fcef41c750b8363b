"""From the records of the steps to the one tree of figures that the report is written from."""

import importlib.metadata
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import zhllama_jax
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import evaluation, places, steps
from zhllama_jax.eval import figures as figures_lib

CONFIG = "config.yaml"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors", "sentencepiece", "transformers")


def collect(config: config_lib.Adapt, records: Mapping[str, steps.Record]) -> dict[str, Any]:
    """Everything that `eval.report` and `eval.report_html` show; see `markdown` and `page` there."""
    points = [name.removeprefix("measure_") for name in records if name.startswith("measure_")]
    figures = {name: record.figures for name, record in records.items()}
    measured = {name: figures[f"measure_{name}"] for name in points}
    return {
        "title": "Adaptation report",
        "name": config.output,
        "introduction": _introduction(config, records),
        "adapted": config.adapted,
        "learned": evaluation.adaptation_texts(config),
        "points": {"pretrained": _last_pretraining(config)},
        "vocabulary": _vocabulary(figures),
        "likelihood": _likelihood(config, measured, figures.get("ngram")),
        "baselines": _baselines(config, figures, measured),
        "answers": _answers(measured),
        "exams": _exams(measured),
        "generation": _generation(figures),
        "data": list(dict.fromkeys(remark for found in figures.values() for remark in found.get("remarks", ()))),
        "stages": _stages(config, figures),
        "samples": figures["generation"]["samples"],
        "check": figures.get("check"),
        "steps": [{"name": name, "seconds": record.seconds} for name, record in records.items()],
        "configuration": config.to_yaml(),
        "versions": _versions(),
        "reproduce": _reproduce(config),
    }


def _introduction(config: config_lib.Adapt, records: Mapping[str, steps.Record]) -> str:
    """What was made, and what to do with it."""
    model = places.of(config, places.FINAL)
    seconds = sum(record.seconds for record in records.values())
    parts = [
        f"The adapted model is `{model}`, a Hugging Face directory; all steps together took {seconds / 60:.1f} minutes. Try it with",
        f"```\nzhllama generate --model {model} --prompt '…'\nzhllama chat --model {model}\n```",
        "All figures of this page are in `report.json`.",
    ]
    return "\n\n".join(parts)


def _vocabulary(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": figures[places.TOKENIZER]["summary"], "texts": figures[places.TOKENIZER]["texts"]}


def _likelihood(config: config_lib.Adapt, measured: Mapping[str, Any], ngram: Mapping[str, Any] | None) -> dict[str, Any]:
    rows = [{"after": name, **_bits(point)} for name, point in measured.items() if name != places.BASELINE]
    texts = list(rows[0])[1:]
    remarks = []
    if (name := _last_pretraining(config)) is not None:
        first = measured[places.RESIZED]["texts"][config.adapted]["bits_per_character"]
        last = measured[name]["texts"][config.adapted]["bits_per_character"]
        remarks.append(
            f"From the resized model to the end of `{name}` the bits per character of held-out {config.adapted} "
            f"{'fall' if last < first else 'rise'} from {figures_lib.number(first)} to {figures_lib.number(last)}, "
            f"by {100 * abs(1 - last / first):.1f} %."
        )
        rivals = {
            "the n-gram of characters": ngram["texts"] if ngram else {},
            "the un-extended model": _bits(measured.get(places.BASELINE)),
        }
        compared = [
            f"{'better' if last < bits[config.adapted] else 'worse'} than {rival} ({figures_lib.number(bits[config.adapted])})"
            for rival, bits in rivals.items()
            if config.adapted in bits
        ]
        if compared:
            remarks.append(f"That is {' and '.join(compared)}.")
    if config.base.training is not None:
        remarks.append(
            "The base was trained here, small and briefly: what the English column shows says little about how much a 7B model forgets."
        )
    return {"texts": texts, "rows": rows, "scored": _scored(config, next(iter(measured.values()))["texts"]), "remarks": remarks}


def _scored(config: config_lib.Adapt, texts: Mapping[str, Mapping[str, Any]]) -> str:
    """How much of the held-out texts the figures speak of, the n-gram's too."""
    limit = config.evaluation.max_characters
    counts = ", ".join(f"{name} {score['characters']:,}" for name, score in texts.items())
    cut = [name for name, score in texts.items() if score["characters"] >= limit]
    if not cut:
        return f"All of each held-out text is scored: {counts} characters."
    return f"At most the first {limit:,} characters of each held-out text are scored (`evaluation.max_characters`): {counts}."


def _baselines(config: config_lib.Adapt, figures: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    if "ngram" in figures:
        name = f"interpolated {evaluation.NGRAM_ORDER}-gram of characters, fitted on all of the adaptation's text"
        rows.append({"name": name, "short": f"{evaluation.NGRAM_ORDER}-gram", **figures["ngram"]["texts"]})
    if places.BASELINE in measured:
        last = [one for one in config.trainings if config_lib.INSTRUCTIONS not in one.texts][-1]
        name = "un-extended model, trained on the same text with equal FLOPs"
        if last.choice.trained_rows == "new" and not last.choice.full:
            name += " (all of its rows, as it has no new ones)"
        rows.append({"name": name, "short": "un-extended model", **_bits(measured[places.BASELINE])})
    return rows


def _last_pretraining(config: config_lib.Adapt) -> str | None:
    """The training that the baselines are compared with: the last one without instructions."""
    return next((one.name for one in reversed(config.trainings) if config_lib.INSTRUCTIONS not in one.texts), None)


def _bits(point: Mapping[str, Any] | None) -> dict[str, float]:
    """Name of a text -> bits per character at a point of the pipeline."""
    return {name: score["bits_per_character"] for name, score in point["texts"].items()} if point else {}


def _answers(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = [
        {"after": name, "bits_per_character": point["answers"]["bits_per_character"]}
        for name, point in measured.items()
        if "answers" in point and name != places.BASELINE
    ]
    if not rows:
        return None
    return {"count": next(point["answers"]["rows"] for point in measured.values() if "answers" in point), "rows": rows}


def _exams(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    rows = [{"after": name, **point["exam"]} for name, point in measured.items() if "exam" in point and name != places.BASELINE]
    return {"rows": rows} if rows else None


def _generation(figures: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{"model": name, **figures["generation"][name]} for name in ("old", "new")]
    gain = rows[1]["characters_per_second"] / rows[0]["characters_per_second"]
    return {"rows": rows, "remark": f"With the new vocabulary the model writes {gain:.2f} times the characters per second."}


def _stages(config: config_lib.Adapt, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = [one.name for one in config.all_trainings] + [places.BASELINE] * (places.BASELINE in figures)
    return [{"name": name, **figures[name]} for name in names]


def _versions() -> dict[str, str]:
    """The software that writes the report, and what it computes on."""
    found = {"zhllama-jax": zhllama_jax.__version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # transformers is an extra
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["devices"] = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    return found


def _reproduce(config: config_lib.Adapt) -> str:
    """The commands that go on with this run, or do it again elsewhere."""
    settings, again = Path(config.output) / CONFIG, f"{config.output.rstrip('/')}-again"
    command = f"zhllama adapt --config {shlex.quote(str(settings))}"
    return (
        f"All settings stand in `{settings}`; paths in it are relative to the folder in which the run was started. The first command goes "
        "on with this run and does only what is missing or has changed, the second does all of it again.\n\n"
        f"```\n{command}\n{command} --output {shlex.quote(again)}\n```"
    )
