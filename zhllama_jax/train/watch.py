"""How a run is looked at while it works: figures at Weights & Biases, a profile of some steps. No JAX here."""

import dataclasses
import re
from typing import Literal, NamedTuple

from zhllama_jax.train import choices

MOST_PROFILED = 100
"""A profile holds every operation of every step: so that nobody fills a disk by mistake."""


@dataclasses.dataclass(frozen=True)
class Wandb:
    """A run at Weights & Biases (`pip install wandb`); a training that is started again goes on with the same one.

    Attributes:
      project: the project that the run belongs to.
      entity: the user or team that the project belongs to; the account's own if left out.
      name: the run's name; that of the output folder if left out.
      mode: online; offline, to files under the output, which `wandb sync` uploads later; disabled. If left out, what W&B itself is set to,
        which is online unless changed.
    """

    project: str = "zhllama"
    entity: str | None = None
    name: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None

    def __post_init__(self) -> None:
        choices.refuse("wandb", [] if self.project else ["project is empty: name one"])


class Span(NamedTuple):
    """Steps counted from 1, both ends included."""

    first: int
    last: int


def span(text: str) -> Span:
    """The steps that `a:b` names.

    Raises:
      ValueError: it is no such span, or one of more than `MOST_PROFILED` steps.
    """
    found = re.fullmatch(r"([1-9]\d{0,17}):([1-9]\d{0,17})", text)
    if not found:
        raise ValueError(f'must be two steps, "first:last" such as "10:12", counted from 1, got {text!r}')
    chosen = Span(int(found[1]), int(found[2]))
    if chosen.last < chosen.first:
        raise ValueError(f"the last step, {chosen.last:,}, comes before the first, {chosen.first:,}")
    if chosen.last - chosen.first >= MOST_PROFILED:
        raise ValueError(
            f"{chosen.last - chosen.first + 1:,} steps are too many for one profile: at most {MOST_PROFILED}, and three will do"
        )
    return chosen


def check(text: str | None, *, steps: int | None) -> list[str]:
    """What is wrong with `profile_steps` in a run of `steps` steps (None: not known yet), for the list of an experiment's problems."""
    if text is None:
        return []
    try:
        chosen = span(text)
    except ValueError as error:
        return [f"profile_steps: {error}"]
    if steps is not None and chosen.last > steps:
        return [f"profile_steps: {text} ends after the run's last step, {steps:,}"]
    return []
