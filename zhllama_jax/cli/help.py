"""`zhllama help`: pages of the package's `help` folder, recipes with their headers, and the flags of verbs."""

import importlib.resources
import sys
import textwrap

from zhllama_jax.cli import flags, recipes, schema, terminal, usage

TOPICS = ("migrate", "tokenizer", "stages", "data", "export", "results")
"""The pages, in a reader's order; each is `zhllama_jax/help/TOPIC.md`."""

CHINESE = "README.zh"
"""The README in Chinese, a page that lists the others."""

WIDEST = 120
"""Columns that a page takes at most."""


def run(*topic: str) -> None:
    """Explains a topic, a recipe or a verb; without a word lists the topics.

    A page is rendered on a terminal and stays Markdown elsewhere. Where a topic and a verb have one name, the topic is shown.

    Args:
      topic: migrate, tokenizer, stages, data, export or results; a recipe, which is then shown with the commands before it, the hardware
        and the result; or a verb, whose flags are then listed.

    Examples:
      zhllama help migrate
      zhllama help 7b_stage1
      zhllama help tokenizer merge
    """
    from zhllama_jax.cli import program

    name = " ".join(topic)
    if not name:
        terminal.result(overview())
        return
    if name in (*TOPICS, CHINESE):
        _show(page(name))
        return
    if name in recipes.paths():
        terminal.result(recipes.paths()[name].read_text(encoding="utf-8"), end="")
        return
    groups = {verb.partition(" ")[0] for verb in program.VERBS}
    if name not in groups and name not in program.VERBS:
        meant = schema.near(name, [*TOPICS, *recipes.paths(), *program.VERBS])
        there = f"did you mean {meant}?" if meant else "`zhllama help` lists topics and recipes, `zhllama --help` verbs"
        raise schema.UsageError(f"no help on {name!r}: {there}")
    verb, rest = program.find([*topic, "--help"])
    flags.parse(verb, program.VERBS[verb], rest)


def page(topic: str) -> str:
    """The Markdown of a topic."""
    return (importlib.resources.files("zhllama_jax") / "help" / f"{topic}.md").read_text(encoding="utf-8")


def overview() -> str:
    """The topics, each with the title of its page."""
    size = max(map(len, TOPICS))
    recipe = textwrap.wrap(", ".join(recipes.paths()), usage.COLUMNS - 4)
    lines = [f"  {topic.ljust(size)}  {page(topic).partition(chr(10))[0].removeprefix('# ')}" for topic in TOPICS]
    return "\n".join(
        [
            "usage: zhllama help TOPIC",
            "",
            *lines,
            f"  {CHINESE}  中文说明",
            *(["", "`zhllama help RECIPE` shows a recipe, which `--config RECIPE` takes:", ""] if recipe else []),
            *(f"  {line}" for line in recipe),
            "",
            "`zhllama help VERB` lists a verb's flags, as `zhllama VERB --help` does; `zhllama --help` all verbs.",
        ]
    )


def _show(text: str) -> None:
    """A page on standard output."""
    if not sys.stdout.isatty():
        terminal.result(text, end="")
        return
    from rich import console, markdown

    screen = console.Console()
    screen.print(markdown.Markdown(text), width=min(screen.width, WIDEST))
