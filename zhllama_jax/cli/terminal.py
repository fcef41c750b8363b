"""What the program says: results on standard output, everything else on standard error."""

import sys
import unicodedata
from collections.abc import Sequence


def say(text: str) -> None:
    """A line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def result(text: str, *, end: str = "\n") -> None:
    """A result, which may be piped on."""
    print(text, end=end, flush=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text: the first row is the head, the first column stands left, all others right."""
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        blanks = [" " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
        cells = [row[0] + blanks[0], *(blank + cell for cell, blank in zip(row[1:], blanks[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def width(text: str) -> int:
    """Columns that a text takes on a terminal: two for each wide (Chinese) character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
