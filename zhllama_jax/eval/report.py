"""The report of an adaptation: Markdown and pictures from one JSON tree of figures.

`markdown` leaves out what the figures do not hold, so that a pipeline without instructions or without `transformers` still
reports all it knows. Nothing here measures; every figure was measured by the step that is named beside it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import files

Figures = Mapping[str, Any]


def markdown(report: Figures) -> str:
    """The report's text.

    Args:
      report: the tree of figures that `zhllama adapt` collects: title, introduction, vocabulary, likelihood, baselines, answers,
        exams, generation, stages, data, samples, check, steps; all but the title may be missing.
    """
    chapters = [
        f"# {report['title']}",
        report.get("introduction", ""),
        _vocabulary(report.get("vocabulary")),
        _likelihood(report.get("likelihood"), report.get("baselines")),
        _answers(report.get("answers")),
        _exams(report.get("exams")),
        _generation(report.get("generation")),
        _stages(report.get("stages"), report.get("data")),
        _samples(report.get("samples")),
        _check(report.get("check")),
        _steps(report.get("steps")),
    ]
    return "\n\n".join(chapter for chapter in chapters if chapter) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, text_columns: int = 1) -> str:
    """A Markdown table; the first columns are text, the others are figures aligned to the right."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * text_columns}{'---:|' * (len(head) - text_columns)}"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines)


def sentence(remark: str) -> str:
    """A remark of the log as a sentence of its own."""
    return f"{remark[:1].upper()}{remark[1:]}."


def cell(value: Any) -> str:
    """A figure as a table shows it: three significant decimals, thousands set off, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return re.sub(r"\r\n?|\n", "<br>", str(value).replace("|", "\\|"))  # a lone carriage return ends a Markdown line too


def _vocabulary(vocabulary: Figures | None) -> str:
    if not vocabulary:
        return ""
    rows = [
        (
            text["name"],
            text["characters"],
            text["tokens_before"],
            text["tokens_after"],
            text["tokens_before"] / max(text["tokens_after"], 1),
        )
        for text in vocabulary["texts"]
    ]
    head = ("text", "characters", "tokens before", "tokens after", "times fewer")
    return "\n\n".join(
        [
            "## Vocabulary",
            "\n".join(f"- {line}" for line in vocabulary["summary"].splitlines()),
            table(head, rows),
            "![tokens before and after](plots/compression.png)",
        ]
    )


def _likelihood(likelihood: Figures | None, baselines: Sequence[Figures] | None) -> str:
    if not likelihood:
        return ""
    texts = list(likelihood["texts"])
    rows = [(row["after"], *(row.get(text) for text in texts)) for row in likelihood["rows"]]
    parts = [
        "## Bits per character of held-out text",
        " ".join(
            ["Lower is better; characters, unlike tokens, are the same under every vocabulary.", likelihood.get("scored", "")]
        ).strip(),
        table(("after", *texts), rows),
        "![bits per character after each step](plots/bits_per_character.png)",
    ]
    if baselines:
        parts += ["For comparison:", table(("baseline", *texts), [(row["name"], *(row.get(text) for text in texts)) for row in baselines])]
    parts += list(likelihood.get("remarks", ()))
    return "\n\n".join(parts)


def _answers(answers: Figures | None) -> str:
    if not answers:
        return ""
    rows = [(row["after"], row["bits_per_character"]) for row in answers["rows"]]
    return "\n\n".join(
        [
            "## Answers to held-out instructions",
            f"{answers['count']:,} held-out rows.",
            table(("after", "bits per character of the answer"), rows),
        ]
    )


def _exams(exams: Figures | None) -> str:
    if not exams:
        return ""
    first, *_ = exams["rows"]
    tasks = list(first["by_task"])
    rows = [("all", *(row["exact"] * 100 for row in exams["rows"]))]
    rows += [(task, *(100 * row["by_task"][task][0] / row["by_task"][task][1] for row in exams["rows"])) for task in tasks]
    sentence = (
        f"Per cent of {first['total']:,} held-out instructions answered exactly by greedy generation; the single most frequent answer "
        f"would get {100 * first['most_frequent']:.1f} %."
    )
    return "\n\n".join(["## Instructions followed", sentence, table(("task", *(row["after"] for row in exams["rows"])), rows)])


def _generation(generation: Figures | None) -> str:
    if not generation:
        return ""
    rows = [
        (row["model"], row["tokens_per_second"], row["characters_per_token"], row["characters_per_second"]) for row in generation["rows"]
    ]
    head = ("vocabulary", "tokens/s", "characters/token", "characters/s")
    return "\n\n".join(["## Speed of generation", generation["remark"], table(head, rows)])


def _stages(stages: Sequence[Figures] | None, data: Sequence[str] | None) -> str:
    if not stages:
        return ""
    head = ("stage", "trainable", "of parameters", "per cent", "steps", "tokens", "seconds", "tokens/s", "loss first", "loss last")
    rows = [
        [
            stage.get(key)
            for key in (
                "name",
                "trainable",
                "parameters",
                "percent",
                "steps",
                "tokens",
                "seconds",
                "tokens_per_second",
                "loss_first",
                "loss_last",
            )
        ]
        for stage in stages
    ]
    tables = [f"### {stage['name']}\n\n```\n{stage['table']}\n```" for stage in stages if stage.get("table")]
    return "\n\n".join(["## Training", table(head, rows), "![loss of each stage](plots/losses.png)", *map(sentence, data or ()), *tables])


def _samples(samples: Sequence[Figures] | None) -> str:
    if not samples:
        return ""
    head = ("prompt", *(name for name in samples[0] if name != "prompt"))
    return "\n\n".join(["## Samples", table(head, [list(sample.values()) for sample in samples], text_columns=len(head))])


def _check(check: Figures | None) -> str:
    if not check:
        return ""
    return f"## Check of the exported directory\n\n{check['sentence']}"


def _steps(steps: Sequence[Figures] | None) -> str:
    if not steps:
        return ""
    return "\n\n".join(["## Time", table(("step", "seconds"), [(step["name"], step["seconds"]) for step in steps])])


def plots(report: Figures, directory: Path) -> list[Path]:
    """Draws what the figures hold as PNG files; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []

    def save(figure: Any, name: str) -> None:
        figure.tight_layout()
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=120)
        files.atomic_write(directory / name, drawn.getvalue())
        pyplot.close(figure)
        made.append(directory / name)

    if vocabulary := report.get("vocabulary"):
        names = [text["name"] for text in vocabulary["texts"]]
        figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(names) + 1.5))
        for offset, key, label in ((-0.2, "tokens_before", "before"), (0.2, "tokens_after", "after")):
            values = [text[key] / max(text["characters"], 1) for text in vocabulary["texts"]]
            axes.barh([position + offset for position in range(len(names))], values, height=0.38, label=label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("tokens per character")
        axes.legend()
        save(figure, "compression.png")
    if likelihood := report.get("likelihood"):
        figure, axes = pyplot.subplots(figsize=(7, 4))
        steps = [row["after"] for row in likelihood["rows"]]
        for text in likelihood["texts"]:
            axes.plot(steps, [row.get(text) for row in likelihood["rows"]], marker="o", label=text)
        axes.set_ylabel("bits per character")
        axes.set_yscale("log")
        axes.tick_params(axis="x", rotation=20)
        axes.legend()
        save(figure, "bits_per_character.png")
    curves = [stage for stage in report.get("stages", ()) if stage.get("losses")]
    if curves:
        figure, grid = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), squeeze=False)
        for axes, stage in zip(grid[0], curves, strict=True):
            alone = "." if len(stage["losses"]) == 1 else None  # a single point makes no line
            axes.plot(*zip(*stage["losses"], strict=True), linewidth=0.8, marker=alone, label="training")
            if stage.get("validation"):
                axes.plot(*zip(*stage["validation"], strict=True), marker=".", label="held out")
            axes.set_title(stage["name"])
            axes.set_xlabel("step")
        grid[0][0].set_ylabel("nats per token")
        grid[0][0].legend()
        save(figure, "losses.png")
    return made
