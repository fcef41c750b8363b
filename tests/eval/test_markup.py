"""Nothing that is put into the page as text comes out as markup."""

import re
from html import parser

import hypothesis
import pytest
from hypothesis import strategies

from zhllama_jax.eval import markup


class Reader(parser.HTMLParser):
    """Notes tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


PIECES = strategies.sampled_from(["<", ">", "&", '"', "'", "/", "=", "`", "&lt;", "script", "img onerror=", "-->", "]]>", "字", " ", "a"])
HOSTILE = strategies.lists(PIECES, max_size=12).map("".join)


@hypothesis.given(HOSTILE, HOSTILE)
def test_text_and_attributes_come_back_as_they_were(text: str, attribute: str) -> None:
    read = Reader(markup.element("p", text, markup.element("b", text), title=attribute))
    assert read.tags == [("p", {"title": attribute}), ("b", {})]
    assert read.text == text * 2


def test_html_is_not_escaped_again() -> None:
    inner = markup.element("b", "a < b")
    assert markup.element("p", inner) == "<p><b>a &lt; b</b></p>"
    assert markup.join([inner, "&"], " < ") == "<b>a &lt; b</b> &lt; &amp;"
    assert isinstance(markup.join([inner]), markup.Html)


def test_attributes() -> None:
    assert markup.element("a", "x", class_="k", aria_label="n", open=True, id=None, hidden=False, tabindex=0) == (
        '<a class="k" aria-label="n" open tabindex="0">x</a>'
    )
    assert markup.element("meta", name="n", content="c") == '<meta name="n" content="c">'
    with pytest.raises(AssertionError, match="holds nothing"):
        markup.element("br", "text")


def test_characters_that_html_does_not_allow_are_replaced() -> None:
    assert markup.escape("a\x00b\x1bc\ud800d\ufffee\x7f") == "a�b�c�d�e�"
    assert markup.escape("a\r\nb\rc\td\n") == "a\nb\nc\td\n"
    markup.escape("\ud800").encode("utf-8")


@pytest.mark.parametrize(
    ("text", "tag"),
    [("你好, world", "zh"), ("こんにちは世界", "ja"), ("カ", "ja"), ("안녕", "ko"), ("hello", ""), ("", ""), ("été", ""), ("，。", "")],
)
def test_a_quotation_says_its_language(text: str, tag: str) -> None:
    assert markup.language(text) == tag
    assert Reader(markup.quoted(text)).tags == [("div", {"class": "said", "lang": tag, "dir": "auto"})]


def test_tables_name_their_rows_and_columns() -> None:
    table = markup.table(("step", "n"), [("a<b", "1"), ("c", "2")], caption="Steps & more", last=("all", "3"))
    tags = Reader(table).tags
    assert [attributes.get("scope") for tag, attributes in tags if tag == "th"] == ["col", "col", "row", "row", "row"]
    assert [tag for tag, _ in tags if tag in ("caption", "thead", "tbody", "tfoot")] == ["caption", "thead", "tbody", "tfoot"]
    assert tags[0] == ("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Steps & more"})
    assert [attributes.get("class") for tag, attributes in tags if tag == "td"] == ["figure"] * 3
    assert "a&lt;b" in table and "tfoot" not in markup.table(("a",), [], caption="none")


def test_prose() -> None:
    text = "One `code` line.\n\n```\nrun <this>\n  and that\n```\n\n- a\n- `b`\n\nLast."
    assert re.findall(r"<(\w+)", markup.prose(text)) == ["p", "code", "pre", "code", "ul", "li", "li", "code", "p"]
    assert '<pre tabindex="0"><code>run &lt;this&gt;\n  and that</code></pre>' in markup.prose(text)
    assert markup.prose("") == ""
    assert Reader(markup.prose("`a")).text == "`a"
