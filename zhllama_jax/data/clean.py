"""Repairs that no reader of text can do without: what would stop the tokenizer, or mean nothing.

A repair changes as little as it can and is counted, so that a report can say what a corpus held.
It judges no content: choosing documents is the caller's business.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_SURROGATES = re.compile("[\ud800-\udfff]")


class Repaired(NamedTuple):
    """A text that encodes as UTF-8, and the kinds of repairs that it needed ("nul", "crlf", "surrogate")."""

    text: str
    repairs: Sequence[str]


def repair(text: str) -> Repaired:
    """Drops NUL, turns CRLF into LF and lone surrogates (JSON can escape them) into U+FFFD.

    >>> repair("one\\r\\ntwo\\0")
    Repaired(text='one\\ntwo', repairs=['crlf', 'nul'])
    """
    repairs = []
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        repairs.append("crlf")
    if "\0" in text:
        text = text.replace("\0", "")
        repairs.append("nul")
    if not text.isascii() and _SURROGATES.search(text):
        text = _SURROGATES.sub("\ufffd", text)
        repairs.append("surrogate")
    return Repaired(text, repairs)
