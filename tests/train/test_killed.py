"""Kill -9, SIGTERM and resume through the command line: the bits are those of a run that nobody disturbed.

The run is long enough that every signal finds it at work. When the kills come is random, but the same each time the tests run.
"""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zhllama_jax.train import config, guard, log, loop

STEPS = 120


@pytest.fixture(scope="module")
def undisturbed(base: Path, small: dict, tmp_path_factory: pytest.TempPathFactory) -> config.Experiment:
    """Steps of LoRA with dropout, saved every fifth, done from beginning to end."""
    changes = {"steps": STEPS, "checkpoint": config.Checkpoint(every=5), "validation": config.Validation(every=0, max_rows=8)}
    output = tmp_path_factory.mktemp("undisturbed")
    chosen = config.Experiment(model=str(base), output=str(output), stage="pretrain_lora", **{**small, **changes})
    loop.run(chosen)
    return chosen


def start(chosen: config.Experiment, folder: Path) -> subprocess.Popen:
    """`zhllama train` in a process of its own, what it says in a file."""
    path = folder / "stage.yaml"
    path.write_text(chosen.to_yaml())
    with open(folder / "said", "w") as said:
        return subprocess.Popen([sys.executable, "-m", "zhllama_jax", "train", "--config", str(path)], stderr=said)


def saved(chosen: config.Experiment) -> int:
    """The newest step that is committed; 0 before there is one."""
    return max((int(path.stem) for path in Path(chosen.output).glob("checkpoints/commits/*.json") if path.stem.isdigit()), default=0)


def wait_for(child: subprocess.Popen, chosen: config.Experiment, *, beyond: int) -> None:
    """Waits until a later step is committed."""
    deadline = time.monotonic() + 300
    while saved(chosen) <= beyond:
        assert child.poll() is None, f"the run ended too early, with {child.returncode}"
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.002)


@pytest.mark.parametrize(("seed", "kills"), [(0, 2), *(pytest.param(seed, 6, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_killed_again_and_again_and_told_to_stop(undisturbed: config.Experiment, tmp_path: Path, seed: int, kills: int) -> None:
    chosen = dataclasses.replace(undisturbed, output=str(tmp_path / "run"))
    dice = random.Random(seed)
    for _ in range(kills):
        with start(chosen, tmp_path) as child:
            wait_for(child, chosen, beyond=saved(chosen) + 5 * dice.randrange(2))
            time.sleep(dice.uniform(0, 0.05))
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert not (tmp_path / "run" / "adapter").exists()
    before = saved(chosen)

    with start(chosen, tmp_path) as child:
        wait_for(child, chosen, beyond=before)
        child.terminate()
    assert child.returncode == guard.EXIT_CODE
    said = (tmp_path / "said").read_text().splitlines()
    assert any(line.startswith(f"goes on after step {before}") for line in said)
    assert said[-1].startswith(f"SIGTERM received: saved after step {saved(chosen)};")
    assert before < saved(chosen) < STEPS

    with start(chosen, tmp_path) as child:
        assert child.wait() == 0
    ours, theirs = (Path(one.output) / "adapter" / "adapter_model.safetensors" for one in (chosen, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()
    losses = [
        {line["step"]: line["loss"] for line in log.read(Path(one.output)) if line["kind"] == "train"} for one in (chosen, undisturbed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS, "no stretch is missing from the log"
