"""The file is whole in itself: nothing in it leads elsewhere."""

import re

from zhllama_jax.eval import document, markup


def page() -> str:
    sections = [document.Section("one", "One & two", markup.element("p", "text")), document.Section("last", "Last", markup.Html(""))]
    return document.write("A </title><b> title", markup.element("h1", "Top"), sections)


def test_the_style_sheet_is_in_the_file_and_leads_nowhere() -> None:
    sheet = document.style_sheet()
    assert sheet in page()
    assert "</" not in sheet and "@import" not in sheet and "url(" not in sheet and "http" not in sheet
    assert sheet.count("{") == sheet.count("}")


def test_every_colour_has_a_dark_twin() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", document.style_sheet(), re.DOTALL)[:2]
    colours = [set(re.findall(r"(--[\w-]+): #", block)) for block in (light, dark)]
    assert colours[0] == colours[1] and len(colours[0]) >= 8


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_marks_stand_out_in_both_schemes() -> None:
    """At least 4.5 to 1 for text (WCAG AA) and for all marks but the quiet bar, which has 2 to 1 and its figure beside it."""
    for block in re.findall(r":root \{(.*?)\}", document.style_sheet(), re.DOTALL)[:2]:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for ground in ("ground", "raised"):
            for name in ("ink", "quiet", "link", "blue", "orange", "good", "bad", "before"):
                dark, light = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (light + 0.05) / (dark + 0.05) >= (2.0 if name == "before" else 4.5), (name, ground)


def test_contents_lead_to_the_chapters() -> None:
    assert re.findall(r'<a href="#(\w+)">(.*?)</a>', page()) == [("one", "One &amp; two"), ("last", "Last")]
    assert re.findall(r'<section id="(\w+)" aria-labelledby="(\w+)-heading"><h2 id="\w+-heading">', page()) == [
        ("one", "one"),
        ("last", "last"),
    ]


def test_a_browser_is_told_to_load_and_run_nothing() -> None:
    assert page().startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"')
    assert 'content="default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;; img-src data:"' in page()
    assert "<title>A &lt;/title&gt;&lt;b&gt; title</title>" in page()


def test_no_chapters_no_contents() -> None:
    assert "<nav" not in document.write("T", markup.Html(""), [])
    assert document.tiles([]) == ""
    tile = document.tiles([document.Tile("1 <", "what", "from")])
    assert re.findall(r'class="(\w+)">([^<]*)', tile) == [("tiles", ""), ("value", "1 &lt;"), ("label", "what"), ("detail", "from")]
