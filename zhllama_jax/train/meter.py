"""Figures of training steps, fetched one step late so that the host never holds the devices up."""

import contextlib
import time
from collections.abc import Iterator

import jax
import numpy as np

from zhllama_jax.train import flops, guard, log
from zhllama_jax.train import step as step_lib


class Meter:
    """Gathers the metrics of steps into stretches for the log, and watches for numbers that are not finite."""

    def __init__(self, journal: log.Journal, *, every: int, last: int, flops_per_token: float, max_nonfinite: int) -> None:
        """Starts the clock.

        Args:
          journal: told of every stretch.
          every: steps of a stretch.
          last: the run's last step, where a stretch ends too.
          flops_per_token: see `flops`.
          max_nonfinite: see `guard.check_finite`.
        """
        self._journal, self._every, self._last, self._limit = journal, every, last, max_nonfinite
        self._flops_per_token = flops_per_token
        device = jax.devices()[0]
        peak = flops.peak(device.device_kind)
        self._peak = None if peak is None else peak * jax.device_count()
        self._pending: tuple[int, step_lib.Metrics] | None = None
        self._stretch: list[dict[str, float]] = []
        self._step, self._streak = 0, 0
        self._since, self._paused = time.monotonic(), 0.0

    def add(self, step: int, metrics: step_lib.Metrics) -> None:
        """Takes a step's metrics, which may not be computed yet, and looks at those of the step before.

        Raises:
          guard.Diverged: see `guard.check_finite`.
        """
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Waits for the metrics taken last, and logs the stretch if they end one."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        found = {name: float(value) for name, value in jax.device_get(metrics)._asdict().items()}
        self._streak = int(found["streak"])
        guard.check_finite(self._streak, step=step, limit=self._limit)
        self._stretch.append(found)
        self._step = step
        if step % self._every == 0 or step == self._last:
            self._log(step)

    @property
    def streak(self) -> int:
        """Updates left out in a row, up to the last step that was looked at."""
        return self._streak

    def settle(self) -> None:
        """Logs the stretch as far as it has come: whoever goes on from a state saved now begins a new one."""
        self.flush()
        if self._stretch:
            self._log(self._step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the pace: validation, saving."""
        self.flush()
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def _log(self, step: int) -> None:
        now = time.monotonic()
        seconds = max(now - self._since - self._paused, 1e-9)
        tokens = sum(metrics["seen"] for metrics in self._stretch)
        speed = tokens / seconds
        achieved = speed * self._flops_per_token
        latest = self._stretch[-1]
        finite = [metrics["loss"] for metrics in self._stretch if np.isfinite(metrics["loss"])]
        loss = float(np.mean(finite)) if finite else float("nan")
        figures = {
            "loss": loss,
            "grad_norm": latest["grad_norm"],
            "learning_rate": latest["learning_rate"],
            "tokens": sum(metrics["tokens"] for metrics in self._stretch),
            "tokens_read": tokens,
            "skipped": latest["skipped"],
        }
        self._journal.steps(step, figures, log.Pace(seconds, speed, achieved, achieved / self._peak if self._peak else None))
        self._stretch, self._since, self._paused = [], now, 0.0
