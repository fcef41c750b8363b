"""What goes where, and columns that stay straight with Chinese in them."""

import pytest

from zhllama_jax.cli import terminal


def test_results_and_remarks_take_different_roads(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.result("答案", end="")
    terminal.say("working")
    assert capsys.readouterr() == ("答案", "working\n")


def test_a_wide_character_takes_two_columns() -> None:
    assert [terminal.width(text) for text in ("ab", "中文", "a\uff0c。", "")] == [2, 4, 5, 0]


def test_columns_of_a_table_end_together() -> None:
    head, rule, *rows = terminal.table([("text", "tokens"), ("中文", "7"), ("English", "1,234")]).split("\n")
    assert {terminal.width(line) for line in (head, rule, *rows)} == {len("English  tokens")}
    assert rows[0].startswith("中文 ")
    assert rows[0].endswith("7")
