"""What the program says: results on standard output, everything else on standard error."""

import re
import shlex
import sys
from collections.abc import Collection, Sequence

from zhllama_jax import lines as lines_lib


def say(text: str) -> None:
    """A line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def then(*words: object) -> None:
    """Says the command that a user may want next; a word of capitals stands for what the user has to fill in."""
    say(f"next: zhllama {shlex.join(map(str, words))}")


def result(text: str, *, end: str = "\n") -> None:
    """A result, which may be piped on."""
    print(text, end=end, flush=True)


def table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Rows of cells as aligned text: the first row is the head, the columns of `left` stand left, all others right."""
    widths = [max(lines_lib.width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        blanks = [" " * (size - lines_lib.width(cell)) for cell, size in zip(row, widths, strict=True)]
        cells = [cell + blank if column in left else blank + cell for column, (cell, blank) in enumerate(zip(row, blanks, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def aligned(markdown: str) -> str:
    """Markdown with the columns of its tables padded, so that it reads well as it stands."""
    lines = markdown.split("\n")
    number = 0
    while number < len(lines):
        end = next((later for later in range(number, len(lines)) if not lines[later].startswith("|")), len(lines))
        if end - number > 1 and re.fullmatch(r"(\|\s*:?-+:?\s*)+\|", lines[number + 1]):
            lines[number:end] = _padded([_cells(line) for line in lines[number:end]])
        number = end + 1
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _padded(rows: list[list[str]]) -> list[str]:
    """A table's lines; the second row says where the columns stand."""
    if any(len(row) != len(rows[0]) for row in rows):
        return [f"| {' | '.join(row)} |" for row in rows]
    head, rule, *body = rows
    widths = [max(lines_lib.width(row[column]) for row in (head, *body)) for column in range(len(head))]
    right = [marks.endswith(":") for marks in rule]

    def line(cells: list[str]) -> str:
        blanks = [" " * (size - lines_lib.width(cell)) for cell, size in zip(cells, widths, strict=True)]
        return "| " + " | ".join(b + c if r else c + b for b, c, r in zip(blanks, cells, right, strict=True)) + " |"

    dashes = ["-" * (size + 1) + ":" if r else "-" * (size + 2) for size, r in zip(widths, right, strict=True)]
    return [line(head), f"|{'|'.join(dashes)}|", *map(line, body)]
