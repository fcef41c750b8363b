"""From words on the command line, and a YAML file, to the arguments of a verb.

The parser is jsonargparse's. Around it stand some things of ours: words after a list flag are taken as they are (`--prompt A B`), a bare
switch means true, an unknown flag or key is answered with the one that was meant, every complaint is one line, and only the chosen
verb's parser is built.
"""

import collections
import inspect
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhllama_jax.cli import configuration, presets, recipes, schema, terminal, usage
from zhllama_jax.train import config as train_config

if TYPE_CHECKING:
    import jsonargparse

OF_THE_PARSER = ("help", "help_all", "config", "print_config")


def parse(
    name: str, verb: Callable[..., None], words: Sequence[str], *, say: Callable[[str], None] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for `verb`.

    Args:
      name: what the verb is called ("tokenizer merge").
      verb: see `schema`.
      words: the command line after the verb.
      say: is told what the user should know of the preset that was chosen; None tells nobody.

    Raises:
      schema.UsageError: a flag, a key or a value is wrong.
      FileNotFoundError: the configuration file is missing.
      SystemExit: after help and `--print_config`, status 0.
    """
    import argparse

    if (page := usage.asked(name, verb, words)) is not None:
        terminal.result(page)
        raise SystemExit(0)
    words = recipes.resolve(words)
    settings = schema.settings(verb)
    kind = _kind(settings, _values(words, "config")) if settings else None
    # An optional dataclass may have fields that are also flags of their own; where it is read, a name means its field.
    own = {option: hint for option, hint in schema.options(verb).items() if option not in schema.fields(kind)}
    known = {**schema.fields(kind), **own, **presets.options(kind)}

    placed: list[Any] = []
    if schema.words(verb):
        placed = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    words = _fold(words[len(placed) :], known)
    _check_flags(words, known)
    for path in _values(words, "config"):
        configuration.check(path, known)
    parser = _make_parser(name, verb, kind, own)
    presets.fill(parser, kind, words, _values(words, "config"))
    words += [*_without_other_lengths(kind, words), *_names_of_sections(kind, words)]
    try:
        given = parser.instantiate(parser.parse_args(words))
        if say is not None and (note := presets.note(kind, words, _values(words, "config"))):
            say(note)
        named = {option: given[option] for option in own}
        if schema.FILE in inspect.signature(verb).parameters:
            named[schema.FILE] = next(reversed(_values(words, "config")), None)
        if settings is None:
            return placed, named
        return [kind(**{field: given[field] for field in schema.fields(kind)}) if kind else None], named
    except argparse.ArgumentError as error:
        raise schema.UsageError(_reword(str(error), words, known)) from None
    except ValueError as error:
        message = _of_union(str(error)).removeprefix("experiment: ")
        by_flag = any(re.match(rf"--{re.escape(message.split()[0])}(=|$)", word) for word in words if message)
        where = "" if by_flag else "".join(f"{configuration.place(path, message)}: " for path in _values(words, "config")[-1:])
        raise schema.UsageError(where + message) from None


def _kind(settings: schema.Settings, paths: Sequence[str]) -> type | None:
    """The dataclass to read: the only one, or the one that the configuration file means, or none where nothing says what is in it."""
    if settings.optional and not paths:
        return None
    if len(settings.kinds) == 1:
        return settings.kinds[0]
    keys = configuration.keys(paths[-1]) if paths else set()
    return max(settings.kinds, key=lambda kind: len(keys & schema.fields(kind).keys()))


def _make_parser(name: str, verb: Callable[..., None], kind: type | None, own: Mapping[str, Any]) -> "jsonargparse.ArgumentParser":
    """The parser of one verb: the fields of its dataclass, and its own flags, with the help of their docstrings."""
    import jsonargparse

    summary = inspect.cleandoc(verb.__doc__ or "").partition("\nArgs:")[0].strip()
    placed = schema.words(verb)
    prog = f"zhllama {name} [{placed.upper()}]" if placed else f"zhllama {name}"
    parser = jsonargparse.ArgumentParser(prog=prog, description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the options below, or the name of a recipe; flags override it")
    if kind is not None:
        parser.add_class_arguments(kind, as_group=False)
    left_out = inspect.signature(verb).parameters.keys() - own.keys()
    parser.add_function_arguments(verb, as_group=False, skip=set(left_out))
    return parser


def _fold(words: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Gathers all words of a list flag, repeated or not, into one JSON list that nothing interprets; a bare switch gets its value."""
    named = {word.partition("=")[0] for word in words if word.startswith("--")}
    kinds = {flag: schema.find(known, flag[2:]) for flag in named}
    switches = {flag for flag, kind in kinds.items() if kind is bool}
    lists = {flag: kind for flag, kind in kinds.items() if schema.is_list(kind)}
    gathered: dict[str, list[str]] = {}
    folded: list[str] = []
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in switches and not equals and rest[:1] not in (["true"], ["false"]):
            folded.append(f"{flag}=true")
            continue
        if flag not in lists:
            folded.append(flag + equals + value)
            continue
        if flag not in gathered:
            gathered[flag] = []
            folded.append(flag)  # keeps the place; filled below
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--") and rest[0] != "-h":
            values.append(rest.pop(0))
        if not values:
            raise schema.UsageError(f"{flag} needs at least one value")
        gathered[flag] += values
    return [f"{word}={_as_json(gathered[word], lists[word])}" if word in gathered else word for word in folded]


def _as_json(values: list[str], kind: Any) -> str:
    """The words after a list flag as one list; a single word may also spell the whole list of what is no text."""
    inner = schema.members(schema.element(kind))
    if set(inner) & {str, Path}:
        mapping = len(inner) > 1 and any(schema.fields(member) for member in inner)
        values = [value if mapping and value.startswith("{") else json.dumps(value, ensure_ascii=False) for value in values]
    elif len(values) == 1 and values[0].startswith("["):
        return values[0]
    return f"[{', '.join(values)}]"


def _check_flags(words: Sequence[str], known: Mapping[str, Any]) -> None:
    strange: dict[str, list[str]] = {}  # by section, "" for the verb's own
    for word in words:
        if not word.startswith("--") or word == "--":
            continue
        option = word[2:].partition("=")[0].removesuffix("+").removesuffix(".help")
        if option not in OF_THE_PARSER and schema.find(known, option) is None:
            section, _, name = option.rpartition(".")
            inside = bool(section and schema.fields(schema.find(known, section)))
            strange.setdefault(section if inside else "", []).append(name if inside else option)
    if foreign := schema.of_another_program(strange.get("", []), prefix="--"):
        raise schema.UsageError(f"this is {foreign}")
    problems = []
    for section, names in strange.items():
        there = schema.fields(schema.find(known, section)) if section else [*known, *OF_THE_PARSER]
        prefix = f"--{section}." if section else "--"
        ends = schema.closest_each(names, there, prefix=prefix)
        if not section:
            deeper = [schema.inner(known, name) for name in names]
            ends = [
                f": write {' or '.join(f'--{one}' for one in found)}" if found else end for found, end in zip(deeper, ends, strict=True)
            ]
        problems += [f"unknown flag {prefix}{name}{end}" for name, end in zip(names, ends, strict=True)]
    given = collections.Counter(word.partition("=")[0] for word in words if word.startswith("--"))
    problems += [f"{flag} stands there {count} times: say it once" for flag, count in given.items() if count > 1 and flag != "--config"]
    if problems:
        raise schema.UsageError("; ".join(problems))


def _without_other_lengths(kind: type | None, words: Sequence[str]) -> list[str]:
    """Words that take back what a file says of a training's length where a flag says it in another unit: only one of them counts."""
    if kind is not train_config.Experiment:
        return []
    by_flag = {name for name in train_config.LENGTHS if any(word.partition("=")[0] == f"--{name}" for word in words)}
    in_files = {name for path in _values(words, "config") for name in configuration.keys(path)}
    return [f"--{name}=null" for name in train_config.LENGTHS if by_flag and name in in_files and name not in by_flag]


def _names_of_sections(kind: type | None, words: Sequence[str]) -> list[str]:
    """Words that repeat what a file, or else the default, calls a section by its name alone (`stage: sft`) where flags set parts of it.

    The parser would keep the parts only.

    Raises:
      schema.UsageError: a flag names the section, and another one sets a part.
    """
    repeated = []
    for name, hint in schema.fields(kind).items():
        parts = [word.partition("=")[0] for word in words if word.startswith(f"--{name}.")]
        key = schema.naming(hint)
        if key is None or not parts or f"--{name}.{key}" in parts:
            continue
        for given in _values(words, name):
            raise schema.UsageError(f"--{name} stands for all of it: beside {parts[0]} write --{name}.{key} {given}")
        in_files = [found[name] for path in _values(words, "config") if name in (found := configuration.values(path))]
        called = in_files[-1] if in_files else getattr(kind, name, None)
        repeated += [f"--{name}.{key}={called}"] if isinstance(called, str) else []
    return repeated


def _values(words: Sequence[str], option: str) -> list[str]:
    """The values that a flag is given, in both spellings."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"--{option}=")]
    return found + [value for flag, value in itertools.pairwise(words) if flag == f"--{option}"]


def _of_union(message: str) -> str:
    """What a dataclass said of its own values, also where it may be left out and the parser tried None for it as well."""
    tried = re.findall(r"^ +- (?!Expected a )(.+)$", message, re.MULTILINE)
    return tried[0] if message.startswith("Does not validate") and tried else message


def _flagged(word: str, known: Mapping[str, Any]) -> str:
    """A word without a flag, and the flag that it seems to want."""
    name, equals, value = word.partition("=")
    if Path(word).suffix.lower() in (".yaml", ".yml"):
        return f"{word} (write --config {word})"
    meant = [name] if schema.find(known, name) is not None else schema.inner(known, name)
    return f"{word} (write {' or '.join(f'--{one} {value}' for one in meant)})" if equals and meant else word


def _reword(message: str, words: Sequence[str], known: Mapping[str, Any]) -> str:
    """The parser's complaint as one line in our words."""
    message = " ".join(message.split())
    files = _values(words, "config")
    if missing := re.search(r"arguments are required: (.+?)(?: Given value type: .*)?$", message):
        options = [option.strip() for option in missing[1].split(",")]
        hint = "; give them in a file, --config F" if "." in missing[1] and not files else ""
        return f"missing: {', '.join(f'--{option}' for option in options)}{hint}"
    if stray := re.match(r"unrecognized arguments: (.+)$", message):
        return f"unexpected: {', '.join(_flagged(word, known) for word in stray[1].split())}"
    if bare := re.match(r"argument (--[\w.]+): expected .*argument", message):
        return f"{bare[1]} needs a value"
    key = re.match(r'Parser key "([^"]+)": *(.*)$', message)
    if not key:
        return message
    option, problem = key[1], key[2]
    kind = schema.find(known, option)
    value = re.search(
        r"(?:(?:Got|Given) value:|Expected a dot import path string:|Unable to load config ['\"](?=.*['\"] - Parser key)) ?"
        r"(.*?)(?: - Expected a |['\"] - Parser key | Subclass types expect |$)",
        problem,
    )
    if kind is not None and value:
        problem = f"expected {schema.describe(kind)}, got {value[1]!r}"
    by_flag = any(word.partition("=")[0] == f"--{option}" for word in words)
    return f"--{option}: {problem}" if by_flag or not files else f"{files[-1]}: {option}: {problem}"
