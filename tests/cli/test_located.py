"""Verbs and configurations that name models of the hub, on a server of this machine."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.reference import fake_hub
from zhllama_jax import hub
from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.adapt import inputs, pipeline
from zhllama_jax.cli import located, program
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config as train_config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def published(hub_server: fake_hub.Hub, base_model: Path) -> fake_hub.Hub:
    """The hub with a tiny model as team/tiny."""
    hub_server.add("team/tiny", base_model, tags=("v1",))
    return hub_server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line; (status, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (program.run(list(words)), *capsys.readouterr())

    return call


def cached(server: fake_hub.Hub, name: str = "team/tiny") -> str:
    """What a folder of the cache is called in records."""
    return f"{name}@{server.repositories[name].commit}"


def test_verbs_take_a_model_by_name_and_then_without_the_hub(published: fake_hub.Hub, base_model: Path, tmp_path: Path, run: Run) -> None:
    generate = ["--prompt", "The sea", "--temperature", "0", "--max_new_tokens", "4"]
    expected = run("generate", "--model", str(base_model), *generate)
    status, out, err = run("generate", "--model", "team/tiny", *generate)
    assert (status, out) == expected[:2]
    assert all(line.startswith("fetching team/tiny (commit ") for line in err.splitlines()) and err.count("\n") == 2
    published.close()
    assert run("generate", "--model", "team/tiny", *generate) == expected
    status, out, _ = run("verify", "--left", "team/tiny@v1")
    assert status == 1  # this revision was never asked for, and the hub is gone
    status, out, _ = run("verify", "--left", cached(published))
    assert (status, out.endswith("every file is as its manifest says\n")) == (0, True)
    assert run("verify", "--left", "team/tiny", "--right", str(base_model), "--logits", "false")[0] == 0


def test_a_model_is_grown_to_a_tokenizer_of_the_hub(
    published: fake_hub.Hub, base_model: Path, chinese_pieces: Path, tmp_path: Path, run: Run
) -> None:
    published.repositories["team/zh"] = fake_hub.Repository({"vocabulary/zh.model": chinese_pieces.read_bytes()})
    merged = tmp_path / "merged" / "tokenizer.model"
    words = ["--base", "team/tiny", "--added", "team/zh/vocabulary/zh.model", "--output", str(merged), "--proof_strings", "10"]
    assert run("tokenizer", "merge", *words)[0] == 0
    assert published.fetched() == ["team/tiny/tokenizer.model", "team/zh/vocabulary/zh.model"]
    published.add("team/merged", merged.parent)
    assert run("resize", "--model", "team/tiny", "--tokenizer", "team/merged", "--output", str(tmp_path / "by_name"))[0] == 0
    assert run("resize", "--model", str(base_model), "--tokenizer", str(merged), "--output", str(tmp_path / "by_path"))[0] == 0
    assert run("verify", "--left", str(tmp_path / "by_name"), "--right", str(tmp_path / "by_path"), "--logits", "false")[0] == 0


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(published: fake_hub.Hub, run: Run) -> None:
    files = {**published.repositories["team/tiny"].files, "config.json": b'{"model_type": "qwen2"}'}
    published.repositories["team/other"] = fake_hub.Repository(files)
    status, _, err = run("generate", "--model", "team/other", "--prompt", "x")
    assert (status, "describes model_type 'qwen2'" in err) == (1, True)
    assert not [file for file in published.fetched() if file.endswith(".safetensors")]


def test_an_output_that_is_taken_is_refused_before_anything_is_fetched(published: fake_hub.Hub, tmp_path: Path, run: Run) -> None:
    taken = tmp_path / "run" / "adapter" / "notes.txt"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    status, _, err = run("merge", "--model", "team/tiny", "--adapter", "team/lora", "--output", str(taken.parent))
    assert (status, f"{taken.parent} holds files and no zhllama.json" in err) == (1, True)
    config = tmp_path / "stage.yaml"
    config.write_text(TRAIN.format(output=tmp_path / "run", text=taken))
    status, _, err = run("train", "--config", str(config))
    assert (status, f"{taken.parent} holds files and no zhllama.json" in err) == (1, True)
    assert published.requests == []


def test_nothing_is_written_into_what_was_fetched(published: fake_hub.Hub, tmp_path: Path, run: Run) -> None:
    """By its name no input has a path yet when outputs are checked."""
    (tmp_path / "text.txt").write_text("江河都往海里流。")
    snapshot = hub.resolve("team/tiny", "model", say=lambda line: None)
    before = {path: path.resolve().read_bytes() for path in snapshot.iterdir()}
    for words in (
        ("convert", "--input", "team/tiny", "--output", snapshot / "converted"),
        ("convert", "--input", "team/tiny", "--output", snapshot),
        ("verify", "--left", "team/tiny", "--output", snapshot / "config.json"),
        ("evaluate", "perplexity", "--model", "team/tiny", "--text", tmp_path / "text.txt", "--output", snapshot / "figures.json"),
    ):
        status, _, err = run(*map(str, words), "--overwrite")
        assert (status, "lies in the cache of the Hugging Face hub, which is only read" in err) == (1, True)
    assert {path: path.resolve().read_bytes() for path in snapshot.iterdir()} == before


def test_a_model_that_a_recipe_does_not_expect_is_refused_before_its_weights_are_fetched(
    published: fake_hub.Hub, tmp_path: Path, run: Run
) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text(TRAIN.format(output=tmp_path / "run", text=tmp_path / "text.txt") + "expects: {size: 7b}\n")
    status, _, err = run("train", "--config", str(config))
    assert (status, "which this recipe expects: name another model" in err) == (1, True)
    assert not [file for file in published.fetched() if file.endswith(".safetensors")]


def test_a_refusal_is_one_line(published: fake_hub.Hub, run: Run) -> None:
    published.repositories["team/tiny"].gated = True
    status, out, err = run("generate", "--model", "team/tiny", "--prompt", "x")
    fetching, refusal = err.splitlines()
    assert (status, out, fetching.startswith("fetching team/tiny ")) == (1, "", True)
    assert refusal.startswith("zhllama: error: team/tiny is gated: accept its licence at http")


def test_figures_record_the_commit(published: fake_hub.Hub, tmp_path: Path, run: Run) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sea is never full.\n")
    assert run("evaluate", "perplexity", "--model", "team/tiny", "--text", str(text), "--output", str(tmp_path / "figures.json"))[0] == 0
    assert json.loads((tmp_path / "figures.json").read_text())["model"] == cached(published)


TRAIN = """
model: team/tiny
output: {output}
stage: embeddings
steps: 1
global_batch: 8
data: {{sources: [{{text: {{files: [{text}], length: 16}}}}]}}
"""


def test_a_training_records_the_commit_and_its_adapter_names_it(published: fake_hub.Hub, tmp_path: Path, run: Run) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sea is never full, and rivers run to it.\n\n" * 40)
    config = tmp_path / "stage.yaml"
    config.write_text(TRAIN.format(output=tmp_path / "run", text=text))
    status, _, err = run("train", "--config", str(config))
    assert status == 0, err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"] == cached(published)
    adapter = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert f"{adapter['base_model_name_or_path']}@{adapter['revision']}" == cached(published)
    published.add("team/lora", tmp_path / "run" / "adapter")
    words = ["--model", "team/tiny", "--adapter", "team/lora", "--output", str(tmp_path / "merged")]
    assert run("merge", *words)[0] == 0
    step = json.loads((tmp_path / "merged" / "zhllama.json").read_text())["history"][-1]
    assert (step["base"], step["adapters"][0]["name"]) == (cached(published), cached(published, "team/lora"))
    published.close()
    status, _, err = run("train", "--config", str(tmp_path / "run" / "config.yaml"))
    assert (status, "is finished" in err) == (0, True)


def test_stages_counts_from_the_shape_alone(published: fake_hub.Hub, tmp_path: Path, run: Run) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text(TRAIN.format(output=tmp_path / "run", text="text.txt"))
    assert run("stages", "--config", str(config))[0] == 0
    assert published.fetched() == ["team/tiny/config.json"]


def plan(tmp_path: Path, **base: str) -> adapt_config.Adapt:
    (tmp_path / "text.txt").write_text("从前有一座山。\n" * 8, encoding="utf-8")
    return adapt_config.Adapt(
        output=str(tmp_path / "run"),
        texts={"chinese": data_config.TextData(files=(str(tmp_path / "text.txt"),), held_out=0.1)},
        base=adapt_config.Base(**base),  # type: ignore[arg-type]
        vocabulary=adapt_config.Vocabulary(added=("team/zh/zh.model", "words.txt")),
        trainings=(adapt_config.Training("rows", {"chinese": 1.0}, train_config.Stage("embeddings"), steps=1),),
        sequence_length=16,
    )


def test_a_pipeline_gets_paths_and_reads_what_it_reads(published: fake_hub.Hub, chinese_pieces: Path, tmp_path: Path) -> None:
    """Files that another program adds to the same folder of the cache are no reason to do a step again."""
    published.repositories["team/zh"] = fake_hub.Repository({"zh.model": chinese_pieces.read_bytes()})
    found = located.pipeline(plan(tmp_path, model="team/tiny@v1"))
    assert found.vocabulary.added[1] == "words.txt"  # type: ignore[index]
    assert hub.id_of(found.vocabulary.added[0]) == f"team/zh/zh.model@{published.repositories['team/zh'].commit}"  # type: ignore[index]
    assert hub.id_of(str(found.base.model)) == cached(published)
    written = yaml.safe_load(found.to_yaml())
    assert written["base"]["model"] == cached(published)
    before = {step.name: list(step.reads) for step in pipeline.plan(found)}
    (Path(str(found.base.model)) / "flax_model.msgpack").write_text("fetched by somebody else")
    assert {step.name: list(step.reads) for step in pipeline.plan(found)} == before
    assert {Path(path).name for path in inputs.base_files(found)} >= {"config.json", "tokenizer.model", "model.safetensors"}
    assert located.pipeline(found) == found


def test_what_is_neither_here_nor_an_address_is_left_to_the_pipeline(tmp_path: Path) -> None:
    config = plan(tmp_path, model="llama")
    config = dataclasses.replace(config, vocabulary=dataclasses.replace(config.vocabulary, added=("words.txt",)))
    assert located.pipeline(config) == config
    with pytest.raises(FileNotFoundError, match="llama not found: no such folder here, and no hub id"):
        inputs.check(config)
