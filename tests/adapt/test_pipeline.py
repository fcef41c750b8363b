"""The whole road once; then nothing twice, and of a change only what depends on it."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax import files
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import pipeline, steps, summary
from zhllama_jax.convert import verify
from zhllama_jax.eval import report_html
from zhllama_jax.train import config as train_config
from zhllama_jax.train import guard

CHAPTERS = [
    "Vocabulary",
    "Bits per character of held-out text",
    "Answers to held-out instructions",
    "Instructions followed",
    "Speed of generation",
    "Training",
    "Samples",
    "Check of the exported directory",
    "Time",
]


def did(said: list[str]) -> list[str]:
    """The names of the steps that were done, in order; the others said that they were done before."""
    return [line.split()[1] for line in said if line.endswith(" …")]


def content(folder: Path) -> dict[str, tuple[int, str]]:
    """When each file of a folder was written, and what it holds."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, files.sha256(path)) for path in folder.rglob("*") if path.is_file()
    }


def test_every_step_is_done_once_in_the_order_of_the_plan(done: Any) -> None:
    names = [step.name for step in pipeline.plan(done.config)]
    assert did(done.said) == names == list(done.records)
    assert len(done.said) == 2 * len(names)
    assert all(re.fullmatch(rf"\[\d+/{len(names)}\] \w+( …|: done in [\d.]+ s)", line) for line in done.said)


def test_what_needs_no_weights_comes_before_the_first_training(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    """So a row that fits nowhere, or a vocabulary that is too large, is found before the base is trained."""
    names = [step.name for step in pipeline.plan(recipe)]
    first = names.index("english")
    assert names[:first] == [
        *("base_tokenizer", "added_tokenizer", "tokenizer"),
        *("rows_old_english", "rows_old_chinese", "rows_new_chinese", "rows_new_instructions"),
    ]
    assert names[first + 1] == "resized"
    assert not [name for name in names[first:] if name.startswith("rows_") or name.endswith("tokenizer")]

    said: list[str] = []
    short = dataclasses.replace(recipe, output=str(tmp_path / "run"), sequence_length=32)
    with pytest.raises(ValueError, match=r"no row is left to train on: .* rows have a prompt that fills 32 tokens: raise length"):
        pipeline.run(short, say=said.append)
    assert did(said) == names[:first]


def test_measuring_leaves_no_empty_folders(done: Any) -> None:
    folders = {path.name for path in (Path(done.config.output) / "steps").iterdir()}
    assert not {"ngram", "generation", "check"} & folders and not any(name.startswith("measure_") for name in folders)
    assert {"english", "tune", "tokenizer"} <= folders


def test_the_report_shows_every_chapter_with_the_records_figures(done: Any) -> None:
    output = Path(done.config.output)
    assert done.report == output / "report.md"
    text = done.report.read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == CHAPTERS
    figures = files.read_json(output / "report.json", what="the figures")
    assert figures == summary.collect(done.config, done.records)
    for name in ("resized", "pretrain", "tune"):
        bits = [score["bits_per_character"] for score in done.before[f"measure_{name}"]["texts"].values()]
        assert f"| {name} | {' | '.join(f'{value:.3f}' for value in bits)} |" in text
    assert all((output / picture).is_file() for picture in re.findall(r"\((plots/.*?)\)", text))
    page = (output / "report.html").read_text("utf-8")
    assert page == report_html.page(figures)
    assert len(re.findall("<section ", page)) == 10, "no chapter is missing"


def test_a_second_run_does_nothing(done: Any) -> None:
    output = Path(done.config.output)
    before, report = content(output), done.report.read_text("utf-8")
    said: list[str] = []
    pipeline.run(done.config, say=said.append)
    assert did(said) == [] and len(said) == len(done.records)
    assert all(line.endswith(": done before") for line in said)
    assert done.report.read_text("utf-8") == report
    after = content(output)
    rewritten = {name for name in before if after[name] != before[name]}
    assert set(after) == set(before)
    assert all(name.startswith(("report.", "plots/", "config.yaml", ".lock")) for name in rewritten)


def test_another_rate_of_the_last_training_redoes_what_follows_from_it(done: Any, tmp_path: Path) -> None:
    """In a copy of the output, which shows that an output can be moved."""
    shutil.copytree(done.config.output, tmp_path / "run")
    *former, last = done.config.trainings
    faster = dataclasses.replace(last, optimizer=dataclasses.replace(last.optimizer, learning_rate=0.05))
    config = dataclasses.replace(done.config, output=str(tmp_path / "run"), trainings=(*former, faster))
    before = content(tmp_path / "run")
    said: list[str] = []
    pipeline.run(config, say=said.append)
    redone = ["tune", "model", "measure_tune", "generation", "check"]
    assert did(said) == redone

    records = type(done)(config, said, done.report).records
    assert {name for name, record in records.items() if record.key != done.records[name].key} == set(redone)
    assert {name for name, record in records.items() if record != done.records[name]} == set(redone)
    assert records["measure_tune"].figures["texts"] != done.before["measure_tune"]["texts"]
    assert records["check"].figures["report"]["logits"]["max_abs"] < 1e-4
    after = content(tmp_path / "run")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    own = ("steps/tune/", "model/", "report.", "plots/", "config.yaml", ".lock", *(f".steps/{name}." for name in redone))
    assert [name for name in sorted(changed) if not name.startswith(own)] == []


Change = Callable[[config_lib.Adapt], config_lib.Adapt]
TRAININGS = {"embeddings", "pretrain", "tune"}
EXPORTED = {"model", "generation", "check"}


def training(place: int, **fields: Any) -> Change:
    """Changes one training."""

    def change(config: config_lib.Adapt) -> config_lib.Adapt:
        trainings = list(config.trainings)
        trainings[place] = dataclasses.replace(trainings[place], **fields)
        return dataclasses.replace(config, trainings=tuple(trainings))

    return change


def part(name: str, **fields: Any) -> Change:
    """Changes fields of one part of the configuration."""
    return lambda config: dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **fields)})


def redone(config: config_lib.Adapt, change: Change, output: Path) -> set[str]:
    """The steps that a change makes the pipeline do again; the steps themselves do nothing here."""

    def go(config: config_lib.Adapt) -> list[str]:
        said: list[str] = []
        idle = [dataclasses.replace(step, run=lambda folder, before: {}) for step in pipeline.plan(config)]
        steps.run(idle, output, said.append)
        return did(said)

    go(config)
    return set(go(change(config)))


def measured(*names: str) -> set[str]:
    return {f"measure_{name}" for name in names}


ALL_POINTS = measured("english", "resized", "embeddings", "pretrain", "tune", "baseline")
SCORES = ALL_POINTS | {"ngram", "generation"}


LATER = {"baseline", "pretrained", *EXPORTED}
REPACKED = {"rows_new_chinese", "rows_new_instructions"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda config: config, set()),
        (training(-1, checkpoint=train_config.Checkpoint(every=7)), set()),
        (training(-1, validation=train_config.Validation(every=7)), set()),
        (training(-1, validation=train_config.Validation(keep="best")), {"tune"} | EXPORTED | measured("tune")),
        (training(-1, steps=9), {"tune"} | EXPORTED | measured("tune")),
        (training(1, steps=9), {"pretrain", "tune"} | LATER | measured("pretrain", "tune", "baseline")),
        (training(0, steps=9), TRAININGS | LATER | measured(*TRAININGS, "baseline")),
        (
            training(0, texts={"chinese": 1.0, "english": 1.0}),
            TRAININGS | LATER | {"rows_new_english", "ngram"} | measured(*TRAININGS, "baseline"),
        ),
        (lambda config: dataclasses.replace(config, trainings=config.trainings[:-1]), EXPORTED),
        (
            lambda config: dataclasses.replace(config, trainings=config.trainings[:1]),
            {"baseline"} | EXPORTED | measured("embeddings", "baseline"),
        ),
        (part("vocabulary", init="mean"), TRAININGS | LATER | REPACKED | {"tokenizer", "resized"} | ALL_POINTS - measured("english")),
        (part("evaluation", max_new_tokens=9), SCORES | {"check"}),
        (
            lambda config: dataclasses.replace(config, dtype="bfloat16"),
            TRAININGS | LATER | SCORES | {"english", "resized"},
        ),
        (lambda config: dataclasses.replace(config, adapted="english"), {"generation"}),
    ],
)
def test_a_change_redoes_what_depends_on_it(recipe: config_lib.Adapt, tmp_path: Path, change: Change, expected: set[str]) -> None:
    assert redone(recipe, change, tmp_path) == expected


@pytest.mark.parametrize("which", ["instructions_held_out", "chinese_held_out"])
def test_other_held_out_content_is_measured_anew(recipe: config_lib.Adapt, small_world: Any, tmp_path: Path, which: str) -> None:
    """And what learns from text is done again where text is held out: no text may hold a document of it."""
    original: Path = getattr(small_world, which)
    other = tmp_path / original.name
    other.write_bytes(original.read_bytes().split(b"\n", 1)[1])

    def change(config: config_lib.Adapt) -> config_lib.Adapt:
        assert config.instructions is not None
        if which == "instructions_held_out":
            return dataclasses.replace(config, instructions=dataclasses.replace(config.instructions, validation_files=(str(other),)))
        chinese = dataclasses.replace(config.texts["chinese"], validation_files=(str(other),))
        return dataclasses.replace(config, texts=config.texts | {"chinese": chinese})

    found = redone(recipe, change, tmp_path / "run")
    assert found >= SCORES
    learned = {"base_tokenizer", "rows_old_english", "english", "added_tokenizer", "tokenizer", "embeddings", "pretrain", "baseline"}
    assert found & learned == (learned if which == "chinese_held_out" else set())


def test_a_given_base_is_read_and_not_made(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "weights").write_text("one")
    given = dataclasses.replace(recipe, base=config_lib.Base(model=str(tmp_path / "llama")))
    names = [step.name for step in pipeline.plan(given)]
    assert not {"base_tokenizer", "english", "rows_old_english"} & set(names)
    assert pipeline.evaluated(given) == ["base", "resized", "embeddings", "pretrain", "tune", "baseline"]

    def change(config: config_lib.Adapt) -> config_lib.Adapt:
        (tmp_path / "llama" / "weights").write_text("two")
        return config

    kept = {"added_tokenizer", "ngram"}
    assert redone(given, change, tmp_path / "run") == set(names) - kept


def test_what_is_not_wanted_is_no_step(recipe: config_lib.Adapt) -> None:
    bare = dataclasses.replace(
        recipe,
        trainings=recipe.trainings[:1],
        instructions=None,
        evaluation=config_lib.Evaluation(ngram=False, equal_compute=False, verify_with_transformers=False),
    )
    names = {step.name for step in pipeline.plan(bare)}
    assert not names & {"ngram", "baseline", "check", "pretrained", "measure_baseline", "rows_old_chinese", "rows_new_instructions"}


@pytest.mark.parametrize("held", ["notes.txt", "model/config.json", "config.yaml"])
def test_a_folder_that_no_pipeline_made_is_left_alone(recipe: config_lib.Adapt, held: str, tmp_path: Path) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("precious")
    with pytest.raises(ValueError, match="holds files that no run of this pipeline wrote: choose another output, or an empty folder"):
        pipeline.run(dataclasses.replace(recipe, output=str(tmp_path)), say=lambda line: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / held]


def test_a_start_that_fails_leaves_nothing(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    """Where a step would write over a text is found before the output is made."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    source = next(iter(recipe.texts["english"].files))
    moved = shutil.copy(source, tmp_path / "run" / "model" / "english.jsonl")
    texts = {**recipe.texts, "english": dataclasses.replace(recipe.texts["english"], files=(str(moved),))}
    with pytest.raises(ValueError, match=r"(is|holds|lies inside) .*read as an input"):
        pipeline.run(dataclasses.replace(recipe, texts=texts, output=str(tmp_path / "run")), say=lambda line: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [Path(moved)]


def test_a_report_of_former_settings_is_said_to_be_one_until_it_is_replaced(
    done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done.config.output, tmp_path / "run")
    former = dataclasses.replace(done.config, output=str(tmp_path / "run"))
    changed = dataclasses.replace(former, seed=done.config.seed + 1)
    note, report = tmp_path / "run" / pipeline.UNFINISHED, tmp_path / "run" / pipeline.REPORT
    before = report.read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    for config in (changed, changed, former):
        with monkeypatch.context() as patch:
            patch.setattr(steps, "run", interrupted)
            said: list[str] = []
            with pytest.raises(KeyboardInterrupt):
                pipeline.run(config, say=said.append)
        assert "report.md, report.html and the models are of former settings" in note.read_text("utf-8") and len(said) == 1
        assert said[0] == f"note: {tmp_path / 'run'}: {note.read_text('utf-8').rstrip('.' + chr(10))}"
        assert report.read_bytes() == before and (tmp_path / "run" / "config.yaml").read_text("utf-8") == config.to_yaml()
    pipeline.run(former, say=lambda line: None)
    assert not note.exists()


def test_two_processes_do_not_work_on_one_output(done: Any) -> None:
    with guard.lock(Path(done.config.output)), pytest.raises(ValueError, match=r"run is in use by process \d+"):
        pipeline.run(done.config, say=lambda line: None)


def test_an_exported_model_with_other_logits_ends_in_an_error_after_the_report(done: Any, tmp_path: Path) -> None:
    shutil.copytree(done.config.output, tmp_path / "run")
    record = tmp_path / "run" / ".steps" / "check.json"
    found = files.read_json(record, what="a record")
    found["figures"]["agrees"], found["figures"]["sentence"] = False, "They differ."
    files.write_json(record, found)
    with pytest.raises(ValueError, match=r"run/model gives other logits in transformers than here; see .*report\.md"):
        pipeline.run(dataclasses.replace(done.config, output=str(tmp_path / "run")), say=lambda line: None)
    assert "They differ." in (tmp_path / "run" / "report.md").read_text("utf-8")


def test_the_check_is_done_again_when_transformers_is_there(recipe: config_lib.Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(installed: bool) -> Any:
        monkeypatch.setattr(verify, "installed", lambda: installed)
        return next(step.settings for step in pipeline.plan(recipe) if step.name == "check")

    assert settings(True) != settings(False)


def test_the_resolved_settings_lie_beside_the_report(done: Any) -> None:
    assert (Path(done.config.output) / "config.yaml").read_text("utf-8") == done.config.to_yaml()
