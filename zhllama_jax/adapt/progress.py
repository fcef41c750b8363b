"""How far a long measurement is, in plain lines with the time that is left, as a training has them."""

import time
from collections.abc import Callable

from zhllama_jax.train import log

EVERY = 10.0
"""Seconds from one line to the next; what takes less says nothing."""

Say = Callable[[str], None]
Report = Callable[[int, int], None]
"""Takes how much is done and how much there is."""
Watch = Callable[[str], Report]
"""Makes the report of one part of the work, given its name."""


def lines(say: Say, step: str) -> Watch:
    """Tells how far the parts of a step are.

    Args:
      say: takes a line.
      step: the step's name, with which every line begins.
    """

    def watch(part: str) -> Report:
        began = time.monotonic()
        spoken = began

        def report(done: int, total: int) -> None:
            nonlocal spoken
            now = time.monotonic()
            if 0 < done < total and now - spoken >= EVERY:
                spoken = now
                say(f"{step}: {part} {done:,}/{total:,}  {log.clock((now - began) / done * (total - done))} left")

        return report

    return watch


def silent(part: str) -> Report:
    """A watch that says nothing."""
    del part
    return lambda done, total: None
