"""Words in, arguments out; and every complaint is one line in our words."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from zhllama_jax.cli import flags, schema
from zhllama_jax.cli import train as train_verb


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How fast.

    Attributes:
      rate: the learning rate.
    """

    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be at least 0, got {self.rate}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A stage.

    Attributes:
      model: where the model is.
      optimizer: how fast.
    """

    model: str
    optimizer: Optimizer = Optimizer()
    second: Optimizer | None = None
    files: tuple[str, ...] = ()


def train(settings: Settings, /, *, dry: bool = False) -> None:
    """Trains one stage."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Several stages."""

    output: str
    model: str = "m"


def table(settings: Settings | Pipeline | None, /, *, size: str = "7b", output: str = "o") -> None:
    """Shows a table."""


def generate(
    *,
    model: Path,
    prompt: list[str] | None = None,
    template: str | None = None,
    rows: Literal["none", "all"] | None = None,
    temperature: float | None = None,
    stop_ids: list[int] | None = None,
) -> None:
    """Continues prompts.

    At some length.

    Args:
      model: a directory.
      prompt: texts to continue.
    """


def keywords(verb: Callable[..., None], *words: str) -> dict[str, Any]:
    positional, named = flags.parse("verb", verb, words)
    assert positional == []
    return named


def test_values_get_their_types_and_absent_ones_their_defaults() -> None:
    got = keywords(generate, "--model", "m", "--temperature=0", "--stop_ids", "1", "2")
    assert got == {"model": Path("m"), "prompt": None, "template": None, "rows": None, "temperature": 0.0, "stop_ids": [1, 2]}


@pytest.mark.parametrize(
    "words",
    [
        ["--prompt", "one", "null", "--model", "m", "--prompt", '["3"]', "--prompt=--x", "--prompt=a=b"],
        ["--prompt=one", "--prompt=null", "--model=m", "--prompt", '["3"]', "--prompt=--x", "--prompt=a=b"],
    ],
)
def test_words_of_a_list_are_taken_as_they_are(words: list[str]) -> None:
    assert keywords(generate, *words)["prompt"] == ["one", "null", '["3"]', "--x", "a=b"]


@pytest.mark.parametrize(
    ("words", "dry"),
    [
        ([], False),
        (["--dry"], True),
        (["--dry", "true"], True),
        (["--dry", "false"], False),
        (["--dry=false"], False),
        (["--dry", "--optimizer.rate=1"], True),
    ],
)
def test_a_bare_switch_means_true(words: list[str], dry: bool) -> None:
    assert flags.parse("train", train, ["--model", "m", *words])[1] == {"dry": dry}


@dataclasses.dataclass(frozen=True)
class Sources:
    """What is read.

    Attributes:
      sources: corpora or names of them.
    """

    sources: tuple[Optimizer, ...]
    named: tuple[str | Optimizer, ...] = ()


def read(sources: Sources, /) -> None:
    """Reads."""


@pytest.mark.parametrize("words", [["{rate: 1}", "{rate: 2}"], ["[{rate: 1}, {rate: 2}]"], ['[{"rate": 1}, {"rate": 2}]']])
def test_mappings_stand_one_by_one_or_as_the_whole_list(words: list[str]) -> None:
    [got], _ = flags.parse("read", read, ["--sources", *words, "--named", "a, b: c", "{rate: 3}"])
    assert got == Sources((Optimizer(1.0), Optimizer(2.0)), ("a, b: c", Optimizer(3.0)))


def test_a_wrong_mapping_is_told_in_our_words() -> None:
    with pytest.raises(schema.UsageError, match=r"^--sources: expected a list, each a mapping with the keys rate, betas, got 'rows'$"):
        flags.parse("read", read, ["--sources", "rows"])


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text."""

    files: tuple[str, ...]
    clean: bool = False


def build(*, corpus: Corpus | None = None) -> None:
    """Builds."""


def test_lists_and_switches_of_a_section_are_as_short() -> None:
    got = keywords(build, "--corpus.files", "a.txt", "[b].txt", "--corpus.clean", "--corpus.files", "null")
    assert got == {"corpus": Corpus(("a.txt", "[b].txt", "null"), clean=True)}


def test_the_word_none_is_a_value_where_it_is_one() -> None:
    got = keywords(generate, "--model", "m", "--template", "none", "--rows", "none")
    assert (got["template"], got["rows"]) == ("none", "none")


def test_a_file_is_overridden_by_flags(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text("model: base\noptimizer: {rate: 1e-4}\nfiles: [a, b]\ndry: true\n")
    [settings], named = flags.parse("train", train, ["--config", str(config), "--optimizer.rate", "3", "--files", "c"])
    assert settings == Settings(model="base", optimizer=Optimizer(rate=3.0), files=("c",))
    assert named == {"dry": True}


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text("model: base\noptimizer: {rate: 1e-4, betas: [0.8, 0.9]}\n")
    [settings], _ = flags.parse("train", train, [f"--config={config}"])
    assert settings.optimizer == Optimizer(1e-4, (0.8, 0.9))


def test_an_optional_dataclass_exists_only_with_a_file(tmp_path: Path) -> None:
    assert flags.parse("table", table, ["--size", "13b"]) == ([None], {"size": "13b", "output": "o"})
    config = tmp_path / "stage.yaml"
    config.write_text("model: base\n")
    assert flags.parse("table", table, ["--config", str(config)]) == ([Settings("base")], {"size": "7b", "output": "o"})
    with pytest.raises(schema.UsageError, match="unknown flag --model"):
        flags.parse("table", table, ["--model", "base"])


def test_of_several_dataclasses_the_file_says_which(tmp_path: Path) -> None:
    config = tmp_path / "any.yaml"
    config.write_text("model: base\noutput: runs\n")
    assert flags.parse("table", table, ["--config", str(config)]) == ([Pipeline("runs", "base")], {"size": "7b"})
    assert flags.parse("table", table, ["--config", str(config), "--output", "else"]) == ([Pipeline("else", "base")], {"size": "7b"})
    config.write_text("model: base\nfiles: [a]\n")
    assert flags.parse("table", table, ["--config", str(config)])[0] == [Settings("base", files=("a",))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: --model"),
        (["--model", "m", "--promt", "x"], "unknown flag --promt: did you mean --prompt?"),
        (["--model", "m", "--temp", "1"], "unknown flag --temp: did you mean --template?"),
        (["--model", "m", "--temperature", "warm"], "--temperature: expected a number or null, got 'warm'"),
        (["--model", "m", "--rows", "some"], "--rows: expected one of none, all or null, got 'some'"),
        (["--model", "m", "--prompt"], "--prompt needs at least one value"),
        (["--model"], "--model needs a value"),
        (
            ["--base_model", "a", "--lora_model", "b", "--gpus", "0"],
            "this is written for another program: --base_model, --lora_model, --gpus mean nothing here; "
            "`zhllama help migrate` says what replaces each",
        ),
        (["--model", "m", "stray"], "unexpected: stray"),
        (["--model", "m", "lf_sft.yaml"], "unexpected: lf_sft.yaml (write --config lf_sft.yaml)"),
        (["--model", "m", "temperature=1"], "unexpected: temperature=1 (write --temperature 1)"),
        (["--model", "m", "other=1"], "unexpected: other=1"),
        (["--model", "m", "--stop_ids", "1", "x"], "--stop_ids: expected a list of whole numbers or null, got 'x'"),
    ],
)
def test_wrong_words_get_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("generate", generate, words)
    assert str(caught.value) == message


def test_a_field_without_its_section_is_told_where_it_belongs() -> None:
    """As users of programs with flat options write it, with two dashes or none."""
    for word, message in (
        ("--learning_rate=1e-4", "unknown flag --learning_rate: write --optimizer.learning_rate"),
        ("learning_rate=1e-4", "unexpected: learning_rate=1e-4 (write --optimizer.learning_rate 1e-4)"),
    ):
        with pytest.raises(schema.UsageError) as caught:
            flags.parse("train", train_verb.run, ["--model", "m", "--output", "o", "--data.sources", "{store: s}", "--steps", "1", word])
        assert str(caught.value) == message


def test_a_flag_of_one_value_stands_once(tmp_path: Path) -> None:
    """Which of the two was meant, nobody can know; words of a list flag add up, and files override each other in order."""
    with pytest.raises(schema.UsageError, match=r"^--temperature stands there 2 times: say it once$"):
        flags.parse("generate", generate, ["--prompt", "A", "--prompt", "B", "--model", "m", "--temperature", "1", "--temperature=2"])
    with pytest.raises(schema.UsageError, match=r"^--dry stands there 3 times: say it once$"):
        flags.parse("train", train, ["--model", "m", "--dry", "--dry", "--dry=false"])
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"model: {name}\n")
    [settings], _ = flags.parse("train", train, ["--config", str(tmp_path / "a"), "--config", str(tmp_path / "b")])
    assert settings.model == "b"


def test_a_wrong_value_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text("model: base\noptimizer: {rate: fast}\n")
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("train", train, ["--config", str(config)])
    assert str(caught.value) == f"{config}:2: optimizer.rate: expected a number, got 'fast'"


@pytest.mark.parametrize("place", ["optimizer", "second"])
def test_what_a_dataclass_refuses_is_told_in_its_words(place: str, tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text(f"model: base\n{place}: {{rate: -1}}\n")
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("train", train, ["--config", str(config)])
    assert str(caught.value) == f"{config}: rate must be at least 0, got -1.0"


def test_a_value_that_a_dataclass_refuses_is_told_with_the_line_of_its_key(tmp_path: Path) -> None:
    config = tmp_path / "b.yaml"
    config.write_text("model: base\ndata: {sources: [{store: rows}]}\nsteps: -60\noutput: runs\n")
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("train", train_verb.run, ["--config", str(config)])
    assert str(caught.value) == f"{config}:3: steps must be above 0, got -60"
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("train", train_verb.run, ["--config", str(config), "--steps", "-1"])
    assert str(caught.value) == "steps must be above 0, got -1", "the flag's value, not the file's"


def test_an_unknown_key_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text("model: base\noptimiser: {rate: 1}\n")
    with pytest.raises(schema.UsageError) as caught:
        flags.parse("train", train, ["--config", str(config)])
    assert str(caught.value) == f"{config}:2: unknown key 'optimiser': did you mean optimizer?"


def test_help_shows_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flags.parse("generate", generate, ["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: zhllama generate" in shown
    assert "At some length." in shown
    assert "texts to continue" in shown
    assert "Args:" not in shown


def test_help_on_a_dataclass_shows_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse("train", train, ["--help_all"])
    assert "the learning rate" in capsys.readouterr().out


def test_what_was_understood_can_be_printed_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse("train", train, ["--model", "base", "--optimizer.rate", "0.5", "--files", "a", "--print_config"])
    config = tmp_path / "again.yaml"
    config.write_text(capsys.readouterr().out)
    [settings], _ = flags.parse("train", train, ["--config", str(config)])
    assert settings == Settings("base", Optimizer(0.5), files=("a",))


@pytest.mark.parametrize("given", ["steps", "epochs", "tokens"])
@pytest.mark.parametrize("length", ["epochs: 3", "tokens: 4096", "steps: 500"])
def test_a_flag_of_a_trainings_length_takes_the_place_of_the_files(given: str, length: str, tmp_path: Path) -> None:
    """In whichever unit the file says it; two flags still contradict each other."""
    path = tmp_path / "train.yaml"
    path.write_text(f"model: m\noutput: o\ndata: {{sources: [{{store: s}}]}}\n{length}\n")
    for words in ([f"--{given}=14"], [f"--{given}", "14"]):
        [experiment], _ = flags.parse("train", train_verb.run, ["--config", str(path), *words])
        assert {name: getattr(experiment, name) for name in ("steps", "epochs", "tokens")} == {
            **dict.fromkeys(("steps", "epochs", "tokens")),
            given: 14,
        }
    with pytest.raises(schema.UsageError, match="name exactly one of steps, epochs and tokens"):
        flags.parse("train", train_verb.run, ["--config", str(path), "--steps=14", "--epochs=2"])


SHORT = "model: m\noutput: o\ndata: {sources: [{store: s}]}\nsteps: 1\n"


@pytest.mark.parametrize(
    ("line", "preset", "lora"),
    [("stage: sft", "sft", None), ("stage: {preset: sft, lora: attention}", "sft", "attention"), ("", "pretrain_lora", None)],
)
def test_a_part_of_a_stage_leaves_the_name_that_the_file_gives(
    line: str, preset: str, lora: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"{SHORT}{line}\n")
    words = ["--config", str(path), "--stage.rows", "new"]
    [experiment], _ = flags.parse("train", train_verb.run, words)
    assert (experiment.choice.preset, experiment.choice.lora, experiment.choice.rows) == (preset, lora, "new")
    with pytest.raises(SystemExit):
        flags.parse("train", train_verb.run, [*words, "--print_config"])
    path.write_text(capsys.readouterr().out)
    assert flags.parse("train", train_verb.run, ["--config", str(path)])[0] == [experiment]
    [other], _ = flags.parse("train", train_verb.run, [*words, "--stage.preset", "embeddings"])
    assert (other.choice.preset, other.choice.rows) == ("embeddings", "new")


def test_a_stage_is_named_or_set_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(SHORT)
    with pytest.raises(schema.UsageError, match=r"^--stage stands for all of it: beside --stage\.rows write --stage\.preset sft$"):
        flags.parse("train", train_verb.run, ["--config", str(path), "--stage", "sft", "--stage.rows", "new"])
    with pytest.raises(schema.UsageError, match=r"^missing: --tokenizer$"):
        flags.parse("train", train_verb.run, ["--config", str(path), "--model.init.size", "tiny"])
