"""The table of a stage, with the per cents of the paper."""

import pytest

from zhllama_jax.cli import program


def last_line(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert program.run(["stages", *words.split()]) == 0
    return capsys.readouterr().out.strip().split("\n")[-1]


@pytest.mark.parametrize(
    ("words", "percent"),
    [
        ("--size 7b --stage embeddings", "2.9716"),
        ("--size 7b --stage pretrain_lora", "6.0576"),
        ("--size 7b --stage sft", "6.2154"),
        ("--size 13b --stage sft", "4.1026"),
    ],
)
def test_the_per_cents_of_the_paper(words: str, percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line(f"{words} --vocab_size 49953 --rank 8", capsys).endswith(f"({percent} %)")


def test_the_last_line_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line("--size micro --vocab_size 100 --stage new_rows --vocab_size 32010", capsys).startswith("trainable 640 of ")


def test_an_unknown_size_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["stages", "--size", "8b"]) == 1
    assert "unknown model size '8b'" in capsys.readouterr().err
