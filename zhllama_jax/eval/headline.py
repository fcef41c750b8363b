"""The first figures that a reader sees: what the adaptation saved, learned and cost, from the report's tree of figures."""

from collections.abc import Mapping
from typing import Any

from zhllama_jax.eval import document, figures

Tree = Mapping[str, Any]


def tiles(report: Tree) -> list[document.Tile]:
    """The figures there are, in the order of their weight."""
    found = [_tokens(report), _bits(report), *_baselines(report), _exam(report), _answers(report), _speed(report), *_others(report)]
    return [tile for tile in found if tile is not None]


def adapted(report: Tree) -> str | None:
    """The text that the model was adapted to; where a report does not say, the one that takes the most tokens fewer."""
    if report.get("adapted"):
        return str(report["adapted"])
    texts = (report.get("vocabulary") or {}).get("texts") or []
    return max(texts, key=lambda text: text["tokens_before"] / max(text["tokens_after"], 1))["name"] if texts else None


def compared(report: Tree) -> str | None:
    """The point that is compared with the baselines: after the last training without instructions."""
    rows = (report.get("likelihood") or {}).get("rows") or []
    names = [row["after"] for row in rows]
    point = (report.get("points") or {}).get("pretrained")
    return point if point in names else names[-1] if names else None


def bits(report: Tree, after: str | None, text: str | None) -> float | None:
    """Bits per character of a text at a point."""
    rows = (report.get("likelihood") or {}).get("rows") or []
    return next((row.get(text) for row in rows if row["after"] == after), None)


def _tokens(report: Tree) -> document.Tile | None:
    name = adapted(report)
    text = next((text for text in (report.get("vocabulary") or {}).get("texts") or [] if text["name"] == name), None)
    if text is None or not text["tokens_before"] or not text["tokens_after"]:
        return None
    before, after = text["tokens_before"], text["tokens_after"]
    return document.Tile(
        figures.percent(1 - after / before),
        f"of the tokens of {name} saved",
        f"{figures.number(before)} → {figures.number(after)}, {figures.number(before / after)} times fewer",
    )


def _bits(report: Tree) -> document.Tile | None:
    rows = (report.get("likelihood") or {}).get("rows") or []
    name, point = adapted(report), compared(report)
    value = bits(report, point, name)
    if value is None:
        return None
    before = [(row[name], row["after"]) for row in rows[:2] if row["after"] != point and row.get(name) is not None]
    road = " → ".join(f"{figures.number(cost)} {after}" for cost, after in [*before, (value, point)])
    return document.Tile(figures.number(value), f"bits per character of held-out {name}", road)


def _baselines(report: Tree) -> list[document.Tile]:
    name, made = adapted(report), []
    value = bits(report, compared(report), name)
    for row in report.get("baselines") or ():
        rival = row.get(name)
        if value is None or not rival:
            continue
        relation = "fewer" if value < rival else "more"
        made.append(
            document.Tile(
                figures.percent(abs(value / rival - 1)),
                f"{relation} bits than the {row.get('short') or row['name']}",
                f"{figures.number(value)} instead of {figures.number(rival)}",
            )
        )
    return made


def _exam(report: Tree) -> document.Tile | None:
    rows = (report.get("exams") or {}).get("rows") or []
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    before = f"{figures.percent(first['exact'])} {first['after']}; " if len(rows) > 1 else ""
    return document.Tile(
        figures.percent(last["exact"]),
        f"of {figures.number(last['total'])} held-out instructions answered exactly",
        f"{before}always the most frequent answer: {figures.percent(last['most_frequent'])}",
    )


def _answers(report: Tree) -> document.Tile | None:
    rows = (report.get("answers") or {}).get("rows") or []
    if not rows or (report.get("exams") or {}).get("rows"):
        return None
    first, last = rows[0], rows[-1]
    before = f"{figures.number(first['bits_per_character'])} {first['after']} → " if len(rows) > 1 else ""
    shown = figures.number(last["bits_per_character"])
    return document.Tile(shown, "bits per character of held-out answers", f"{before}{shown} {last['after']}")


def _speed(report: Tree) -> document.Tile | None:
    rows = (report.get("generation") or {}).get("rows") or []
    if len(rows) < 2 or not rows[0]["characters_per_second"]:
        return None
    before, after = rows[0]["characters_per_second"], rows[-1]["characters_per_second"]
    return document.Tile(
        f"{figures.number(after / before)}{figures.NBSP}×",
        "the characters per second in generation",
        f"{figures.number(before)} → {figures.number(after)}",
    )


def _others(report: Tree) -> list[document.Tile]:
    """What the adaptation cost: the texts that it did not learn from."""
    rows = (report.get("likelihood") or {}).get("rows") or []
    if "learned" not in report or len(rows) < 2:
        return []
    made = []
    for name in report["likelihood"]["texts"]:
        first, last = rows[0].get(name), rows[-1].get(name)
        if name not in report["learned"] and first is not None and last is not None:
            detail = f"{figures.number(first)} {rows[0]['after']} → {figures.number(last)} {rows[-1]['after']}"
            made.append(document.Tile(figures.number(last), f"bits per character of {name}, which was no part of the adaptation", detail))
    return made
