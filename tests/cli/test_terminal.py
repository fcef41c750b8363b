"""What goes where, and columns that stay straight with Chinese in them."""

from pathlib import Path

import pytest

from zhllama_jax import lines
from zhllama_jax.cli import terminal


def test_results_and_remarks_take_different_roads(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.result("答案", end="")
    terminal.say("working")
    assert capsys.readouterr() == ("答案", "working\n")


def test_columns_of_a_table_end_together() -> None:
    head, rule, *rows = terminal.table([("text", "tokens"), ("中文", "7"), ("English", "1,234")]).split("\n")
    assert {lines.width(line) for line in (head, rule, *rows)} == {len("English  tokens")}
    assert rows[0].startswith("中文 ")
    assert rows[0].endswith("7")


def test_text_stands_left_in_the_columns_that_are_named() -> None:
    made = terminal.table([("recipe", "fits", "disk", "advice"), ("中文", "no", "7", "wait"), ("b", "yes", "10", "go")], left=(0, 1, 3))
    assert made.split("\n")[2:] == ["中文    no       7  wait", "b       yes     10  go"]


def test_the_next_command_can_be_pasted_into_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.then("merge", "--model", Path("my models/a"), "--steps", 3)
    assert capsys.readouterr() == ("", "next: zhllama merge --model 'my models/a' --steps 3\n")


def test_tables_of_markdown_are_padded_and_stay_the_same_tables() -> None:
    text = "# 标题\n\n| text | n |\n|---|--:|\n| 中文 | 7 |\n| a \\| b | 1,234 |\n\nend | of | it\n"
    lines = terminal.aligned(text).split("\n")
    assert lines[2:6] == ["| text   |     n |", "|--------|------:|", "| 中文   |     7 |", "| a \\| b | 1,234 |"]
    assert lines[:2] + lines[6:] == ["# 标题", "", "", "end | of | it", ""]
    assert terminal.aligned(terminal.aligned(text)) == terminal.aligned(text)
    assert terminal.aligned("| a | b |\n|---|---|\n| ragged |") == "| a | b |\n| --- | --- |\n| ragged |"
