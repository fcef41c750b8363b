"""The first figures are those of the tables, and what is not known is left out."""

from typing import Any

import pytest

from zhllama_jax.eval import document, figures, headline


def plain(tiles: list[document.Tile]) -> list[tuple[str, ...]]:
    """The tiles with ordinary blanks."""
    return [tuple(part.replace(figures.NBSP, " ") for part in tile) for tile in tiles]


def test_all_of_them(report: dict[str, Any]) -> None:
    assert plain(headline.tiles(report)) == [
        ("75.0 %", "of the tokens of chinese saved", "2,000 → 500, 4.00 times fewer"),
        ("1.10", "bits per character of held-out chinese", "53.1 base → 12.1 resized → 1.10 pretrain"),
        ("20.0 %", "fewer bits than the 5-gram", "1.10 instead of 1.38"),
        ("10.0 %", "more bits than the un-extended model", "1.10 instead of 1.00"),
        ("50.0 %", "of 8 held-out instructions answered exactly", "0 % resized; always the most frequent answer: 12.5 %"),
        ("3.87 ×", "the characters per second in generation", "1,274 → 4,927"),
        ("2.70", "bits per character of english, which was no part of the adaptation", "0.293 base → 2.70 tune"),
    ]


@pytest.mark.parametrize(
    ("missing", "label"),
    [
        ("vocabulary", "tokens of chinese"),
        ("likelihood", "bits per character of held-out"),
        ("baselines", "than the"),
        ("exams", "answered exactly"),
        ("generation", "characters per second"),
        ("learned", "no part of the adaptation"),
    ],
)
def test_what_is_missing_has_no_tile(report: dict[str, Any], missing: str, label: str) -> None:
    assert any(label in tile.label for tile in headline.tiles(report))
    del report[missing]
    assert not any(label in tile.label for tile in headline.tiles(report))


def test_without_an_exam_the_cost_of_answers_stands_there(report: dict[str, Any]) -> None:
    report["exams"] = None
    assert ("0.456", "bits per character of held-out answers", "58.0 base → 0.456 tune") in plain(headline.tiles(report))


def test_a_report_that_names_no_adapted_text(report: dict[str, Any]) -> None:
    del report["adapted"], report["points"]
    assert headline.adapted(report) == "chinese" and headline.compared(report) == "tune"
    assert headline.tiles(report)[1].value == "1.14"


def test_instructions_alone_are_compared_at_their_end(report: dict[str, Any]) -> None:
    report["points"] = {"pretrained": None}
    assert headline.compared(report) == "tune"


def test_nothing_known_nothing_said() -> None:
    assert headline.tiles({"title": "T"}) == []
    assert headline.tiles({"title": "T", "vocabulary": None, "likelihood": None, "exams": None, "baselines": []}) == []
