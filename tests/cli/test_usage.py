"""Help fits a screen, hides nothing that is needed, and its examples are commands that the program understands."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Literal, get_args

import pytest

from zhllama_jax.cli import flags, program, schema, usage

VERBS = list(program.VERBS)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How fast.

    Attributes:
      rate: the learning rate.
      decay: how
        much.
    """

    rate: float = 0.1
    decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows.

    Attributes:
      store: where they are.
    """

    store: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """A stage.

    Attributes:
      sources: what is read.
      optimizer: numbers.
    """

    sources: tuple[Source, ...]
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


def train(
    settings: Settings, /, *, output: Path, mode: Literal["safe", "fast"] = "safe", dry: bool = False, keep: bool = True, steps: int = 3
) -> None:
    """Trains one stage.

    At some length.

    Args:
      settings: see below.
      output: where to.
      mode: how.
      dry: only look.
      keep: keep it.
      steps: how many.

    Examples:
      zhllama train --config a.yaml
    """


def test_the_flags_that_are_needed_come_first_and_the_rest_say_their_defaults() -> None:
    lines = usage.screen("train", train).split("\n")
    assert lines[0] == "usage: zhllama train --sources SOURCES … --output PATH [--flag VALUE …]"
    assert lines[2:5] == ["Trains one stage.", "", "At some length."]
    shown = [line.split() for line in lines if line.startswith("  --")]
    assert [words[0] for words in shown] == ["--sources", "--output", "--optimizer.…", "--mode", "--dry", "--keep", "--steps"]
    assert shown[2][1:] == ["numbers:", "rate,", "decay"]
    assert shown[3] == ["--mode", "safe|fast", "how", "[safe]"]
    assert (
        shown[4] == ["--dry", "only", "look"]
        and shown[5][1:] == ["true|false", "keep", "it", "[true]"]
        and shown[6] == ["--steps", "N", "how", "many", "[3]"]
    )
    assert "  zhllama train --config a.yaml" in lines


def test_all_of_it_unfolds_the_sections() -> None:
    text = usage.whole("train", train)
    for name, said in {"--sources[].store STORE": "where they are", "--optimizer.rate X": "the learning rate [0.1]"}.items():
        assert any(line.startswith(f"  {name} ") and said in line for line in text.split("\n")), name
    assert "how much (a number or null)" in text


def test_one_section() -> None:
    assert usage.asked("train", train, ["--optimizer.help"]) == usage.section(train, "optimizer")
    assert [line.split()[0] for line in usage.section(train, "optimizer").split("\n")] == [
        "--optimizer.…",
        "--optimizer.rate",
        "--optimizer.decay",
    ]
    with pytest.raises(schema.UsageError, match=r"no flag --optimiser: did you mean optimizer\?"):
        usage.asked("train", train, ["--optimiser.help"])


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_every_verb_fits_a_screen(name: str) -> None:
    lines = usage.screen(name, program.VERBS[name]).split("\n")
    assert len(lines) <= usage.LINES and max(map(len, lines)) <= usage.COLUMNS


@pytest.mark.parametrize("name", VERBS)
def test_it_leaves_no_flag_out(name: str) -> None:
    verb = program.VERBS[name]
    screen, whole = usage.screen(name, verb), usage.whole(name, verb)
    for flag in usage.of_verb(verb):
        assert f"--{flag.name}" in screen, flag.name
        assert flag.text.rstrip(".").split(" ")[0] in whole, flag.name
    assert max(map(len, whole.split("\n"))) <= usage.COLUMNS


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_shows_examples_that_it_understands(name: str, repository: Path) -> None:
    verb = program.VERBS[name]
    examples = usage.read(verb.__doc__).examples
    assert 1 <= len(examples) <= 3
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        found, rest = program.find(words[1:])
        assert words[0] == "zhllama" and found == name
        for number, word in enumerate(rest):
            if rest[number - 1] == "--config" and not (repository / word).is_file():
                break  # a file that the reader writes
        else:
            if any(word.startswith("-") for word in rest):
                flags.parse(name, verb, [str(repository / word) if word.startswith("configs/") else word for word in rest])


def test_help_is_answered_before_anything_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["resize", "--model", "nowhere", "--nonsense", "--help"]) == 0
    assert capsys.readouterr().out == usage.screen("resize", program.VERBS["resize"]) + "\n"
    assert program.run(["resize", "--help_all"]) == 0
    assert capsys.readouterr().out == usage.whole("resize", program.VERBS["resize"]) + "\n"


@pytest.mark.parametrize("names", [(), [name for name in VERBS if name.startswith("evaluate ")]])
def test_the_table_of_verbs_fits_a_screen(names: list[str]) -> None:
    lines = program.overview(names).split("\n")
    assert len(lines) <= usage.LINES and max(map(len, lines)) <= usage.COLUMNS


def test_one_name_means_one_thing_everywhere() -> None:
    """A flag of the same name has the same type in every verb that has it, up to being left out or given several times."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for name in VERBS:
        for option, hint in schema.options(program.VERBS[name]).items():
            inner = schema.element(hint) or hint
            kind = schema.describe(inner).removesuffix(" or null")
            kinds.setdefault(option, {}).setdefault(kind, []).append(name)
    different = {option: found for option, found in kinds.items() if len(found) > 1}
    assert set(different) <= {"input", "text", "dtype", "to"}, different
    models, all_formats = (set(get_args(schema.options(program.VERBS[name])["to"])) for name in ("merge", "convert"))
    assert all_formats == models | {"peft"}, "the formats of models, and where adapters are read too, theirs"


def test_a_section_of_what_only_a_file_brings_is_explained_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["stages", "--preset.help"], "v5e-16"), (["stages", "--optimizer.help"], "--optimizer.learning_rate")):
        assert program.run(words) == 0
        assert said in capsys.readouterr().out
    assert "--rank N" in usage.section(program.VERBS["stages"], "rank")


def test_a_conversation_has_no_flags_of_several_prompts() -> None:
    names = {verb: [flag.name for flag in usage.of_verb(program.VERBS[verb])] for verb in ("chat", "generate")}
    assert "batch_size" in names["generate"] and "batch_size" not in names["chat"]
    texts = {flag.name: flag.text for flag in usage.of_verb(program.VERBS["generate"])}
    assert texts["temperature"] and texts["batch_size"]


def test_what_is_none_in_python_is_called_null() -> None:
    """So it is written in a file and behind a flag."""
    for name, verb in program.VERBS.items():
        assert not re.search(r"\bNone\b", usage.whole(name, verb)), name
