"""Options read from signatures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from zhllama_jax.cli import program, schema


@dataclasses.dataclass(frozen=True)
class Inner:
    """Nested settings."""

    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Part:
    """An element of a list."""

    path: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a verb with a configuration is given."""

    model: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    parts: tuple[Part, ...] = ()
    extra: dict[str, float] = dataclasses.field(default_factory=dict)
    named: Mapping[str, Inner] | None = None


def with_settings(settings: Settings, /, *, dry: bool = False) -> None:
    """Takes a dataclass and a flag."""


def optional_settings(settings: Settings | Part | None, /, *, dry: bool = False) -> None:
    """Takes a dataclass only if there is a file."""


def flags_only(*, output: Path, names: list[str] | None = None) -> None:
    """Takes flags."""


def with_words(*topic: str, plain: bool = False) -> None:
    """Takes words without a flag."""


KNOWN = {**schema.fields(Settings), **schema.options(with_settings)}


def test_the_positional_parameter_is_the_dataclass() -> None:
    assert schema.settings(with_settings) == ("settings", (Settings,), False)
    assert schema.settings(optional_settings) == ("settings", (Settings, Part), True)
    assert schema.settings(flags_only) is None
    assert schema.settings(with_words) is None


def test_words_without_a_flag_have_the_name_of_their_parameter() -> None:
    assert schema.words(with_words) == "topic"
    assert schema.words(with_settings) is None and schema.words(flags_only) is None


@pytest.mark.parametrize(
    ("verb", "names"), [(with_settings, ["dry"]), (optional_settings, ["dry"]), (flags_only, ["output", "names"]), (with_words, ["plain"])]
)
def test_options_are_the_other_parameters(verb: Callable[..., None], names: list[str]) -> None:
    assert list(schema.options(verb)) == names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model", str),
        ("inner.rate", float),
        ("maybe.kind", Literal["a", "b"]),
        ("extra.anything", float),
        ("named.first.rate", float),
        ("named.first.speed", None),
        ("dry", bool),
        ("inner.speed", None),
        ("speed", None),
        ("model.size", None),
    ],
)
def test_dotted_names_are_followed_into_dataclasses(name: str, kind: Any) -> None:
    assert schema.find(KNOWN, name) == kind


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (list[str], True),
        (list[str] | None, True),
        (tuple[str, ...], True),
        (Sequence[Path], True),
        (str, False),
        (str | list[str], False),
        (None, False),
    ],
)
def test_lists_are_what_nothing_else_will_do_for(kind: Any, answer: bool) -> None:
    assert schema.is_list(kind) == answer


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (Literal["a", "b"], "one of a, b"),
        (list[str], "a list of texts"),
        (tuple[Inner, ...], "a list, each a mapping with the keys rate, kind"),
        (Inner, "a mapping with the keys rate, kind"),
        (dict[str, int], "a mapping"),
        (Path | None, "a path or null"),
    ],
)
def test_types_are_told_in_words(kind: Any, words: str) -> None:
    assert schema.describe(kind) == words


def test_a_near_name_is_proposed_and_otherwise_all_are_listed() -> None:
    assert schema.closest("max-new-tokens", ["max_new_tokens", "prompt"]) == "did you mean max_new_tokens?"
    assert schema.closest("zzz", ["prompt", "seed"]) == "there are prompt, seed"
    assert schema.closest("zzz", ["prompt"]) == "there is prompt"


def test_required_fields_have_no_default() -> None:
    assert schema.required(Settings) == ["model"]
    assert schema.required(Part | None) == ["path"]
    assert schema.required(Inner) == []
    assert schema.required(Part | Settings) == []
    assert schema.required(str) == []


def test_of_several_unknown_names_only_the_last_is_told_all_that_there_are() -> None:
    assert schema.closest_each(["xyz", "rat", "qqq"], ["rate", "kind"], prefix="--") == [
        "",
        ": did you mean --rate?",
        ": there are --rate, --kind",
    ]


def test_names_of_another_program_are_none_of_ours() -> None:
    ours = {name for verb in program.VERBS.values() for name in schema.options(verb)}
    for verb in program.VERBS.values():
        if found := schema.settings(verb):
            ours |= {name for kind in found.kinds for name in schema.fields(kind)}
    assert not schema.OTHERS & ours


def test_one_such_name_may_be_a_slip_and_very_many_are_not_listed() -> None:
    assert schema.of_another_program(["lora_rank", "stepps"]) is None
    said = schema.of_another_program(sorted(schema.OTHERS))
    assert said is not None and f" and {len(schema.OTHERS) - schema.FEW} more" in said
