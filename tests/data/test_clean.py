"""Repairs change what they must and name it."""

import pytest

from zhllama_jax.data import clean


@pytest.mark.parametrize(
    ("raw", "text", "repairs"),
    [
        ("plain 中文", "plain 中文", []),
        ("one\r\ntwo", "one\ntwo", ["crlf"]),
        ("lone\rreturn", "lone\rreturn", []),
        ("a\0b\0", "ab", ["nul"]),
        ("\ud800x\udfff", "\ufffdx\ufffd", ["surrogate"]),
        ("\r\n\0\ud834", "\n\ufffd", ["crlf", "nul", "surrogate"]),
        ("separators\u2028\u2029\x85\v\f stay", "separators\u2028\u2029\x85\v\f stay", []),
        ("", "", []),
    ],
)
def test_repair(raw: str, text: str, repairs: list[str]) -> None:
    result = clean.repair(raw)
    assert result.text == text
    assert result.repairs == repairs
    result.text.encode("utf-8")
