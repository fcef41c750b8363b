"""Faults of a configuration file, each with its line, before anything is built."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from zhllama_jax.cli import configuration, schema


@dataclasses.dataclass(frozen=True)
class Inner:
    """Nested settings."""

    rate: float = 0.1
    kind: Literal["a", "none"] | None = None
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """An element of a list."""

    path: str
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a verb is given."""

    model: str | Part
    inner: Inner = Inner()
    parts: tuple[Part, ...] = ()
    named: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    output: Path | None = None
    dry: bool = False


KNOWN = schema.fields(Settings)


def problems(text: str, tmp_path: Path) -> list[str]:
    """What is said of a file with this text, without the file's name."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(schema.UsageError) as caught:
        configuration.check(str(path), KNOWN)
    return [part.removeprefix(f"{path}:") for part in str(caught.value).split("; ")]


@pytest.mark.parametrize(
    "text",
    [
        "model: m\ninner: {rate: 1e-3, kind: none, steps: 7}\nparts:\n- path: a\n- {path: b, weights: {x: 2, y: 0.5}}\ndry: true\n",
        "model: {path: p}\noutput: runs/1\nnamed: {first: {rate: .inf}, second: {}}\n",
        "model: 7\ninner: {kind: null}\noutput:\n",
        "dry: false\n",
    ],
)
def test_a_good_file_passes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(text)
    configuration.check(str(path), KNOWN)


def test_all_bad_keys_are_named_with_their_lines(tmp_path: Path) -> None:
    assert problems("modle: m\ninner:\n  rate: 1\n  stepps: 2\nparts:\n- pth: a\ninner: {}\nnamed:\n  x: {rat: 1}\n", tmp_path) == [
        "1: unknown key 'modle': did you mean model?",
        "4: unknown key 'stepps' in inner: did you mean steps?",
        "6: unknown key 'pth' in parts[0]: did you mean path?",
        "6: parts[0] lacks path",
        "7: the key 'inner' stands twice",
        "9: unknown key 'rat' in named.x: did you mean rate?",
    ]


def test_where_nothing_resembles_the_keys_are_listed_once(tmp_path: Path) -> None:
    assert problems("model: m\nxyz: 1\nabc: 2\ninner: {qqq: 1}\n", tmp_path) == [
        "2: unknown key 'xyz'",
        "3: unknown key 'abc': there are model, inner, parts, named, output, dry",
        "4: unknown key 'qqq' in inner: there are rate, kind, steps",
    ]


LLAMA_FACTORY = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
overwrite_cache: true
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
plot_loss: true
per_device_train_batch_size: 1
learning_rate: 1.0e-4
bf16: true
"""
AXOLOTL = """
base_model: b
datasets:
- {path: p, type: alpaca}
adapter: lora
sequence_len: 1024
lora_r: 8
micro_batch_size: 2
output_dir: o
"""


@pytest.mark.parametrize(
    ("text", "named", "more"),
    [
        (LLAMA_FACTORY, "model_name_or_path, do_train, finetuning_type, ", " and 2 more"),
        (AXOLOTL, "base_model, datasets, sequence_len", ""),
    ],
)
def test_a_file_of_another_program_gets_one_list_and_the_page(text: str, named: str, more: str, tmp_path: Path) -> None:
    known = {**KNOWN, "stage": str, "adapter": str}
    (tmp_path / "theirs.yaml").write_text(text)
    with pytest.raises(schema.UsageError) as caught:
        configuration.check(str(tmp_path / "theirs.yaml"), known)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'theirs.yaml'} is written for another program: {named}")
    assert said.endswith(f"{more} mean nothing here; `zhllama help migrate` says what replaces each")
    assert len(said) < 400 + len(str(tmp_path)) and "stage" not in said and "did you mean" not in said


def test_a_time_of_day_is_asked_for_in_quotes(tmp_path: Path) -> None:
    """YAML 1.1 reads 3:5 as 185, which nobody means."""
    assert problems("model: 3:5", tmp_path) == ['1: model: YAML takes 3:5 for a time of day, so write "3:5" in quotes']
    (tmp_path / "quoted.yaml").write_text('model: "3:5"')
    configuration.check(str(tmp_path / "quoted.yaml"), KNOWN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {rate: fast}", "1: inner.rate: expected a number, got 'fast'"),
        ("inner: {steps: 1.5}", "1: inner.steps: expected a whole number, got '1.5'"),
        ("inner: {kind: b}", "1: inner.kind: expected one of a, none or null, got 'b'"),
        ("inner: 3", "1: inner: expected a mapping with the keys rate, kind, steps, got '3'"),
        ("dry: perhaps", "1: dry: expected true or false, got 'perhaps'"),
        ("parts: a", "1: parts: expected a list, each a mapping with the keys path, weights, got 'a'"),
        ("parts:\n- {path: p, weights: {zh: much}}", "2: parts[0].weights.zh: expected a number, got 'much'"),
        ("model: [a]", "1: model: expected a text or a mapping with the keys path, weights, got a list"),
        ("model:", "1: model: expected a text or a mapping with the keys path, weights, got ''"),
        ("named: {x: {}}\noutput: {}", "2: output: expected a path or null, got a mapping"),
    ],
)
def test_values_of_another_type_are_named_with_their_lines(text: str, message: str, tmp_path: Path) -> None:
    assert problems(text, tmp_path) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model: m\n inner: {", ":2: not YAML"),
        (b"model: [", "not YAML"),
        (b"just words", "must hold `key: value` lines"),
        (b"", "must hold `key: value` lines"),
        (b"model: \xff\xfe", "not UTF-8"),
        (b"model: !!python/object/apply:os.system [ls]", "expected a text or"),
        (b"#" * (configuration.MAX_BYTES + 1), "too many"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(schema.UsageError, match=message):
        configuration.check(str(path), KNOWN)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml not found"):
        configuration.check("nowhere.yaml", KNOWN)
