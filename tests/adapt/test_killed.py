"""`zhllama adapt`, killed inside a training: the same command goes on there and ends with the bits of a run that nobody disturbed."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.adapt import pipeline, steps, training
from zhllama_jax.train import config as train_config
from zhllama_jax.train import log

STEPS = 24


def test_a_pipeline_killed_inside_a_training_goes_on_there(done: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    shutil.copytree(done.config.output, output)
    *former, last = done.config.trainings
    longer = dataclasses.replace(last, steps=STEPS, checkpoint=train_config.Checkpoint(every=4))
    config = dataclasses.replace(done.config, output=str(output), trainings=(*former, longer))
    path = tmp_path / "adapt.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    folder = output / "steps" / longer.name

    with subprocess.Popen([sys.executable, "-m", "zhllama_jax", "adapt", "--config", str(path)], stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 300
        while not (folder / "checkpoints" / "commits" / "4.json").exists():
            assert child.poll() is None, f"the pipeline ended too early, with {child.returncode}"
            assert time.monotonic() < deadline, "nothing was saved"
            time.sleep(0.002)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (folder / "result.json").exists() and not (output / ".steps" / f"{longer.name}.json").exists()

    # As far as the training, the steps are those of the command.
    planned = pipeline.plan(config)
    names = [step.name for step in planned]
    said: list[str] = []
    records = steps.run(planned[: names.index(longer.name) + 1], output, said.append)
    assert [line.split()[1] for line in said if line.endswith(" …")] == [longer.name]
    assert "goes on after step " in capfd.readouterr().err
    assert [line["step"] for line in log.read(folder) if line["kind"] == "train"][-1] == STEPS

    figures = {name: record.figures for name, record in records.items()}
    apart = output / "steps" / "undisturbed"
    training.stage(config, longer, former[-1].name, apart, figures)
    ours, theirs = (place / "adapter" / "adapter_model.safetensors" for place in (folder, apart))
    assert ours.read_bytes() == theirs.read_bytes()
