"""A page as one HTML file: no script, no font, no style sheet and no picture from elsewhere; light, dark and on paper.

The file states a content security policy under which a browser loads nothing and runs nothing, whatever a model wrote into the samples.
"""

import functools
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import NamedTuple

from zhllama_jax.eval import markup

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Section(NamedTuple):
    """A chapter of the page: its id, its heading and its content."""

    id: str
    heading: str
    content: markup.Html


class Tile(NamedTuple):
    """One of the first figures that a reader sees.

    Attributes:
      value: the figure, short.
      label: what it is.
      detail: where it comes from.
    """

    value: str
    label: str
    detail: str


def write(title: str, top: markup.Html, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
      title: of the window.
      top: the heading and what stands above the contents.
      sections: the chapters in order; their headings are the contents.
    """
    head = [
        markup.element("meta", charset="utf-8"),
        markup.element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        markup.element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        markup.element("meta", name="color-scheme", content="light dark"),
        markup.element("meta", name="referrer", content="no-referrer"),
        markup.element("link", rel="icon", href="data:,"),
        markup.element("title", title),
        markup.element("style", markup.Html(style_sheet())),
    ]
    links = [markup.element("li", markup.element("a", section.heading, href=f"#{section.id}")) for section in sections]
    body = [
        markup.element("header", top),
        markup.element("nav", markup.element("ul", *links), aria_label="Contents") if links else "",
        markup.element("main", *map(_chapter, sections)),
    ]
    page = markup.element("html", markup.element("head", *head), markup.element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def tiles(figures: Iterable[Tile]) -> markup.Content:
    """Figures side by side."""
    shown = [
        markup.element(
            "li",
            markup.element("strong", tile.value, class_="value"),
            " ",
            markup.element("span", tile.label, class_="label"),
            " ",
            markup.element("span", tile.detail, class_="detail"),
        )
        for tile in figures
    ]
    return markup.element("ul", *shown, class_="tiles") if shown else ""


def figure(picture: markup.Html, caption: markup.Content, *tables: markup.Html) -> markup.Html:
    """A picture, what it shows, and the same as tables."""
    return markup.element("figure", markup.element("figcaption", caption), picture, markup.details("The figures as a table", *tables))


@functools.cache
def style_sheet() -> str:
    """The style sheet, which lies beside this module."""
    return resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def _chapter(section: Section) -> markup.Html:
    heading = markup.element("h2", section.heading, id=f"{section.id}-heading")
    return markup.element("section", heading, section.content, id=section.id, aria_labelledby=f"{section.id}-heading")
