"""The page of a merge holds the figures of its report, measured on real pieces."""

import re
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.eval import figures, tokenizer_html
from zhllama_jax.tokenizer import analyse, merge, processor

NAME = "中<b>文"


@pytest.fixture(scope="module")
def measured(english_pieces: Path, chinese_pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "zh.txt").write_text("江河都往海里流\n今天天气很好\n", encoding="utf-8")
    (folder / "en.txt").write_text("The sea is never full.\n", encoding="utf-8")
    merged = processor.Tokenizer.from_bytes(merge.merge(english_pieces, [chinese_pieces], proof_strings=20).serialized)
    texts = [(NAME, [folder / "zh.txt"]), ("english", [folder / "en.txt"])]
    return analyse.report(processor.Tokenizer.load(english_pieces), merged, texts)


def test_every_figure_is_there(measured: dict[str, Any]) -> None:
    page = tokenizer_html.page(measured)
    assert re.findall(r'<section id="(\w+)"', page) == ["compression", "sentence", "lines", "transformers", "cost"]
    chinese = measured["texts"][NAME]
    shown = [
        figures.number(chinese["base"]["tokens"]),
        figures.number(chinese["merged"]["tokens"]),
        figures.percent(1 - chinese["merged"]["tokens"] / chinese["base"]["tokens"]),
        figures.percent(chinese["base"]["byte_fallback_share"]),
        f"× {figures.number(chinese['speed_gain'])}",
        figures.large(chinese["break_even"]["characters"]),
        figures.number(measured["cost"]["extra_parameters"]),
    ]
    assert all(f">{figure}" in page or f" {figure}" in page for figure in shown)
    assert analyse.PAPER_SENTENCE in page and ">never<" in page, "English saves nothing"


def test_names_of_texts_are_text(measured: dict[str, Any]) -> None:
    page = tokenizer_html.page(measured)
    assert NAME not in page and "中&lt;b&gt;文" in page


def test_pieces_that_are_never_produced_are_shown(measured: dict[str, Any]) -> None:
    new = {**measured["new_pieces"], "unreachable": 1, "examples": ["<i>"]}
    assert ", e.g. <code>&lt;i&gt;</code>.</p>" in tokenizer_html.page({**measured, "new_pieces": new})
