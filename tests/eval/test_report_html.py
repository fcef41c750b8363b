"""The page shows what the figures hold; what models and data wrote stays text; a browser finds it whole, narrow or wide."""

import contextlib
import copy
import importlib.util
import json
import re
import types
from html import parser
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.eval import report_html

CHAPTERS = {
    "vocabulary": "compression",
    "likelihood": "likelihood",
    "stages": "training",
    "samples": "samples",
    "exams": "instructions",
    "steps": "time",
    "check": "check",
    "configuration": "configuration",
    "versions": "versions",
    "reproduce": "reproduce",
}
"""Key of the tree -> id of its section, in the page's order."""

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)></code></pre></title></style>&lt;\x00\u202e"
)
VOID = ("meta", "link", "br")


class Reader(parser.HTMLParser):
    """Reads a page and refuses what is not nested properly.

    Attributes:
      tags: names of all elements with their attributes.
      text: the text of the elements, joined by blanks.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.tags if name == tag]


def poisoned(value: Any) -> Any:
    """The same tree with something hostile before every text, and in the names of texts and tasks too."""
    if isinstance(value, str):
        return HOSTILE + value if value.strip() else value
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    if isinstance(value, dict):
        return {HOSTILE + key if key in ("english", "chinese", "pick", "jax") else key: poisoned(each) for key, each in value.items()}
    return value


def test_every_chapter_in_order(report: dict[str, Any]) -> None:
    page = Reader(report_html.page(report))
    assert page.ids("section") == list(CHAPTERS.values())
    assert [attributes["href"] for name, attributes in page.tags if name == "a"] == [f"#{chapter}" for chapter in CHAPTERS.values()]
    assert "Adaptation report: runs/one" in page.text


@pytest.mark.parametrize("missing", CHAPTERS)
@pytest.mark.parametrize("how", ["absent", "none", "empty"])
def test_a_missing_chapter_is_left_out(report: dict[str, Any], missing: str, how: str) -> None:
    if how == "absent":
        del report[missing]
    else:
        report[missing] = None if how == "none" else type(report[missing])()
    gone = {missing, *(["answers"] if missing == "exams" else ["generation"] if missing == "steps" else [])}
    for other in gone - {missing}:
        report[other] = None
    page = Reader(report_html.page(report))
    assert page.ids("section") == [chapter for key, chapter in CHAPTERS.items() if key != missing]
    assert "None" not in page.text and "nan" not in page.text


def test_a_title_alone_is_a_page() -> None:
    page = Reader(report_html.page({"title": "T"}))
    assert page.text.split() == ["T", "T"] and not page.ids("section")


@pytest.mark.parametrize("part", ["english", "chinese"])
def test_one_text_only(report: dict[str, Any], part: str) -> None:
    """Also one that is not the adapted one, without baselines and answers."""
    report["vocabulary"]["texts"] = [text for text in report["vocabulary"]["texts"] if text["name"] == part]
    report["likelihood"] |= {"texts": [part], "rows": [{"after": "base", part: 0.5}]}
    report |= {"baselines": [], "answers": None, "exams": None}
    assert f"base: {0.5:.3f}" in Reader(report_html.page(report)).text


def test_what_was_written_elsewhere_stays_text(report: dict[str, Any]) -> None:
    """Element by element the page is the same, and every hostile text can be read in it."""
    clean, dirty = (Reader(report_html.page(tree)) for tree in (report, poisoned(report)))
    assert [name for name, _ in dirty.tags] == [name for name, _ in clean.tags]
    assert [sorted(attributes) for _, attributes in dirty.tags] == [sorted(attributes) for _, attributes in clean.tags]
    assert dirty.text.count("<img src=x onerror=alert(1)>") > 60
    for name, attributes in dirty.tags:
        assert name not in ("script", "img", "iframe", "object", "form") and not [key for key in attributes if key.startswith("on")]
        assert name != "a" or (attributes["href"] or "").startswith("#")


def test_nothing_is_loaded(report: dict[str, Any]) -> None:
    page = report_html.page(report)
    assert "http:" not in page and "https:" not in page and "@import" not in page and "url(" not in page
    read = Reader(page)
    addresses = [attributes[key] for _, attributes in read.tags for key in ("src", "href", "data", "srcset") if attributes.get(key)]
    assert all(address.startswith("#") or address == "data:," for address in addresses)  # type: ignore[union-attr]


def test_it_stays_small_however_long_the_training(report: dict[str, Any]) -> None:
    report["stages"] = [
        {**report["stages"][0], "losses": [[step, 5.0 + step % 7] for step in range(20_000)], "validation": [[20_000, 4.0]]}
        for _ in range(6)
    ]
    assert len(report_html.page(report).encode()) < 1_000_000


def test_ids_stand_once(report: dict[str, Any]) -> None:
    page = Reader(report_html.page(report))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = [words for _, attributes in page.tags for words in (attributes.get("aria-labelledby") or "").split()]
    assert named and set(named) <= set(ids)


def test_every_picture_is_named_and_has_its_table(report: dict[str, Any]) -> None:
    page = report_html.page(report)
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == 3 and all("<table>" in figure and "<figcaption>" in figure for figure in figures)
    pictures = re.findall(r'<svg role="img".*?>', page)
    assert len(pictures) == 5 and all("aria-labelledby" in picture for picture in pictures)


def test_figures_stand_as_persons_write_them(report: dict[str, Any]) -> None:
    text = Reader(report_html.page(report)).text.replace("\N{NO-BREAK SPACE}", " ")
    for shown in (
        "12,345",
        "24.7 %",
        "75.0 %",
        "1 min 27 s",
        "98.8 kB",
        "4.00 times fewer",
        "steps of 1,024 tokens",
        "3.87 ×",
        "1 min 31 s",
    ):
        assert shown in text, shown


def test_rules_are_a_table_and_old_records_stay_text(report: dict[str, Any]) -> None:
    page = report_html.page(report)
    assert "<code>lora/.*/(a|b)</code>" in page and "as text" not in page
    assert '<pre class="columns" tabindex="0"><code>ONLY AS TEXT</code></pre>' in page


def test_quotations_say_their_language(report: dict[str, Any]) -> None:
    page = report_html.page(report)
    assert '<div class="said" lang="zh" dir="auto">一\n二</div>' in page
    assert '<div class="said" lang="" dir="auto">two lines</div>' in page
    assert '<h3 class="said" lang="zh" dir="auto">写两行。</h3>' in page
    assert ">(nothing)<" in page


@pytest.mark.parametrize(("after", "remark"), [(500, "4.00 times fewer"), (2000, "unchanged"), (3000, "1.50 times more")])
def test_compression_says_which_way_it_went(after: int, remark: str) -> None:
    text = {"name": "chinese", "characters": 1000, "tokens_before": 2000, "tokens_after": after}
    assert f">{remark}</text>" in report_html.compression([text])


def test_tasks_stand_with_the_best_first(report: dict[str, Any]) -> None:
    text = Reader(report_html.page(report)).text
    assert text.index(" count ") < text.index(" pick ")


def test_of_many_wrong_answers_some_are_shown(report: dict[str, Any]) -> None:
    last = report["exams"]["rows"][-1]
    assert ">1 of the 4 wrong answers after tune</summary>" in report_html.page(report)
    last["wrong"] *= 4
    assert ">The 4 wrong answers after tune</summary>" in report_html.page(report)


@pytest.mark.parametrize(("agrees", "badge"), [(True, "Agrees"), (False, "Differs"), (None, "")])
def test_the_check_says_how_it_ended(report: dict[str, Any], agrees: bool | None, badge: str) -> None:
    report["check"] = {"sentence": "As follows.", "agrees": agrees}
    assert re.findall(r'class="badge \w+">(\w+)<', report_html.page(report)) == ([badge] if badge else [])


def test_figures_that_are_not_finite(report: dict[str, Any]) -> None:
    report = json.loads(json.dumps(report))
    report["likelihood"]["rows"][1]["chinese"] = float("inf")
    report["stages"][0]["losses"] = [[1, float("nan")]]
    report["stages"][0]["validation"] = []
    page = Reader(report_html.page(report))
    assert "not finite" in page.text
    assert not [value for _, attributes in page.tags for value in attributes.values() if re.search(r"\b(nan|inf)\b", value or "")]


def test_the_tree_is_left_as_it_was(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    report_html.page(report)
    assert report == before


def the_browser() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).resolve().parents[1] / "reference" / "browser.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("hostile", [False, True])
def test_in_a_browser(report: dict[str, Any], hostile: bool, tmp_path: Path) -> None:
    """No sideways scrolling on a phone or a desk, no request, no complaint; skipped where there is no Chromium."""
    browser = the_browser()
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium on the PATH")
    report["samples"].append({"prompt": "长" * 400, "resized": "unbroken" * 200, "adapted": "不断" * 300})
    report["stages"][0]["name"] = "a_name_that_is_much_longer_than_it_should_be_for_a_phone"
    file = tmp_path / "报告 1.html"
    file.write_text(report_html.page(poisoned(report) if hostile else report), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(browser.opened(program))
        for width, height in ((320, 640), (360, 740), (768, 1024), (1280, 900)):
            for scheme in ("light", "dark"):
                page.open(file, width=width, height=height, scheme=scheme, phone=width < 500)
                assert page.requests() == [file.as_uri()]
                assert page.complaints() == []
                assert page.value("document.documentElement.scrollWidth <= innerWidth"), width
                page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
                assert page.value("document.documentElement.scrollWidth <= innerWidth"), f"{width}, everything opened"
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        page.open(file, width=1280, height=900, scheme="light")
        assert page.value("getComputedStyle(document.body).backgroundColor") != ground, "the dark page is not the light one"
