"""`--preset`: a flag goes before the file, the file before the preset, the preset before the default."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import flags, presets, program, schema
from zhllama_jax.train import config as train_config
from zhllama_jax.train import machines

TRAIN = """
model: m
output: o
steps: 1
data: {sources: [{store: s}]}
"""

ADAPT = """
output: o
texts: {chinese: {files: [b.txt], held_out: 0.1}}
base: {model: m}
vocabulary: {added: [zh.model]}
trainings:
- {name: rows, texts: {chinese: 1}, stage: {preset: embeddings}, steps: 1, micro_batch: 3}
- {name: adapters, texts: {chinese: 1}, stage: {preset: pretrain_lora}, steps: 1}
"""


def read(verb: str, file: Path, *words: str) -> Any:
    [made], named = flags.parse(verb, program.VERBS[verb], ["--config", str(file), *words])
    assert "preset" not in named
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(TRAIN)
    return path


def test_a_preset_fills_what_nobody_said(file: Path) -> None:
    plain, filled = read("train", file), read("train", file, "--preset", "v5e-8")
    assert (plain.dtype, plain.remat, plain.micro_batch, plain.mesh) == ("float32", "dots", None, train_config.Mesh(-1, 1, 1))
    assert (filled.dtype, filled.remat, filled.micro_batch, filled.mesh) == ("bfloat16", "full", 8, train_config.Mesh(1, -1, 1))


@pytest.mark.parametrize("given", ["dtype", "remat", "micro_batch"])
def test_flag_before_file_before_preset_before_default(given: str, file: Path) -> None:
    of_file = {"dtype": "float32", "remat": "dots", "micro_batch": "5"}[given]
    of_flag = {"dtype": "bfloat16", "remat": "none", "micro_batch": "7"}[given]
    file.write_text(TRAIN + f"preset: h200\n{given}: {of_file}\n")
    assert str(getattr(read("train", file), given)) == of_file
    for words in ([f"--{given}", of_flag], [f"--{given}={of_flag}"]):
        made = read("train", file, *words)
        assert str(getattr(made, given)) == of_flag
        others = {name: value for name, value in machines.fields("h200").items() if name not in (given, "mesh")}
        assert {name: getattr(made, name) for name in others} == others


def test_what_a_preset_means_is_said_once_to_who_leaves_the_dtype_to_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = f"preset colab-t4: {machines.MACHINES['colab-t4'].note}\n"
    for words, said in ((["--preset", "colab-t4"], 1), (["--preset", "colab-t4", "--dtype", "float32"], 0), (["--preset", "h200"], 0)):
        assert program.run(["train", "--config", str(file), *words]) == 1, "there is no such model"
        assert capsys.readouterr().err.count(note) == said
    assert program.run(["train", "--config", str(file), "--preset", "colab-t4", "--print_config"]) == 0
    assert note not in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "text"), [("train", TRAIN), ("adapt", ADAPT)])
def test_a_preset_of_another_machine_is_remarked_on_a_cpu(verb: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    for name, said in (("h200", 1), ("cpu", 0)):
        assert program.run([verb, "--config", str(file), "--output", str(tmp_path / "o"), "--preset", name]) == 1, "files are missing"
        assert capsys.readouterr().err.count("a CPU has no fast bfloat16: --preset cpu is for it") == said


def test_a_file_names_a_preset_and_a_flag_another(file: Path) -> None:
    file.write_text(TRAIN + "preset: h200\n")
    assert read("train", file).micro_batch == machines.MACHINES["h200"].micro_batch
    assert read("train", file, "--preset=v5e-8").micro_batch == machines.MACHINES["v5e-8"].micro_batch
    assert read("train", file, "--preset", "cpu").mesh == train_config.Mesh()


@pytest.mark.parametrize(
    ("axes", "mesh"),
    [
        ({"tensor": 2}, (1, -1, 2)),
        ({"data": 2}, (2, -1, 1)),
        ({"fsdp": 4}, (1, 4, 1)),
        ({"data": -1}, (-1, 1, 1)),
        ({"data": -1, "fsdp": 2}, (-1, 2, 1)),
        ({"data": -1, "fsdp": 1, "tensor": 2}, (-1, 1, 2)),
    ],
)
@pytest.mark.parametrize("form", ["flags", "mapping", "file", "both"])
def test_an_axis_that_is_named_leaves_the_others_to_the_preset(
    form: str, axes: dict[str, int], mesh: tuple[int, int, int], file: Path
) -> None:
    """Only one axis may take what is left: the user's, where `data: -1` meets the preset's `fsdp: -1`."""
    words = [f"--mesh.{axis}={size}" for axis, size in axes.items()]
    if form in ("file", "both"):
        named = dict(list(axes.items())[: len(axes) if form == "file" else 1])
        file.write_text(TRAIN + f"mesh: {json.dumps(named)}\n")
        words = words[len(named) :]
    words = [f"--mesh={json.dumps(axes)}"] if form == "mapping" else words
    assert read("train", file, "--preset", "v5e-8", *words).mesh == train_config.Mesh(*mesh)


def test_a_mesh_that_is_no_yaml_is_refused_in_a_sentence(file: Path) -> None:
    with pytest.raises(schema.UsageError, match="--mesh"):
        read("train", file, "--preset", "v5e-8", "--mesh", "{tensor")


def test_the_result_can_be_shown_and_read_again(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("train", file, "--preset", "v5e-8", "--remat", "dots", "--print_config")
    shown = capsys.readouterr().out
    values = yaml.safe_load(shown)
    assert (values["dtype"], values["remat"], values["micro_batch"], values["mesh"]["fsdp"]) == ("bfloat16", "dots", 8, -1)
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert read("train", again) == read("train", file, "--preset", "v5e-8", "--remat", "dots")


def test_a_pipeline_passes_it_to_every_training(tmp_path: Path) -> None:
    path = tmp_path / "adapt.yaml"
    path.write_text(ADAPT)
    made = read("adapt", path, "--preset", "v5e-8")
    assert isinstance(made, adapt_config.Adapt)
    rows, adapters = (made.computing(one) for one in made.trainings)
    assert (rows["micro_batch"], adapters["micro_batch"]) == (3, 8), "a training's own goes before the preset"
    for shared in (rows, adapters):
        assert (shared["dtype"], shared["remat"], shared["mesh"]) == ("bfloat16", "full", train_config.Mesh(1, -1, 1))


def test_an_unknown_preset_is_refused(file: Path) -> None:
    with pytest.raises(schema.UsageError, match=r"--preset: expected one of cpu, colab-t4, .* got 'v5e-9'"):
        read("train", file, "--preset", "v5e-9")
    file.write_text(TRAIN + "preset: v5e-9\n")
    with pytest.raises(schema.UsageError, match=r"train.yaml:6: preset: expected one of cpu, colab-t4, .* got 'v5e-9'"):
        read("train", file)


def test_only_what_reads_a_training_has_presets() -> None:
    with_presets = {name for name, verb in program.VERBS.items() for kind in _kinds(verb) if presets.options(kind)}
    assert with_presets == {"train", "adapt", "stages", "data show"}


def _kinds(verb: Any) -> tuple[type, ...]:
    found = schema.settings(verb)
    return found.kinds if found else ()
