"""Pictures for the report's page: inline SVG whose text keeps its size while the drawing takes whatever width there is.

Positions across are per cents of the drawing, so that a phone and a wide screen show the same letters; what has to be a path is drawn
in an inner `svg` that is stretched. Names and scales stand beside the drawing, in margins that the style sheet grants. Colours are
classes of the style sheet: light, dark and paper show the same marks. Every picture says in words what it shows, every mark its figure.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zhllama_jax import lines as lines_lib
from zhllama_jax.eval import figures, markup

ROW, BAR, LABEL = 30, 15, 24
PLOT_HEIGHT = 190
MAX_POINTS = 400
GUTTER_COLUMNS, NAME_COLUMNS = 17, 24
COLUMN_PIXELS = 7.5
SCALE = 78
"""Per cent of a dot plot's width that its scale takes; what is left has room for a figure on a phone, and no line goes there."""
CANVAS = 1000
"""Side of the inner drawing that is stretched to the plot."""


class Bar(NamedTuple):
    """One bar: the class of its series, its length, and what is written at its end."""

    series: str
    value: float
    shown: str


class Group(NamedTuple):
    """Bars under one name, with a remark at the right."""

    name: str
    remark: str
    bars: Sequence[Bar]


class Dot(NamedTuple):
    """One row of a dot plot; the value of a reference is drawn as a line through all rows too."""

    name: str
    value: float | None
    reference: bool = False


Point = tuple[float, float]


class Curve(NamedTuple):
    """A line of (step, value) points; with marks, each point is a dot too."""

    series: str
    name: str
    points: Sequence[Point]
    marks: bool = False


def bars(groups: Sequence[Group], *, name: str, title: str) -> markup.Html:
    """Horizontal bars from zero in groups.

    Args:
      groups: from top to bottom; bars that are not finite have no length.
      name: of the picture, unique in its page.
      title: what it shows.
    """
    longest = max((bar.value for group in groups for bar in group.bars if math.isfinite(bar.value)), default=0.0) or 1.0
    drawn: list[markup.Html] = []
    y = 0
    for group in groups:
        drawn.append(_text(_cut(group.name, NAME_COLUMNS), x=0, y=y + 15, class_="name"))
        drawn.append(_text(group.remark, x="100%", y=y + 15, text_anchor="end", class_="remark"))
        y += LABEL
        for bar in group.bars:
            width = 78 * max(bar.value, 0.0) / longest if math.isfinite(bar.value) else 0.0
            drawn.append(_element("rect", _title(bar.shown), x=0, y=y, width=_per_cent(width), height=BAR, rx=2, class_=bar.series))
            drawn.append(_text(bar.shown, x=_per_cent(width), y=y + 12, dx=6, class_="value"))
            y += BAR + 4
        y += 12
    words = "; ".join(f"{group.name}: {', '.join(bar.shown for bar in group.bars)}, {group.remark}" for group in groups)
    return _picture(drawn, name=name, title=title, description=words, height=max(y - 12, 1), class_="bars")


def dots(rows: Sequence[Dot], *, name: str, title: str, domain: Point) -> markup.Html:
    """One value for each row on a logarithmic scale, small ones left; references are lines through all rows, figures a column behind.

    Args:
      rows: from top to bottom.
      name: of the picture, unique in its page.
      title: what it shows.
      domain: ends of the scale, see `log_domain`.
    """
    low, high = (math.log(end) for end in domain)

    def place(value: float | None) -> str | None:
        if value is None or not math.isfinite(value) or value <= 0:
            return None
        return _per_cent(2 + (SCALE - 2) * (math.log(value) - low) / (high - low))

    height = ROW * len(rows)
    drawn: list[markup.Html] = []
    for tick in _log_ticks(*domain):
        drawn.append(_element("line", x1=place(tick), x2=place(tick), y1=0, y2=height, class_="grid"))
        drawn.append(_text(f"{tick:g}", x=place(tick), y=height + 17, text_anchor="middle", class_="tick"))
    for row in rows:
        if row.reference and (x := place(row.value)):
            drawn.append(_element("line", x1=x, x2=x, y1=0, y2=height, class_="reference"))
    for index, row in enumerate(rows):
        x, y, shown = place(row.value), ROW * index + ROW // 2, figures.number(row.value)
        drawn.append(_element("line", x1=0, x2="100%", y1=y, y2=y, class_="guide"))
        drawn.append(_text(_cut(row.name), x=-8, y=y + 4, text_anchor="end", class_="name"))
        if x:
            kind = "baseline" if row.reference else "measured"
            drawn.append(_element("circle", _title(f"{row.name}: {shown}"), cx=x, cy=y, r=5, class_=kind))
        drawn.append(_text(shown, x="100%", y=y + 4, text_anchor="end", class_="value"))
    words = "; ".join(f"{row.name}: {figures.number(row.value)}" for row in rows)
    gutter = max((lines_lib.width(_cut(row.name)) for row in rows), default=0) * COLUMN_PIXELS + 14
    return _picture(drawn, name=name, title=title, description=words, height=height, class_="dots", gutter=gutter)


def curves(lines: Sequence[Curve], *, name: str, title: str) -> markup.Html:
    """Curves over the steps of a training, whose points are finite, one of them at least."""
    points = [point for line in lines for point in line.points]
    assert points, "a picture of curves needs a point"
    end = max(x for x, _ in points) or 1
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    bottom, top = ticks[0], ticks[-1]

    def across(x: float) -> float:
        return 100 * x / end

    def down(y: float) -> float:
        return 100 * (top - y) / (top - bottom)

    drawn: list[markup.Html] = []
    for tick in ticks:
        level = _per_cent(down(tick))
        drawn.append(_element("line", x1=0, x2="100%", y1=level, y2=level, class_="grid"))
        drawn.append(_text(f"{tick:g}", x=-7, y=level, dy=4, text_anchor="end", class_="tick"))
    for step in _ticks(0, end, most=4):
        if step <= end and step.is_integer():
            drawn.append(_text(_step(step), x=_per_cent(across(step)), y="100%", dy=18, text_anchor="middle", class_="tick"))
    stretched = [
        _element(
            "polyline",
            points=" ".join(f"{CANVAS / 100 * across(x):.4g},{CANVAS / 100 * down(y):.4g}" for x, y in thin(line.points)),
            class_=f"curve {line.series}",
        )
        for line in lines
        if len(line.points) > 1
    ]
    box: dict[str, str] = {"viewBox": f"0 0 {CANVAS} {CANVAS}", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    drawn.append(_element("svg", *stretched, **box, class_="inner"))
    for line in lines:
        for x, y in thin(line.points) if line.marks or len(line.points) == 1 else ():
            mark = _title(f"{line.name}, step {_step(x)}: {figures.number(y)}")
            drawn.append(_element("circle", mark, cx=_per_cent(across(x)), cy=_per_cent(down(y)), r=3.5, class_=f"mark {line.series}"))
    ends = ((line.name, line.points[0], line.points[-1]) for line in lines if line.points)
    words = "; ".join(
        f"{series}: from {figures.number(first[1])} at step {_step(first[0])} to {figures.number(last[1])} at step {_step(last[0])}"
        for series, first, last in ends
    )
    gutter = max(len(f"{tick:g}") for tick in ticks) * COLUMN_PIXELS + 12
    return _picture(drawn, name=name, title=title, description=words, height=PLOT_HEIGHT, class_="curves", gutter=gutter)


def legend(entries: Iterable[tuple[str, str]]) -> markup.Html:
    """What the colours stand for: (class of the series, its name)."""
    items = (
        markup.element("li", markup.element("span", class_=f"swatch {series}", aria_hidden="true"), " ", text) for series, text in entries
    )
    return markup.element("ul", *items, class_="legend")


def log_domain(values: Iterable[float | None]) -> Point | None:
    """The ends of a logarithmic scale that holds the values; None where none of them is finite and positive."""
    kept = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not kept:
        return None
    low, high = min(kept), max(kept)
    return (low, high) if high > 1.5 * low else (low / 1.5, high * 1.5)


def finite(points: Iterable[Sequence[float]]) -> list[Point]:
    """The points that can be drawn."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most so many points: of each run of neighbours the lowest and the highest, in order, so that no spike is lost; the ends stay."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    runs = (most - 2) // 2
    kept = [points[0]]
    for run in range(runs):
        part = inner[run * len(inner) // runs : (run + 1) * len(inner) // runs]
        values = [value for _, value in part]
        kept += [part[place] for place in sorted({values.index(min(values)), values.index(max(values))})]
    return [*kept, points[-1]]


def _picture(
    drawn: Sequence[markup.Html], *, name: str, title: str, description: str, height: int, class_: str, gutter: float = 0
) -> markup.Html:
    """The drawing with its title and description; `gutter` pixels stay free at its left for names."""
    heads = (markup.element("title", title, id=f"{name}-title"), markup.element("desc", description, id=f"{name}-desc"))
    return _element(
        "svg",
        *heads,
        *drawn,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        width="100%",
        height=height,
        style=f"--gutter: {gutter:.0f}px",
        class_=f"chart {class_}",
    )


def _element(name: str, /, *content: markup.Content, **attributes: str | int | float | None) -> markup.Html:
    return markup.element(name, *content, **{key: f"{value:g}" if isinstance(value, float) else value for key, value in attributes.items()})


def _text(text: str, **attributes: str | int | None) -> markup.Html:
    return _element("text", text, **attributes)


def _title(text: str) -> markup.Html:
    return markup.element("title", text)


def _step(step: float) -> str:
    return f"{step:,.0f}"


def _per_cent(value: float) -> str:
    return f"{value:.2f}%"


def _cut(text: str, most: int = GUTTER_COLUMNS) -> str:
    """A name that fits into so many columns; what is cut off is marked, and the picture's table has it whole."""
    if lines_lib.width(text) <= most:
        return text
    kept = ""
    for character in text:
        if lines_lib.width(kept + character) >= most:
            break
        kept += character
    return f"{kept}…"


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, at most `most` + 2 of them."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude * most >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within the scale: 1, 2, 5, 10 …, or as many decades of them as are not too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{factor * 10.0**decade:.6g}") for decade in decades for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            break
    if len(inside) < 2:
        inside = [tick for tick in _ticks(low, high, most - 1) if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / most) or 1]
