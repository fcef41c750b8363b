"""HTML that is safe by construction: `element` escapes all text that is not `Html` already.

What models and data wrote is text like any other here: it cannot open an element, leave an attribute, or turn the reading direction of what
stands beside it.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that HTML does not allow; they are shown as the replacement character."""

VOID = ("br", "meta", "link", "col", "hr")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Html


def escape(text: Content) -> Html:
    """Plain text as HTML; HTML as it is."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", re.sub("\r\n?", "\n", text)), quote=True))


def join(parts: Iterable[Content], between: Content = "") -> Html:
    """Parts one behind the other, plain ones escaped."""
    return Html(escape(between).join(escape(part) for part in parts))


def element(name: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """An element around its content.

    Args:
      name: of the element; void ones take no content.
      content: plain text is escaped, `Html` is not.
      attributes: `aria_label` stands for aria-label and `class_` for class; None and False leave one out, True writes its bare name.
    """
    written = "".join(
        f" {_attribute(key)}" if value is True else f' {_attribute(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        assert not content, f"<{name}> holds nothing"
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def table(
    head: Sequence[Content], rows: Sequence[Sequence[Content]], *, caption: str, text_columns: int = 1, last: Sequence[Content] = ()
) -> Html:
    """A table in a box of its own that scrolls sideways where it must.

    Args:
      head: names of the columns.
      rows: cells; the first of a row names it.
      caption: what the table shows, for readers who cannot see it at a glance.
      text_columns: so many columns hold text and stand left; the others hold figures.
      last: a row of sums below a line.
    """

    def row(cells: Sequence[Content]) -> Html:
        return element(
            "tr",
            *(
                element("th" if place == 0 else "td", cell, scope="row" if place == 0 else None, class_=_kind(place, text_columns))
                for place, cell in enumerate(cells)
            ),
        )

    top = element("tr", *(element("th", name, scope="col", class_=_kind(place, text_columns)) for place, name in enumerate(head)))
    content = [element("caption", caption), element("thead", top), element("tbody", *map(row, rows))]
    if last:
        content.append(element("tfoot", row(last)))
    return element("div", element("table", *content), class_="scroll", tabindex=0, role="region", aria_label=caption)


def details(summary: str, *content: Content, open_: bool = False, class_: str | None = None) -> Html:
    """Content that a reader opens; paper shows it open."""
    return element("details", element("summary", summary), *content, open=open_, class_=class_)


def quoted(text: str, *, name: str = "div", class_: str = "said") -> Html:
    """What a person or a model wrote, as it stands: line by line, in its own language and reading direction."""
    return element(name, text, class_=class_, lang=language(text), dir="auto")


def language(text: str) -> str:
    """The language tag for a quotation, as far as its letters tell: zh, ja, ko; empty, which means unknown, for all others."""
    names = {unicodedata.name(character, "").split(" ")[0] for character in text if not character.isascii()}
    if names & {"HIRAGANA", "KATAKANA"}:
        return "ja"
    if "HANGUL" in names:
        return "ko"
    return "zh" if "CJK" in names else ""


def prose(text: str) -> Html:
    """The little Markdown that reports use: paragraphs, fenced and inline code, lists with dashes."""
    parts = []
    for place, block in enumerate(re.split(r"^```\w*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)):
        if place % 2:
            parts.append(code_block(block.removesuffix("\n")))
            continue
        for paragraph in filter(None, (one.strip("\n") for one in re.split(r"\n\s*\n", block))):
            lines = paragraph.split("\n")
            if all(line.startswith("- ") for line in lines):
                parts.append(element("ul", *(element("li", inline(line[2:])) for line in lines)))
            else:
                parts.append(element("p", inline(paragraph)))
    return join(parts)


def inline(text: str) -> Html:
    """One line of prose, what stands in backticks as code."""
    return join(element("code", part) if place % 2 else part for place, part in enumerate(re.split(r"`([^`\n]+)`", text)))


def code_block(text: str) -> Html:
    """Text to be copied as it stands; it scrolls sideways in its box."""
    return element("pre", element("code", text), tabindex=0)


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _kind(place: int, text_columns: int) -> str | None:
    return "figure" if place >= text_columns else None
