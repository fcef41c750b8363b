"""Figures stand as a person writes them, at every size and at the seams between sizes."""

import pytest

from zhllama_jax.eval import figures


def plain(text: str) -> str:
    """With ordinary blanks."""
    return text.replace(figures.NBSP, " ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.0, "0"),
        (12_345, "12,345"),
        (-7, "−7"),
        (1.1049, "1.10"),
        (0.29329, "0.293"),
        (0.99949, "0.999"),
        (0.9996, "1.00"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (53.06, "53.1"),
        (99.96, "100"),
        (509.04, "509"),
        (3279.53, "3,280"),
        (-2.5, "−2.50"),
        (1.31e-05, "1.31 × 10⁻⁵"),
        (-2e-12, "−2.00 × 10⁻¹²"),
        (0.001, "0.001"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert plain(figures.number(value)) == shown


@pytest.mark.parametrize(("value", "shown"), [(12_345.4, "12,345"), (999_999_999, "999,999,999"), (5.97e20, "5.97 × 10²⁰")])
def test_large_counts(value: float, shown: str) -> None:
    assert plain(figures.large(value)) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "–"),
        (0, "0 %"),
        (1.0, "100 %"),
        (0.882, "88.2 %"),
        (0.99999, "100.0 %"),
        (-0.03, "−3.0 %"),
        (12.5, "1,250.0 %"),
        (float("nan"), "not finite"),
    ],
)
def test_shares(share: float | None, shown: str) -> None:
    assert plain(figures.percent(share)) == shown


def test_only_all_is_a_whole_hundred() -> None:
    """What is rounded to a hundred keeps its decimal, so that one wrong answer of many does not vanish."""
    assert figures.percent(1) != figures.percent(1 - 1e-6)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (47.73, "47.7 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (87.2, "1 min 27 s"),
        (3599.6, "1 h"),
        (4530, "1 h 16 min"),
        (100 * 3600 + 60, "100 h 1 min"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert plain(figures.duration(seconds)) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (9_216, "9.22 kB"), (8_519_680, "8.52 MB"), (2**41, "2.20 TB")],
)
def test_sizes(count: int | None, shown: str) -> None:
    assert plain(figures.size(count)) == shown
