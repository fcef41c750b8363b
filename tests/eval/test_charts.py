"""What is drawn stands where its figure says, in every picture, and is said in words too."""

import math
import re

import pytest

from zhllama_jax.eval import charts


def numbers(pattern: str, picture: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, picture)]


def test_bars_are_as_long_as_their_values() -> None:
    marks = [charts.Bar("before", 4.0, "4.00"), charts.Bar("after", 1.0, "1.00"), charts.Bar("after", math.nan, "not finite")]
    picture = charts.bars([charts.Group("a<b", "4.00 times fewer", marks)], name="p", title="T")
    longest, short, none = numbers(r'<rect x="0" y="\d+" width="([\d.]+)%"', picture)
    assert longest == pytest.approx(4 * short) and none == 0 and longest < 85
    assert "a&lt;b" in picture and "a<b" not in picture
    assert "<desc" in picture and "4.00, 1.00, not finite, 4.00 times fewer" in picture


def test_no_bars_and_bars_of_nothing_are_drawn() -> None:
    assert charts.bars([], name="p", title="T").endswith("</svg>")
    assert 'width="0.00%"' in charts.bars([charts.Group("a", "", [charts.Bar("before", 0.0, "0")])], name="p", title="T")


def test_dots_stand_on_a_logarithmic_scale() -> None:
    rows = [charts.Dot("base", 100.0), charts.Dot("resized", 10.0), charts.Dot("pretrain", 1.0), charts.Dot("none", None)]
    domain = charts.log_domain(row.value for row in rows)
    assert domain == (1.0, 100.0)
    picture = charts.dots([*rows, charts.Dot("5-gram", 10.0, reference=True)], name="p", title="T", domain=domain)
    places = numbers(r'cx="([\d.]+)%"', picture)
    assert len(places) == 4 and places[0] - places[1] == pytest.approx(places[1] - places[2]) and places[3] == places[1]
    assert numbers(r'x1="([\d.]+)%" x2="[\d.]+%" y1="0" y2="\d+" class="reference"', picture) == [places[1]]
    assert ">–</text>" in picture and "none: –" in picture


def test_no_line_goes_through_a_figure() -> None:
    """Figures end at the right edge, and what is drawn through all rows keeps away from it: 22 % of a phone's 170 pixels hold them."""
    rows = [
        charts.Dot("base", 100.0),
        charts.Dot("tune", 9.5),
        charts.Dot("5-gram", 10.0, reference=True),
        charts.Dot("other", 100.0, True),
    ]
    picture = charts.dots(rows, name="p", title="T", domain=(1.0, 100.0))
    assert re.findall(r'<text x="([^"]+)" y="\d+" text-anchor="(\w+)" class="value"', picture) == [("100%", "end")] * len(rows)
    lines = numbers(r'<line x1="([\d.]+)%" x2="[\d.]+%" y1="0" y2="\d+" class="(?:reference|grid)"', picture)
    assert len(lines) > 2 and max(lines) == charts.SCALE <= 78


@pytest.mark.parametrize(
    ("values", "domain"),
    [([], None), ([None, 0.0, -1.0, math.nan, math.inf], None), ([2.0], (2 / 1.5, 3.0)), ([1.0, 8.0, None], (1.0, 8.0))],
)
def test_the_logarithmic_scale(values: list[float | None], domain: tuple[float, float] | None) -> None:
    assert charts.log_domain(values) == (domain and pytest.approx(domain))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_has_no_place_on_the_scale_is_only_named(value: float) -> None:
    picture = charts.dots([charts.Dot("a", value), charts.Dot("b", value, reference=True)], name="p", title="T", domain=(1.0, 2.0))
    assert "<circle" not in picture and 'class="reference"' not in picture


def test_long_names_are_cut_for_the_gutter_and_whole_in_words() -> None:
    rows = [charts.Dot("a_name_of_more_than_enough", 1.0), charts.Dot("很长的名字" * 3, 1.0)]
    picture = charts.dots(rows, name="p", title="T", domain=(1.0, 2.0))
    assert ">a_name_of_more_t…</text>" in picture and ">很长的名字很长的…</text>" in picture
    assert "a_name_of_more_than_enough: 1.00; 很长的名字很长的名字很长的名字: 1.00" in picture


def test_curves_go_through_their_points() -> None:
    train = charts.Curve("train", "training", [(0, 4.0), (50, 2.0), (100, 0.0)])
    held_out = charts.Curve("held-out", "held out", [(100, 1.0)], marks=True)
    picture = charts.curves([train, held_out], name="p", title="T")
    assert 'points="0,0 500,500 1000,1000"' in picture
    assert picture.count("<polyline") == 1, "one point makes no line"
    assert 'cx="100.00%" cy="75.00%"' in picture and "held out, step 100: 1.00" in picture
    assert "training: from 4.00 at step 0 to 0 at step 100" in picture


@pytest.mark.parametrize("points", [[(1, 5.0)], [(0, 5.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, -3.0)], [(1, 1e-9), (2, 3e9)]])
def test_curves_of_little(points: list[tuple[float, float]]) -> None:
    picture = charts.curves([charts.Curve("train", "training", points)], name="p", title="T")
    assert "nan" not in picture and "inf" not in picture


def test_finite_points() -> None:
    assert charts.finite([[1, 2.0], [2, math.nan], [3, math.inf]]) == [(1, 2.0)]


def test_thinning_keeps_ends_spikes_and_order() -> None:
    points = [(float(step), 1.0 / (step + 1)) for step in range(5000)]
    points[2500] = (2500.0, 99.0)
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MAX_POINTS and thinned == sorted(thinned)
    assert {points[0], points[2500], points[-1]} <= set(thinned) <= set(points)
    assert charts.thin(points[:400]) == points[:400]


def test_a_picture_is_named_in_words() -> None:
    picture = charts.dots([charts.Dot("a", 1.0)], name="bits-0", title="Bits", domain=(1.0, 2.0))
    assert 'role="img" aria-labelledby="bits-0-title bits-0-desc"' in picture
    assert '<title id="bits-0-title">Bits</title><desc id="bits-0-desc">a: 1.00</desc>' in picture


@pytest.mark.parametrize(("low", "high"), [(0.9, 53.0), (1.0, 1.5), (1e-4, 1e5), (7.1, 7.9), (3.0, 4.6)])
def test_every_scale_has_few_ticks(low: float, high: float) -> None:
    picture = charts.dots([charts.Dot("a", low), charts.Dot("b", high)], name="p", title="T", domain=(low, high))
    ticks = numbers(r'class="tick">([\d.e+-]+)<', picture)
    assert 2 <= len(ticks) <= 5 and all(low <= tick <= high for tick in ticks)


def test_the_legend_names_each_series() -> None:
    assert re.findall(r'class="swatch (\w+)" aria-hidden="true"></span> (\w+)<', charts.legend([("before", "old"), ("after", "new")])) == [
        ("before", "old"),
        ("after", "new"),
    ]
