"""The help of a verb, from its signature and docstrings: a screenful (`--help`), all of it (`--help_all`), one section (`--data.help`).

A docstring's first lines say what the verb does, `Args:` or `Attributes:` explain its flags, `Examples:` shows calls. No parser is built,
so that help comes at once.
"""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax.cli import presets, schema

LINES, COLUMNS = 40, 100
"""The screen that `--help` fits."""

LABEL = 28
"""Columns of the flags' names; the text stands beside them."""

VALUE = 34
"""Columns of the longest list of choices; a longer one is told by --help_all."""

SECTIONS = ("Args", "Attributes", "Examples", "Returns", "Raises")

REST = (
    "Flags may stand in a YAML file: --config FILE. --print_config shows what was understood, --help_all every flag in full, "
    "--NAME.help one flag or section."
)


class Doc(NamedTuple):
    """A docstring in parts.

    Attributes:
      prose: its paragraphs, a blank line between them.
      entries: what it says of each argument or attribute.
      examples: calls, one a line.
    """

    prose: list[str]
    entries: Mapping[str, str]
    examples: list[str]


class Flag(NamedTuple):
    """A flag, or a section of flags.

    Attributes:
      name: without the dashes, dotted inside of a section.
      kind: its type.
      default: what stands where it is left out; `dataclasses.MISSING` if it may not be.
      text: what it is.
    """

    name: str
    kind: Any
    default: Any
    text: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING

    @property
    def section(self) -> type | None:
        """The dataclass whose fields are its flags; the one of a list's elements too."""
        found = [kind for kind in schema.members(schema.element(self.kind) or self.kind) if dataclasses.is_dataclass(kind)]
        return typing.cast(type, found[0]) if found else None


def asked(name: str, verb: Callable[..., None], words: Sequence[str]) -> str | None:
    """The help that a command line asks for; None if it asks for none.

    Raises:
      schema.UsageError: `--X.help` of a section that there is not.
    """
    if "--help_all" in words:
        return whole(name, verb)
    if "-h" in words or "--help" in words:
        return screen(name, verb)
    for word in words:
        if word.startswith("--") and word.endswith(".help"):
            return section(verb, word[2:].removesuffix(".help"))
    return None


def screen(name: str, verb: Callable[..., None]) -> str:
    """The help that fits `LINES` × `COLUMNS`: flags that a verb cannot do without first, the last of very many by name only."""
    doc = read(verb.__doc__)
    found = sorted(of_verb(verb), key=lambda flag: not flag.required)
    head = [*_usage(name, verb, found), "", *doc.prose, ""]
    foot = [*_examples(doc), "", *textwrap.wrap(REST, COLUMNS)]
    room = LINES - len(head) - len(foot)
    body = [line for flag in found for line in _entry(flag)]
    if len(body) > room:
        body = [_line(flag) for flag in found]
    shown = len(found)
    while len(body) > room and shown:
        shown -= 1
        body = [*map(_line, found[:shown]), *_names(found[shown:])]
    return "\n".join([*head, *body, *foot])


def whole(name: str, verb: Callable[..., None]) -> str:
    """Everything: the flags of all sections too, with types and defaults."""
    doc = read(verb.__doc__)
    found = list(_unfolded(of_verb(verb)))
    lines = [line for flag in found for line in _entry(flag, typed=True)]
    return "\n".join([*_usage(name, verb, of_verb(verb)), "", *doc.prose, "", *lines, *_examples(doc), "", *textwrap.wrap(REST, COLUMNS)])


def section(verb: Callable[..., None], name: str) -> str:
    """The flags of one section, such as `optimizer`, or the text of one flag.

    Raises:
      schema.UsageError: there is none of that name.
    """
    known = {flag.name: flag for flag in _unfolded([*_of_file(verb), *of_verb(verb)])}
    plain = {known_name.replace("[]", ""): flag for known_name, flag in known.items()}
    if name not in plain:
        raise schema.UsageError(f"no flag --{name}: {schema.closest(name, plain)}")
    chosen = [flag for flag_name, flag in plain.items() if flag_name == name or flag_name.startswith(f"{name}.")]
    return "\n".join(line for flag in chosen for line in _entry(flag, typed=True))


def read(text: str | None) -> Doc:
    """A docstring in parts."""
    prose: list[str] = []
    entries: dict[str, str] = {}
    examples: list[str] = []
    part = name = ""
    for line in inspect.cleandoc(text or "").split("\n"):
        if line.endswith(":") and line[:-1] in SECTIONS:
            part = line[:-1]
        elif not part:
            prose.append(line)
        elif part == "Examples":
            examples += [line.strip()] if line.strip() else []
        elif part in ("Args", "Attributes"):
            if entry := re.fullmatch(r"  (\w+): (.*)", line):
                name = entry[1]
                entries[name] = entry[2]
            elif name and line.startswith("    "):
                entries[name] += f" {line.strip()}"
    paragraphs = "\n".join(prose).strip().split("\n\n")
    wrapped = [wrapped for paragraph in paragraphs for wrapped in ("", *textwrap.wrap(paragraph, COLUMNS))]
    # What is None in Python is null in a file and on the command line.
    told = {name: re.sub(r"\bNone\b", "null", entry) for name, entry in entries.items()}
    return Doc(wrapped[1:], told, examples)


def of_verb(verb: Callable[..., None]) -> list[Flag]:
    """The flags of a verb, those of its dataclass among them where that is read without a file too."""
    settings = schema.settings(verb)
    kind = settings.kinds[0] if settings and not settings.optional else None
    found = list(_of_dataclass(kind)) if kind else []
    found += [Flag(name, hint, None, presets.SUMMARY) for name, hint in presets.options(kind).items()]
    texts = read(verb.__doc__).entries
    parameters = inspect.signature(verb).parameters
    for name, hint in schema.options(verb).items():
        default = parameters[name].default
        missing = dataclasses.MISSING if default is inspect.Parameter.empty else default
        found.append(Flag(name, hint, missing, texts.get(name, "")))
    return found


def _of_file(verb: Callable[..., None]) -> Iterator[Flag]:
    """The flags that a verb has beside a configuration file only."""
    settings = schema.settings(verb)
    for kind in settings.kinds if settings and settings.optional else ():
        yield from _of_dataclass(kind)
        yield from (Flag(name, hint, None, presets.SUMMARY) for name, hint in presets.options(kind).items())


def _of_dataclass(kind: Any, prefix: str = "") -> Iterator[Flag]:
    kinds = schema.fields(kind)
    texts = {name: text for base in reversed(kind.__mro__) if base is not object for name, text in read(base.__doc__).entries.items()}
    for field in dataclasses.fields(kind):
        if field.init:
            default: Any = field.default
            if field.default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = None  # a section with defaults of its own
            yield Flag(prefix + field.name, kinds[field.name], default, texts.get(field.name, ""))


def _unfolded(found: Sequence[Flag]) -> Iterator[Flag]:
    """Each flag, and behind a section its flags."""
    for flag in found:
        yield flag
        if flag.section:
            inside = f"{flag.name}[]." if schema.element(flag.kind) else f"{flag.name}."
            yield from _unfolded(list(_of_dataclass(flag.section, inside)))


def _examples(doc: Doc) -> list[str]:
    """The calls, long ones cut as a shell reads them."""
    lines = []
    for example in doc.examples:
        first, *more = textwrap.wrap(example, COLUMNS - 4, subsequent_indent="    ", break_on_hyphens=False)
        lines += ["  " + " \\\n  ".join([first, *more])]
    return ["", *"\n".join(lines).split("\n")] if lines else []


def _names(found: Sequence[Flag]) -> list[str]:
    """The flags that have no line of their own."""
    return textwrap.wrap(f"also {', '.join(f'--{flag.name}' for flag in found)}", COLUMNS, initial_indent="  ", subsequent_indent="  ")


def _usage(name: str, verb: Callable[..., None], found: Sequence[Flag]) -> list[str]:
    placed = schema.words(verb)
    needed = [_label(flag) for flag in found if flag.required]
    words = [f"usage: zhllama {name}", *([f"[{placed.upper()}]"] if placed else []), *needed]
    words += ["[--flag VALUE …]"] if len(needed) < len(found) else []
    return textwrap.wrap(" ".join(words), COLUMNS, subsequent_indent=" " * 8, break_on_hyphens=False)


def _label(flag: Flag) -> str:
    """`--output PATH`, `--mode safe|reference`, `--prompt TEXT …`, `--optimizer.…`."""
    kinds = [kind for kind in schema.members(flag.kind) if kind is not type(None)]
    sections = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if sections == kinds:
        return f"--{flag.name}.…"
    inner = schema.element(flag.kind)
    value = (
        _value(flag, inner) if inner is not None else "|".join(dict.fromkeys(_value(flag, kind) for kind in kinds if kind not in sections))
    )
    return " ".join(filter(None, [f"--{flag.name}", value, "…" if inner is not None else ""]))


def _value(flag: Flag, kind: Any) -> str:
    """What stands for a flag's value."""
    name = flag.name.rpartition(".")[2].upper()
    if kind is bool:
        return "true|false" if flag.default is True else ""
    if typing.get_origin(kind) is typing.Literal:
        choices = "|".join(map(str, typing.get_args(kind)))
        return choices if len(choices) <= VALUE else name
    return {int: "N", float: "X", Path: "PATH"}.get(kind, name)


def _shown_default(flag: Flag) -> str:
    """` [default]`, where there is one to speak of."""
    value = flag.default
    if value is dataclasses.MISSING or value is None or value is False or value == () or dataclasses.is_dataclass(value):
        return ""
    return f" [{str(value).lower() if value is True else value}]"


def _text(flag: Flag) -> str:
    """What a flag is, its section's flags by name, and its default."""
    text = flag.text.rstrip(".")
    kinds = [kind for kind in schema.members(flag.kind) if kind is not type(None)]
    if flag.section and len(kinds) == 1 and not schema.element(flag.kind):
        text += f": {', '.join(schema.fields(flag.section))}"
    return text + _shown_default(flag)


def _line(flag: Flag) -> str:
    """A flag in one line; where the text is longer, an ellipsis stands for the rest."""
    left = f"  {_label(flag)}".ljust(LABEL + 2)
    return left + "  " + textwrap.shorten(_text(flag), COLUMNS - len(left) - 2, placeholder=" …")


def _entry(flag: Flag, *, typed: bool = False) -> list[str]:
    """A flag with its whole text."""
    kind = f" ({schema.describe(flag.kind)})" if typed and not flag.section else ""
    left = f"  {_label(flag)}"
    lines = textwrap.wrap(_text(flag) + kind, COLUMNS - LABEL - 4, break_long_words=False) or [""]
    if len(left) > LABEL + 2:
        return [left, *(" " * (LABEL + 4) + line for line in lines)]
    return [left.ljust(LABEL + 4) + lines[0], *(" " * (LABEL + 4) + line for line in lines[1:])]
