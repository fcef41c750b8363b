"""Tokens on a terminal: what is only read and what is learnt, in two colours or, without colours, in brackets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zhllama_jax.cli import terminal

if TYPE_CHECKING:
    import rich.console

    from zhllama_jax.data import preview

MASKED, LEARNT, BORDER = "cyan", "bold green", "dim"


def visible(text: str) -> str:
    """Text whose every sign can be seen: line ends as \\n (and a new line), backslashes doubled, what is not printable as in a literal.

    The ideographic space stays as it is. No control sequence of a terminal gets through.
    """
    shown = []
    for sign in text:
        if sign == "\n":
            shown.append("\\n\n")
        elif sign == "\\":
            shown.append("\\\\")
        else:
            shown.append(sign if sign.isprintable() or sign == "\u3000" else repr(sign)[1:-1])
    return "".join(shown)


def spans(sample: "preview.Sample") -> Iterator[tuple[int, bool, list["preview.Token"]]]:
    """Tokens in stretches of one segment that are all learnt or all only read: (segment, learnt, tokens)."""
    stretch: list[preview.Token] = []
    for token in sample.tokens:
        if stretch and (token.segment, token.learnt) != (stretch[0].segment, stretch[0].learnt):
            yield stretch[0].segment, stretch[0].learnt, stretch
            stretch = []
        stretch.append(token)
    if stretch:
        yield stretch[0].segment, stretch[0].learnt, stretch


def _coloured(console: "rich.console.Console") -> bool:
    """Whether colours are there and wanted: on a terminal, unless NO_COLOR is set."""
    return console.color_system is not None and not console.no_color


def legend(console: "rich.console.Console") -> None:
    """Says how the two kinds of tokens look."""
    if _coloured(console):
        from rich import text

        console.print(text.Text.assemble(("read", MASKED), ", ", ("learnt", LEARNT), ", \\n ends a line"))
    else:
        console.print("read, [learnt], \\n ends a line")


def show(console: "rich.console.Console", sample: "preview.Sample") -> None:
    """The text of a sample, in two colours or with brackets."""
    from rich import text as rich_text

    coloured = _coloured(console)
    shown = rich_text.Text()
    segment = None
    for number, learnt, tokens in spans(sample):
        if segment not in (None, number):
            shown.append(f"\n--- segment {number} ---\n", style=BORDER if coloured else "")
        segment = number
        words = visible("".join(token.text for token in tokens))
        shown.append(words if coloured or not learnt else f"[{words}]", style=(LEARNT if learnt else MASKED) if coloured else "")
    console.print(shown, soft_wrap=True)


def show_ids(sample: "preview.Sample") -> None:
    """The ids of a sample, a line for each stretch."""
    for _, learnt, tokens in spans(sample):
        terminal.result(f"{'learnt' if learnt else 'read  '}  {' '.join(str(token.number) for token in tokens)}")
