"""A profile of some of a run's steps, under its output: what the devices and the host did, operation by operation."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from zhllama_jax.train import watch

FOLDER = "profile"


class Profiler:
    """Writes the profile of a span of steps; made by `profiler`. Whatever fails here fails alone: the training goes on."""

    def __init__(self, chosen: watch.Span | None, directory: Path, *, say: Callable[[str], None]) -> None:
        """Use `profiler`."""
        self._chosen, self._directory, self._say = chosen, directory, say
        self._since: int | None = None

    def begins(self, step: int) -> bool:
        """Whether the profile is to be begun before `step`: also in the middle of the span, where a resumed run finds itself there."""
        return self._chosen is not None and self._since is None and self._chosen.first <= step <= self._chosen.last

    def ends(self, step: int) -> bool:
        """Whether the profile is to be ended after `step`."""
        return self._chosen is not None and self._since is not None and step >= self._chosen.last

    def begin(self, step: int, state: Any) -> None:
        """Begins with `step`, when all work on `state`, that of the steps before, is done."""
        jax.block_until_ready(state)
        self._since = step
        try:
            jax.profiler.start_trace(str(self._directory))
        except Exception as error:
            self._give_up(error)

    def end(self, step: int, state: Any) -> None:
        """Ends with `step`, when the work on `state` is done, and says how to look at the profile."""
        if self._chosen is None:
            return
        since, self._chosen = self._since, None
        jax.block_until_ready(state)
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._give_up(error)
            return
        self._say(
            f"profile of steps {since:,} to {step:,}: `pip install xprof; xprof --logdir {self._directory}` shows it, "
            f"or open its newest .trace.json.gz at https://ui.perfetto.dev"
        )

    def close(self) -> None:
        """Lets go of a profile whose span was not finished."""
        if self._chosen is not None and self._since is not None:
            self._chosen = None
            with contextlib.suppress(Exception):
                jax.profiler.stop_trace()

    def _give_up(self, error: Exception) -> None:
        self._chosen = None
        self._say(f"warning: no profile could be written ({' '.join(str(error).split())}); the training goes on")


@contextlib.contextmanager
def profiler(steps: str | None, output: Path, *, after: int, say: Callable[[str], None]) -> Iterator[Profiler]:
    """The profiler of a run that goes on after step `after`; only process 0 writes.

    Args:
      steps: `first:last`, see `watch.span`; None profiles nothing.
      output: the run's directory.
      after: steps done by former attempts.
      say: told what was written.
    """
    chosen = watch.span(steps) if steps and jax.process_index() == 0 else None
    if chosen and after >= chosen.last:
        say(f"profile_steps: step {chosen.last:,} lies behind, nothing is profiled")
        chosen = None
    made = Profiler(chosen, output / FOLDER, say=say)
    try:
        yield made
    finally:
        made.close()
