"""The report shows what the figures hold, no more: chapters, cells that break no table, pictures."""

import re
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.eval import report

FIGURES: dict[str, Any] = {
    "title": "Adaptation report",
    "introduction": "What was made.",
    "vocabulary": {
        "summary": "pieces: 400 + 300",
        "texts": [{"name": "chinese", "characters": 1000, "tokens_before": 2000, "tokens_after": 500}],
    },
    "likelihood": {
        "texts": ["english", "chinese"],
        "rows": [{"after": "base", "english": 1.5, "chinese": 9.0}, {"after": "pretrain", "chinese": 4.25}],
        "remarks": ["It falls."],
    },
    "baselines": [{"name": "5-gram", "chinese": 5.125}],
    "answers": {"count": 1200, "rows": [{"after": "tune", "bits_per_character": 2.0}]},
    "exams": {
        "rows": [
            {"after": "resized", "exact": 0.0, "total": 8, "most_frequent": 0.125, "by_task": {"count": [0, 4], "pick": [0, 4]}},
            {"after": "tune", "exact": 0.5, "total": 8, "most_frequent": 0.125, "by_task": {"count": [3, 4], "pick": [1, 4]}},
        ]
    },
    "generation": {
        "rows": [{"model": "old", "tokens_per_second": 10.0, "characters_per_token": 0.5, "characters_per_second": 5.0}],
        "remark": "Faster.",
    },
    "stages": [
        {
            "name": "pretrain",
            "trainable": 12345,
            "parameters": 50000,
            "table": "THE TABLE",
            "losses": [[1, 5.0], [2, 4.0]],
            "validation": [],
        },
        {"name": "tune", "losses": [[1, 4.0]], "validation": [[1, 3.5]]},
    ],
    "samples": [{"prompt": "写两行。", "resized": "a|b", "adapted": "一\n二"}],
    "check": {"sentence": "Logits agree."},
    "steps": [{"name": "pretrain", "seconds": 12.0}],
}
CHAPTERS = {
    "vocabulary": "Vocabulary",
    "likelihood": "Bits per character of held-out text",
    "answers": "Answers to held-out instructions",
    "exams": "Instructions followed",
    "generation": "Speed of generation",
    "stages": "Training",
    "samples": "Samples",
    "check": "Check of the exported directory",
    "steps": "Time",
}
PICTURES = {"vocabulary": "compression.png", "likelihood": "bits_per_character.png", "stages": "losses.png"}


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of all table rows of a chapter, head and rule included."""
    chapter = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in chapter.splitlines() if line.startswith("|")]


def test_every_chapter_in_order() -> None:
    text = report.markdown(FIGURES)
    assert text.startswith("# Adaptation report\n\nWhat was made.\n")
    assert headings(text) == list(CHAPTERS.values())


@pytest.mark.parametrize("missing", CHAPTERS)
@pytest.mark.parametrize("how", ["absent", "none"])
def test_a_missing_chapter_is_left_out_with_its_picture(missing: str, how: str) -> None:
    figures = {key: value for key, value in FIGURES.items() if key != missing} | ({missing: None} if how == "none" else {})
    text = report.markdown(figures)
    assert headings(text) == [heading for key, heading in CHAPTERS.items() if key != missing]
    assert "None" not in text and "\n\n\n" not in text
    if missing in PICTURES:
        assert PICTURES[missing] not in text


def test_a_title_alone_is_a_report(tmp_path: Path) -> None:
    assert report.markdown({"title": "T"}) == "# T\n"
    assert report.plots({"title": "T"}, tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_tables_hold_the_figures() -> None:
    text = report.markdown(FIGURES)
    assert rows_of(text, CHAPTERS["vocabulary"])[2:] == [["chinese", "1,000", "2,000", "500", "4.000"]]
    assert rows_of(text, CHAPTERS["likelihood"]) == [
        ["after", "english", "chinese"],
        ["---", "---:", "---:"],
        ["base", "1.500", "9.000"],
        ["pretrain", "–", "4.250"],
        ["baseline", "english", "chinese"],
        ["---", "---:", "---:"],
        ["5-gram", "–", "5.125"],
    ]
    assert rows_of(text, CHAPTERS["exams"]) == [
        ["task", "resized", "tune"],
        ["---", "---:", "---:"],
        ["all", "0.000", "50.000"],
        ["count", "0.000", "75.000"],
        ["pick", "0.000", "25.000"],
    ]
    assert "8 held-out instructions" in text and "would get 12.5 %" in text
    assert rows_of(text, CHAPTERS["stages"])[2][:3] == ["pretrain", "12,345", "50,000"]
    assert text.count("THE TABLE") == 1 and "1,200 held-out rows" in text


def test_pipes_and_newlines_stay_in_their_cell() -> None:
    table = rows_of(report.markdown(FIGURES), CHAPTERS["samples"])
    assert table[0] == ["prompt", "resized", "adapted"]
    assert table[2] == ["写两行。", r"a\|b", "一<br>二"]
    hostile = report.table(("text", "figure"), [("a|b\n\n| c |", 1), ("\r\n", None), ("\r|\r", 2.0)])
    assert {len(re.split(r"(?<!\\)\|", line)) for line in hostile.splitlines()} == {4}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (1234567, "1,234,567"), (0.12345, "0.123"), (1234.5, "1,234"), (-2.0, "-2.000"), (True, "True"), ("x", "x")],
)
def test_cells(value: object, shown: str) -> None:
    assert report.cell(value) == shown


def test_a_picture_is_whole_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed while it draws leaves no half of a picture under its name."""
    report.plots(FIGURES, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def killed(self: Any, target: Any, **settings: Any) -> None:
        if isinstance(target, str | Path):
            Path(target).write_bytes(b"half")
        else:
            target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        report.plots(FIGURES, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_training_that_was_logged_once_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    drawn: list[Any] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    report.plots({"stages": [{"name": "short", "losses": [(3, 2.0)]}, {"name": "long", "losses": [(10, 2.0), (20, 1.0)]}]}, tmp_path)
    assert [axes.lines[0].get_marker() for axes in drawn[0].axes] == [".", "None"]
    monkeypatch.undo()
    pyplot.close("all")


def test_pictures_are_png_files_of_the_names_that_the_report_shows(tmp_path: Path) -> None:
    made = report.plots(FIGURES, tmp_path / "plots")
    assert [path.name for path in made] == list(PICTURES.values())
    for path in made:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.rstrip().endswith(b"IEND\xaeB`\x82") and len(content) > 2000
    assert set(re.findall(r"\(plots/(.*?)\)", report.markdown(FIGURES))) == {path.name for path in tmp_path.joinpath("plots").iterdir()}
