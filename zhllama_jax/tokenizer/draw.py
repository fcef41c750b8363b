"""The report of a merge as a picture. Letters in it are ASCII: no Chinese font is needed."""

import io
from pathlib import Path
from typing import Any

from zhllama_jax import files


def picture(report: dict[str, Any], path: str | Path) -> None:
    """Draws tokens per character and the share of single bytes, before and after, by text; PNG.

    Names with letters beyond ASCII appear as `text 1`, `text 2` … in the report's order.
    """
    from matplotlib import figure

    texts = report["texts"]
    names = [name if name.isascii() else f"text {number}" for number, name in enumerate(texts, 1)]
    panels = (
        ("tokens per character", "tokens_per_character", 1.0),
        ("single bytes, % of tokens", "byte_fallback_share", 100.0),
    )
    canvas = figure.Figure(figsize=(4.5 + 1.2 * len(names), 4.0), layout="constrained")
    for axes, (title, key, factor) in zip(canvas.subplots(1, 2), panels, strict=True):
        for shift, which, colour in ((-0.2, "base", "#9aa5b1"), (0.2, "merged", "#c0392b")):
            heights = [text[which][key] * factor for text in texts.values()]
            bars = axes.bar([place + shift for place in range(len(names))], heights, 0.38, color=colour, label=_label(report, which))
            axes.bar_label(bars, fmt="%.2f" if factor == 1.0 else "%.1f", fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=20 if len(names) > 3 else 0)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.12)
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    # matplotlib writes its version and the time into a PNG unless told not to.
    canvas.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    files.atomic_write(path, buffer.getvalue())


def _label(report: dict[str, Any], which: str) -> str:
    return f"{'before' if which == 'base' else 'after'}: {report[which]['pieces']:,} pieces"
