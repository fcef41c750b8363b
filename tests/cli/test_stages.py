"""The table of a stage, with the per cents of the paper."""

from pathlib import Path

import pytest

from zhllama_jax.cli import program
from zhllama_jax.convert import source
from zhllama_jax.tokenizer import processor


def last_line(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert program.run(["stages", *words.split()]) == 0
    return capsys.readouterr().out.strip().split("\n")[-1]


@pytest.mark.parametrize(
    ("words", "percent"),
    [
        ("--size 7b --stage embeddings", "2.9716"),
        ("--size 7b --stage pretrain_lora", "6.0576"),
        ("--size 7b --stage sft", "6.2154"),
        ("--size 13b --stage sft", "4.1026"),
    ],
)
def test_the_per_cents_of_the_paper(words: str, percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line(f"{words} --vocab_size 49953 --rank 8", capsys).endswith(f"({percent} %)")


def test_the_last_line_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line("--size micro --stage new_rows --vocab_size 32010", capsys).startswith("trainable 640 of ")


def test_an_unknown_size_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["stages", "--size", "8b"]) == 1
    assert "unknown model size '8b'" in capsys.readouterr().err


def test_a_model_s_own_shape_is_counted(base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hidden width is 32: of 340 rows as they stand, of 350 where so many are asked for."""
    assert last_line(f"--model {base_model} --stage embeddings", capsys).startswith("trainable 10,880 of ")
    assert last_line(f"--model {base_model} --vocab_size 350 --stage new_rows", capsys).startswith("trainable 640 of ")
    assert program.run(["stages", "--model", str(base_model), "--size", "7b"]) == 1
    assert "give one of --model, --size and --config" in capsys.readouterr().err


EXPERIMENT = """
model: {model}
data: {{sources: [{{store: none}}]}}
output: run
stage: {stage}
lora: {{rank: 4}}
steps: 1
"""

PIPELINE = """
output: {output}
texts: {{english: {{files: [a.txt]}}, chinese: {{files: [b.txt], held_out: 0.1}}}}
base:
  tokenizer: {{texts: [english], vocab_size: 1000, model_type: bpe}}
  init: {{size: micro}}
  training: {{name: start, texts: {{english: 1}}, stage: {{preset: full}}, steps: 1}}
vocabulary: {{added: {{texts: [chinese], vocab_size: 512}}}}
trainings:
- {{name: rows, texts: {{chinese: 1}}, stage: embeddings, steps: 1}}
- {{name: adapters, texts: {{chinese: 1}}, stage: {{preset: pretrain_lora}}, lora: {{rank: 2}}, steps: 1}}
"""


def test_a_training_file_names_its_model(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(EXPERIMENT.format(model=base_model, stage="sft"))
    assert program.run(["stages", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith("stage sft: 340 rows, ")
    found = last_line(f"--config {config}", capsys)
    vocab_size = source.load_config(base_model).vocab_size
    assert found == last_line(f"--size micro --vocab_size {vocab_size} --stage sft --rank 4", capsys)
    overridden = last_line(f"--config {config} --stage embeddings", capsys)
    assert overridden == last_line(f"--size micro --vocab_size {vocab_size} --stage embeddings", capsys)


def test_a_new_models_rows_are_its_tokenizers(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(EXPERIMENT.format(model=f"{{tokenizer: {english_pieces}, init: {{size: micro}}}}", stage="full"))
    assert last_line(f"--config {config}", capsys).endswith("(100.0000 %)")


def test_a_pipeline_shows_all_its_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(PIPELINE.format(output=tmp_path / "run"))
    assert program.run(["stages", "--config", str(config), "--vocab_size", "1500"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.split("\n") if " layers" in line and ":" in line] == ["start", "rows", "adapters"]
    assert out.count("trainable ") >= 3
    assert "does not exist yet" in err
    assert out.strip().split("\n")[-1] == last_line("--size micro --vocab_size 1500 --rank 2", capsys)


def test_a_pipelines_tokenizer_file_says_how_many_rows_its_base_has(
    english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "adapt.yaml"
    made = "{texts: [english], vocab_size: 1000, model_type: bpe}"
    config.write_text(PIPELINE.format(output=tmp_path / "run").replace(made, str(english_pieces)))
    assert program.run(["stages", "--config", str(config)]) == 0
    pieces = processor.Tokenizer.load(english_pieces).vocab_size
    assert capsys.readouterr().out.startswith(f"start: {pieces:,} rows, ")


def test_a_missing_model_of_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(EXPERIMENT.format(model="nowhere", stage="sft"))
    assert program.run(["stages", "--config", str(config)]) == 1
    assert "nowhere not found" in capsys.readouterr().err


def test_a_mixture_is_told_as_far_as_it_is_known(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    for shares, said in {
        ("", ""): "2 sources in proportion to their rows: one epoch reads each row of each once\n",
        (
            ", share: {weight: 3}",
            ", share: {weight: 1}",
        ): "2 sources by their weights: one 75.0 %, two 25.0 %; `zhllama data show --config`",
    }.items():
        sources = ", ".join(f"{{sft: {{files: [{name}.json]}}{share}}}" for name, share in zip(("one", "two"), shares, strict=True))
        config.write_text(f"model: {base_model}\noutput: o\nstage: sft\nepochs: 1\ndata: {{sources: [{sources}]}}\n")
        assert program.run(["stages", "--config", str(config)]) == 0
        assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rows new --rank 16", "its own flags say this: --stage.rows new --lora.rank 16"),
        ("--lora all", "--lora: expected a mapping with the keys rank, alpha, dropout, rslora, got 'all'"),
    ],
)
def test_flags_of_one_stage_are_not_passed_over_beside_a_file(
    words: str, said: str, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(EXPERIMENT.format(model=base_model, stage="sft"))
    assert program.run(["stages", "--config", str(config), *words.split()]) != 0
    assert said in capsys.readouterr().err


def test_a_files_stage_in_parts(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(EXPERIMENT.format(model=base_model, stage="sft"))
    vocab_size = source.load_config(base_model).vocab_size
    found = last_line(f"--config {config} --stage.rows none --stage.lora attention --lora.rank 3", capsys)
    assert found == last_line(f"--size micro --vocab_size {vocab_size} --stage sft --rows none --lora attention --rank 3", capsys)


@pytest.mark.parametrize("words", ["--stage sft", "--lora all", "--rows new", "--rank 8"])
def test_a_pipelines_stages_stand_in_its_file(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(PIPELINE.format(output=tmp_path / "run"))
    assert program.run(["stages", "--config", str(config), *words.split()]) == 1
    assert f"{words.split()[0]}: a pipeline's file says this for each of its trainings" in capsys.readouterr().err


def test_the_note_on_a_model_that_is_not_here_is_of_what_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["stages", "--config", "7b_sft"]) == 0
    assert "so the 7b that the recipe expects is counted" in capsys.readouterr().err
    assert program.run(["stages", "--config", "7b_sft", "--size", "13b"]) == 0
    out, err = capsys.readouterr()
    assert "40 layers" in out and "counted" not in err
