"""Whole runs: what they leave, when they go on, and what they refuse. Kills and signals are in test_killed."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import host, manifest, peft, source
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config, feed, guard, log, loop


def experiment(base: Path, output: Path, small: dict, **changes) -> config.Experiment:
    return config.Experiment(**{**small, "model": str(base), "output": str(output), "stage": "pretrain_lora", **changes})


@pytest.fixture(scope="module")
def undisturbed(base, small, tmp_path_factory) -> dict:
    """The result of one LoRA run from beginning to end."""
    return loop.run(experiment(base, tmp_path_factory.mktemp("undisturbed"), small, steps=40, validation=config.Validation(every=0)))


def test_a_model_is_trained_from_random_weights(base) -> None:
    lines = log.read(base.parent)
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert losses[-1] < losses[0] - 0.5
    scores = [line["text"] for line in lines if line["kind"] == "validation"]
    assert len(scores) == 2 and scores[1]["bits_per_character"] < scores[0]["bits_per_character"]
    assert manifest.verify(base) == []
    assert host.load(base).params["norm"]["weight"].dtype == np.float32, "tiny models stay float32"


def test_a_stage_leaves_an_adapter_and_its_base_alone(base, undisturbed) -> None:
    (adapter,) = undisturbed["adapters"]
    loaded = peft.load(adapter)
    assert loaded.base_fingerprint == source.fingerprint(base) and not loaded.requires
    assert set(loaded.rows) == {"embed_tokens", "lm_head"}
    assert loaded.lora_config.rank == 2 and len(loaded.lora_config.targets) == 4
    assert all(np.any(leaf) for path, leaf in tree.flatten(loaded.lora).items() if path.endswith("/b")), "every factor has learnt"
    assert undisturbed["trainable"] < undisturbed["parameters"] and undisturbed["model"] == str(base)
    assert json.loads((Path(adapter).parent / "result.json").read_text()) == undisturbed


def test_a_finished_run_is_left_as_it_is(base, small, undisturbed) -> None:
    output = Path(undisturbed["adapters"][0]).parent
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    again = loop.run(experiment(base, output, small, steps=40, validation=config.Validation(every=0)))
    assert again == undisturbed
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"} == before


@pytest.fixture(scope="module")
def short(base, small, tmp_path_factory) -> config.Experiment:
    """Two steps on vocabulary rows, run; whoever breaks something there mends it."""
    output = tmp_path_factory.mktemp("short")
    chosen = experiment(base, output, small, stage="embeddings", steps=2, validation=config.Validation(every=0))
    loop.run(chosen)
    return chosen


@pytest.mark.parametrize("broken", ["adapter", "result", "not JSON", "of another run"])
def test_a_result_that_does_not_stand_is_written_again(short, broken) -> None:
    output = Path(short.output)
    written = (output / "adapter" / "adapter_model.safetensors").read_bytes()
    result = json.loads((output / "result.json").read_text())
    if broken == "adapter":
        shutil.rmtree(output / "adapter")
    elif broken == "result":
        (output / "result.json").unlink()
    else:
        (output / "result.json").write_text("{" if broken == "not JSON" else json.dumps({**result, "run": "0" * 64, "loss": -1.0}))
    again = loop.run(short)
    assert (again["adapters"], again["loss"]) == (result["adapters"], result["loss"])
    assert (output / "adapter" / "adapter_model.safetensors").read_bytes() == written
    assert json.loads((output / "result.json").read_text()) == again and manifest.verify(output / "adapter", "adapter") == []


def test_a_result_that_no_run_wrote_is_left_alone(base, small, tmp_path) -> None:
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "adapter" / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"run/adapter holds files and no zhllama\.json.* remove this one by hand"):
        loop.run(experiment(base, tmp_path / "run", small, stage="embeddings", steps=1))
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["adapter", "notes.txt"], "found before the work"


def test_a_finished_run_is_left_as_it_is_with_what_was_laid_beside(short, tmp_path) -> None:
    """A user's file among its results stops a run that would replace them, and none that has nothing to do."""
    output = tmp_path / "run"
    shutil.copytree(Path(short.output), output)
    again = dataclasses.replace(short, output=str(output))
    loop.run(again)
    (output / "adapter" / "notes.txt").write_text("precious")
    assert loop.run(again)["run"] == json.loads((output / "result.json").read_text())["run"]
    (output / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter holds .*notes\.txt"):
        loop.run(again)
    assert (output / "adapter" / "notes.txt").read_text() == "precious"


def test_a_run_that_begins_anew_has_no_former_result(short, tmp_path) -> None:
    shutil.copytree(Path(short.output) / "data", tmp_path / "data")
    shutil.copy(Path(short.output) / "result.json", tmp_path)
    wild = {"optimizer": config.Optimizer(learning_rate=1e30, clip_norm=0), "max_nonfinite": 1, "steps": 4}
    with pytest.raises(guard.Diverged):
        loop.run(dataclasses.replace(short, output=str(tmp_path), **wild))
    assert not (tmp_path / "result.json").exists()


def test_a_checkpoint_of_other_settings_is_refused(base, small, undisturbed) -> None:
    output = Path(undisturbed["adapters"][0]).parent
    other = experiment(base, output, small, steps=40, validation=config.Validation(every=0), optimizer=config.Optimizer(learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"another run: settings.optimizer.learning_rate was 0.01 and is 0.001. Choose another output"):
        loop.run(other)


def test_the_best_step_is_the_one_written(base, small, tmp_path, monkeypatch) -> None:
    """Scores are made up: the fourth of six steps wins, so what is written must be what a run of four steps writes."""
    constant = {
        "schedule": config.Schedule(kind="constant", warmup_steps=0),
        "stage": "embeddings",
        "checkpoint": config.Checkpoint(every=1, keep=1),
    }
    short = loop.run(experiment(base, tmp_path / "short", small, **{**constant, "steps": 4}))
    made_up = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(feed, "together", lambda scores: next(made_up))
    best = config.Validation(every=2, max_rows=4, keep="best")
    result = loop.run(experiment(base, tmp_path / "best", small, validation=best, **constant))
    assert result["validation_best"] == {"step": 4, "loss": 1.0}
    written = [Path(found["adapters"][0]) / "adapter_model.safetensors" for found in (result, short)]
    assert written[0].read_bytes() == written[1].read_bytes()
    kept = sorted(int(path.stem) for path in (tmp_path / "best" / "checkpoints" / "commits").iterdir())
    assert kept == [4, 6]
    for other in (config.Validation(every=2, max_rows=4), config.Validation(every=3, max_rows=4, keep="best")):
        with pytest.raises(ValueError, match=r"holds step 6 of another run: settings\.validation"):
            loop.run(experiment(base, tmp_path / "best", small, validation=other, **constant))


def test_a_held_out_loss_that_is_not_finite_is_never_the_best(base, small, tmp_path, monkeypatch) -> None:
    made_up = iter([float("nan"), 2.0, float("-inf")])
    monkeypatch.setattr(feed, "together", lambda scores: next(made_up))
    best = config.Validation(every=2, max_rows=4, keep="best")
    result = loop.run(experiment(base, tmp_path / "run", small, stage="embeddings", validation=best))
    assert result["validation_best"] == {"step": 4, "loss": 2.0}
    monkeypatch.setattr(feed, "together", lambda scores: float("nan"))
    result = loop.run(experiment(base, tmp_path / "none", small, stage="embeddings", validation=best, steps=2))
    assert result["validation_best"] is None
    text = (tmp_path / "none" / "result.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_run_that_diverges_stops_with_its_last_checkpoint(base, small, tmp_path) -> None:
    """The warm-up's first step has rate 0; all others overflow. What is saved is from before them, and is finite."""
    wild = config.Optimizer(learning_rate=1e30, clip_norm=0)
    chosen = {"stage": "full", "steps": 20, "max_nonfinite": 3, "checkpoint": config.Checkpoint(every=1, keep=1)}
    with pytest.raises(guard.Diverged, match=r"step 4: .* 3 steps in a row.* another output"):
        loop.run(experiment(base, tmp_path / "wild", small, optimizer=wild, **chosen))
    saved = tmp_path / "wild" / "checkpoints"
    assert [path.name for path in saved.glob("commits/*.json")] == ["1.json"]
    # As the message says: a lower rate is refused here and taken elsewhere.
    tame = {"optimizer": config.Optimizer(learning_rate=1e-3), **chosen}
    with pytest.raises(ValueError, match=r"another run: settings\.optimizer"):
        loop.run(experiment(base, tmp_path / "wild", small, **tame))
    assert np.isfinite(loop.run(experiment(base, tmp_path / "tame", small, **{**tame, "steps": 2}))["loss"])


def test_a_signal_amid_steps_that_are_not_finite_spares_the_state_before_them(base, small, tmp_path, monkeypatch) -> None:
    wild = config.Optimizer(learning_rate=1e30, clip_norm=0)
    chosen = experiment(base, tmp_path, small, stage="full", optimizer=wild, steps=20, checkpoint=config.Checkpoint(every=1, keep=1))
    monkeypatch.setattr(guard.Signals, "stop_at", lambda signals, step: step == 4 and setattr(signals, "received", "SIGTERM") is None)
    with pytest.raises(guard.Interrupted):
        loop.run(chosen)
    assert {path.name for path in tmp_path.glob("checkpoints/commits/*.json")} == {"1.json", "4.json"}


@pytest.mark.parametrize("during", ["score", "save"])
def test_a_signal_in_the_last_validation_or_save_stops_the_run_before_it_writes(base, small, tmp_path, monkeypatch, during) -> None:
    """Whoever runs the stage among others, a pipeline, would go on to the next one otherwise. The same command only writes."""
    chosen = experiment(base, tmp_path, small, stage="embeddings", steps=2, validation=config.Validation(every=0, max_rows=4))
    module, name = (feed, "score") if during == "score" else (loop, "_save")
    real = getattr(module, name)

    def signalled(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, signalled)
        with pytest.raises(guard.Interrupted):
            loop.run(chosen)
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(loop.step_lib, "compiled", lambda *_: pytest.fail("every step was done"))
    assert Path(loop.run(chosen)["adapters"][0]).is_dir()


SPENT = r"more than the \d+ that the data have under share\.max_epochs: raise it, or train for --steps \d+"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"steps": None, "tokens": 10**9, "data": "once"},
            SPENT,
        ),
        ({"validation": config.Validation(keep="best"), "data": "once"}, "needs held-out rows"),
        ({"global_batch": 5, "mesh": config.Mesh(data=2)}, "cannot be split over 2 devices"),
        ({"mesh": config.Mesh(data=1, tensor=8)}, "2 key/value heads"),
        ({"data": "long"}, r"the rows of text \(text\.length\) have 128 tokens, more than the model's context of 64"),
        ({"model": "nowhere"}, "nowhere not found"),
        ({"stage": "new_rows"}, "zhllama resize"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_computed(base, small, corpus, tmp_path, changes, words) -> None:
    datasets = {
        "once": config.Source(text=data_config.TextData((str(corpus),), length=32), share=data_config.Share(max_epochs=1)),
        "long": config.Source(text=data_config.TextData((str(corpus),), length=128)),
    }
    chosen = dict(changes)
    if "data" in chosen:
        chosen["data"] = config.Data(sources=(datasets[chosen["data"]],))
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        loop.run(experiment(base, tmp_path / "a" / "run", small, **chosen))
    built = {"a"} if words == SPENT else set()
    assert {path.name for path in tmp_path.iterdir()} == built, "a start that fails before it wrote anything leaves no folder"


def test_a_start_that_failed_does_not_stand_in_the_way_of_the_mended_one(base, small, corpus, tmp_path) -> None:
    """The data of the first start are built, and nothing was trained on them; later they are what the checkpoints know."""
    once = data_config.Share(max_epochs=1)

    def start(length: int, steps: int) -> dict:
        source = config.Source(text=data_config.TextData((str(corpus),), length=length), share=once)
        chosen = {"data": config.Data((source,)), "steps": steps, "stage": "embeddings", "validation": config.Validation(every=0)}
        return loop.run(experiment(base, tmp_path / "run", small, **chosen))

    with pytest.raises(ValueError, match=SPENT):
        start(32, 10**6)
    assert (tmp_path / "run" / "data" / "0").is_dir()
    start(16, 2)
    with pytest.raises(ValueError, match=r"data/0 holds what this run's checkpoints were trained on, built .*: choose another output$"):
        start(32, 2)
    assert feed.promised(config.Data((config.Source(store=str(tmp_path / "run" / "data" / "0")),))).length == 16


def test_a_fault_in_the_data_leaves_nothing(base, small, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    source = config.Source(text=data_config.TextData((str(tmp_path / "bad.jsonl"),), length=32))
    with pytest.raises(ValueError, match=r"bad\.jsonl:1"):
        loop.run(experiment(base, tmp_path / "run", small, data=config.Data((source,))))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_two_devices_learn_what_one_learns(base, small, tmp_path) -> None:
    """The same run on a mesh of two: other rounding, nothing else."""
    chosen = experiment(base, tmp_path / "two", small, stage="embeddings", mesh=config.Mesh(data=1, fsdp=2))
    one = dataclasses.replace(chosen, output=str(tmp_path / "one"), mesh=config.Mesh(1, 1, 1), micro_batch=2)
    for each in (chosen, one):
        loop.run(each)
    losses = [[line["loss"] for line in log.read(tmp_path / name) if line["kind"] == "train"] for name in ("two", "one")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_bfloat16_computes_and_float32_learns(base, small, undisturbed, tmp_path) -> None:
    """The frozen base and the activations are bfloat16; what is trained, and what is written, stays float32."""
    chosen = experiment(base, tmp_path, small, dtype="bfloat16", steps=2, remat="full", micro_batch=2)
    result = loop.run(chosen)
    (manifest_,) = (json.loads(path.read_text()) for path in tmp_path.glob("checkpoints/commits/*.json"))
    assert {dtype for _, dtype in manifest_["leaves"].values()} == {"float32", "int32"}
    first = [log.read(Path(found["adapters"][0]).parent)[0]["loss"] for found in (result, undisturbed)]
    np.testing.assert_allclose(first[0], first[1], rtol=1e-2)
    assert peft.load(result["adapters"][0]).rows["lm_head"].values_VD.dtype == np.float32
