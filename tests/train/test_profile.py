"""A profile holds the steps that were asked for, and never ends a training."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from zhllama_jax.train import config, log, loop, profile


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the profiler is told, instead of a trace, which takes seconds."""
    told: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: told.append(f"start {directory}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    return told


def steps(chosen: str | None, output: Path, *, first: int = 1, last: int = 8) -> tuple[list[int], list[str]]:
    """(steps of a run from `first` to `last` that were profiled, lines that were said)."""
    inside, said = [], []
    with profile.profiler(chosen, output, after=first - 1, say=said.append) as profiler:
        on = False
        for step in range(first, last + 1):
            if profiler.begins(step):
                profiler.begin(step, None)
                on = True
            inside += [step] if on else []
            if profiler.ends(step):
                profiler.end(step, None)
                on = False
    return inside, said


def test_the_steps_that_were_asked_for_and_no_others(tmp_path: Path, traced: list[str]) -> None:
    inside, said = steps("3:5", tmp_path)
    assert inside == [3, 4, 5]
    assert traced == [f"start {tmp_path / 'profile'}", "stop"]
    [line] = said
    assert line.startswith("profile of steps 3 to 5: `pip install xprof; xprof --logdir ") and "ui.perfetto.dev" in line


def test_a_resumed_run_profiles_what_is_left_of_them(tmp_path: Path, traced: list[str]) -> None:
    assert steps("3:5", tmp_path, first=5)[0] == [5]
    inside, [line] = steps("3:5", tmp_path, first=6)
    assert not inside and line == "profile_steps: step 5 lies behind, nothing is profiled"


def test_a_run_that_stops_inside_lets_go_of_the_profiler(tmp_path: Path, traced: list[str]) -> None:
    assert steps("3:9", tmp_path)[1] == []
    assert traced[-1] == "stop"


@pytest.mark.parametrize("broken", ["start_trace", "stop_trace"])
def test_a_profile_that_cannot_be_written_is_a_warning(
    broken: str, tmp_path: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Only one profile may be run at a time.")

    monkeypatch.setattr(jax.profiler, broken, fail)
    assert steps("3:5", tmp_path)[1] == [
        "warning: no profile could be written (Only one profile may be run at a time.); the training goes on"
    ]


def test_nothing_is_profiled_unasked(tmp_path: Path, traced: list[str]) -> None:
    assert steps(None, tmp_path) == ([], []) and not traced


def test_a_run_writes_its_profile_also_where_it_goes_on(base: Path, small: dict, tmp_path: Path) -> None:
    """Whole: two steps, then a profile in what is left of it; the numbers are those of a run without one."""
    plain = config.Experiment(
        **{**small, "model": str(base), "output": str(tmp_path / "plain"), "stage": "embeddings", "steps": 4, "log_every": 1}
    )
    loop.run(plain)
    looked_at = dataclasses.replace(plain, output=str(tmp_path / "looked_at"), profile_steps="3:4")
    loop.run(looked_at)
    assert list((tmp_path / "looked_at" / profile.FOLDER).rglob("*.xplane.pb"))
    losses = [[line["loss"] for line in log.read(Path(run.output)) if line["kind"] == "train"] for run in (plain, looked_at)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"profile_steps: 3:9 ends after the run's last step"):
        loop.run(dataclasses.replace(looked_at, steps=None, epochs=0.05, profile_steps="3:9"))
