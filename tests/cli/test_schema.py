"""Options read from signatures, and configuration files held against them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from zhllama_jax.cli import schema


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


def with_settings(settings: Settings, /, *, dry: bool = False) -> None:
    """Takes a dataclass and a flag."""


def optional_settings(settings: Settings | None, /, *, dry: bool = False) -> None:
    """Takes a dataclass only if there is a file."""


def flags_only(*, output: Path, names: list[str] | None = None) -> None:
    """Takes flags."""


KNOWN = {**schema.fields(Settings), **schema.options(with_settings)}


def test_the_positional_parameter_is_the_dataclass() -> None:
    assert schema.settings(with_settings) == ("settings", Settings, False)
    assert schema.settings(optional_settings) == ("settings", Settings, True)
    assert schema.settings(flags_only) is None


@pytest.mark.parametrize(("verb", "names"), [(with_settings, ["dry"]), (optional_settings, ["dry"]), (flags_only, ["output", "names"])])
def test_options_are_the_other_parameters(verb: Callable[..., None], names: list[str]) -> None:
    assert list(schema.options(verb)) == names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model", str),
        ("inner.rate", float),
        ("maybe.kind", Literal["a", "b"]),
        ("extra.anything", float),
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


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_good_file_passes(tmp_path: Path) -> None:
    text = "model: m\ninner: {rate: 1e-3}\nmaybe:\nparts:\n- path: a\n- {path: b, weight: 2}\nextra: {x: 1}\ndry: true\n"
    schema.check_file(write(tmp_path / "good.yaml", text), KNOWN)


def test_all_bad_keys_are_named_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", "modle: m\ninner:\n  rate: 1\n  speed: 2\nparts:\n- pth: a\ninner: {}\n")
    with pytest.raises(schema.UsageError) as caught:
        schema.check_file(path, KNOWN)
    assert str(caught.value).split("; ") == [
        f"{path}:1: unknown key 'modle': did you mean model?",
        f"{path}:4: unknown key 'speed' in inner: there are rate, kind",
        f"{path}:6: unknown key 'pth' in parts.0: did you mean path?",
        f"{path}:7: the key 'inner' stands twice",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\n inner: {", ":2: not YAML"),
        ("model: [", "not YAML"),
        ("just words", "must hold `key: value` lines"),
        ("", "must hold `key: value` lines"),
        (b"model: \xff\xfe", "not UTF-8"),
        ("a: !!python/object/apply:os.system [ls]", "unknown key 'a'"),
        (b"#" * (schema.MAX_BYTES + 1), "too many"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(schema.UsageError, match=message):
        schema.check_file(write(tmp_path / "bad.yaml", text), KNOWN)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml not found"):
        schema.check_file("nowhere.yaml", KNOWN)
