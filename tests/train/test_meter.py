"""The meter: stretches of steps, fetched one late, without the time of pauses."""

import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.train import guard, log, meter
from zhllama_jax.train import step as step_lib


class Heard:
    """Stands where the journal does."""

    def __init__(self) -> None:
        self.steps_: list[tuple[int, dict, log.Pace]] = []

    def steps(self, step: int, figures: dict, pace: log.Pace) -> None:
        self.steps_.append((step, figures, pace))


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def metrics(loss: float, *, streak: int = 0) -> step_lib.Metrics:
    values = {"loss": loss, "tokens": 50, "seen": 60, "grad_norm": 1.0, "learning_rate": 0.1, "skipped": streak, "streak": streak}
    return step_lib.Metrics(**{name: jnp.float32(value) for name, value in values.items()})


def make(heard: Heard, *, every: int = 2, last: int = 5) -> meter.Meter:
    return meter.Meter(heard, every=every, last=last, flops_per_token=1e6, max_nonfinite=2)


def test_stretches_end_every_few_steps_and_at_the_last(clock) -> None:
    heard = Heard()
    chosen = make(heard)
    for step in range(1, 6):
        clock[0] += 3.0
        chosen.add(step, metrics(float(step)))
        assert [entry[0] for entry in heard.steps_] == [stop for stop in (2, 4) if stop < step], "one step late"
    chosen.flush()
    assert [(step, figures["loss"], figures["tokens"]) for step, figures, _ in heard.steps_] == [(2, 1.5, 100), (4, 3.5, 100), (5, 5.0, 50)]
    assert [figures["tokens_read"] for _, figures, _ in heard.steps_] == [120, 120, 60]


def test_pauses_do_not_count(clock) -> None:
    heard = Heard()
    chosen = make(heard, every=1, last=2)
    clock[0] = 2.0
    chosen.add(1, metrics(1.0))
    with chosen.paused():
        clock[0] = 102.0
    clock[0] = 105.0
    chosen.add(2, metrics(1.0))
    chosen.flush()
    paces = [pace for _, _, pace in heard.steps_]
    assert [pace.seconds for pace in paces] == [2.0, 3.0]
    assert paces[1].tokens_per_second == 20.0 and paces[1].flops_per_second == 20e6 and paces[1].utilisation is None


def test_an_open_stretch_is_logged_before_a_save_and_counts_once(clock) -> None:
    heard = Heard()
    chosen = make(heard, every=4, last=6)
    for step in range(1, 7):
        clock[0] += 3.0
        chosen.add(step, metrics(float(step)))
        if step in (3, 4):
            chosen.settle()
    chosen.flush()
    assert [(step, figures["loss"], pace.seconds) for step, figures, pace in heard.steps_] == [(3, 2.0, 9.0), (4, 4.0, 3.0), (6, 5.5, 6.0)]


def test_a_loss_that_is_not_finite_stays_out_of_the_mean() -> None:
    heard = Heard()
    chosen = make(heard, every=2, last=2)
    chosen.add(1, metrics(float("nan"), streak=1))
    chosen.add(2, metrics(3.0))
    chosen.flush()
    assert heard.steps_[0][1]["loss"] == 3.0
    chosen.add(3, metrics(float("inf"), streak=1))
    chosen.add(4, metrics(float("nan"), streak=1))
    chosen.flush()
    assert np.isnan(heard.steps_[1][1]["loss"])


def test_too_many_of_them_stop_the_run() -> None:
    chosen = make(Heard())
    chosen.add(1, metrics(1.0, streak=2))
    with pytest.raises(guard.Diverged):
        chosen.add(2, metrics(1.0))


def test_the_streak_is_that_of_the_last_step_looked_at() -> None:
    chosen = make(Heard())
    for step, streak in enumerate((0, 1, 0), start=1):
        chosen.add(step, metrics(1.0, streak=streak))
        chosen.flush()
        assert chosen.streak == streak
