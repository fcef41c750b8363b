"""Where a run's figures go besides its JSONL: TensorBoard's event files, and a run at Weights & Biases."""

import dataclasses
import importlib.util
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from zhllama_jax import files
from zhllama_jax.train import watch

TENSORBOARD = "tensorboard"
WANDB = "wandb.json"
"""Remembers under the output which run at Weights & Biases is this one."""

FINISH_SECONDS = 60.0
"""How long the end of a run waits for the last figures to be uploaded."""

INSTALL = "wandb is not installed: pip install wandb (the extra `wandb`)"


class Tracker(Protocol):
    """One place that figures go to.

    Attributes:
      name: what a user calls it.
    """

    name: str

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes figures of a step by name ("train/loss"); steps never go back."""

    def close(self, *, failed: bool) -> None:
        """Hands over what is left."""


class TensorBoard:
    """Event files under a run's directory."""

    name = "TensorBoard"

    def __init__(self, directory: Path, *, step: int) -> None:
        """Goes on after `step`: what a former attempt wrote for later steps is to be forgotten."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / TENSORBOARD), purge_step=step + 1)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        del failed
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases; made by `weights_and_biases`."""

    name = "W&B"

    def __init__(self, run: Any) -> None:
        """Takes a begun run."""
        self._run = run
        # A training that goes on does some steps again, with the same figures. W&B keeps what it has and complains about each.
        self._first = int(run.step)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if step >= self._first:
            self._run.log(dict(figures), step=step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


def check(settings: watch.Wandb | None) -> None:
    """Refuses, before anything else is done, what could not be logged to.

    Raises:
      ValueError: the library is not installed.
    """
    if settings is not None and settings.mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ValueError(f"{INSTALL}, or leave wandb out")


def weights_and_biases(
    settings: watch.Wandb, directory: Path, *, config: Mapping[str, Any], say: Callable[[str], None]
) -> WeightsAndBiases | None:
    """Begins the run of `directory`, or goes on with it; None where it is disabled, and, with a warning, where nothing is reached.

    Args:
      settings: where to.
      directory: the run's output.
      config: what is shown beside the figures.
      say: told where to look.

    Raises:
      ValueError: W&B refuses a new run, most often for want of a login; or what the output remembers names no run.
    """
    if settings.mode == "disabled":
        return None
    import wandb

    memory = directory / WANDB
    known = _known(memory) if memory.is_file() else None
    options: dict[str, Any] = {"silent": True, "console": "off"}
    if hasattr(wandb.Settings(), "finish_timeout"):  # versions without it wait for as long as the network is away
        options["finish_timeout"] = FINISH_SECONDS
    where = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    identity = known or uuid.uuid4().hex[:12]
    try:
        run = wandb.init(
            **{"name": directory.resolve().name, **where},
            id=identity,
            resume="allow",
            dir=str(directory),
            config=json.loads(json.dumps(config)),
            settings=wandb.Settings(**options),
        )
    except Exception as error:  # wandb's own errors, and those of its service and of the network
        reason = " ".join(str(error).split()).rstrip(" .") or type(error).__name__
        if known or not isinstance(error, (wandb.errors.UsageError, wandb.errors.AuthenticationError)):
            say(f"warning: W&B cannot be reached ({reason}): the figures are in the JSONL only")
            return None
        raise ValueError(
            f"W&B did not begin a run: {reason}; log in with `wandb login`, write to files with --wandb.mode offline, or leave wandb out"
        ) from None
    if not known:
        files.write_json(memory, {"id": identity, "project": run.project, "entity": run.entity})
    say(f"W&B: offline; `wandb sync {directory}/wandb/offline-run-*` uploads it" if run.offline else f"W&B: {run.url}")
    return WeightsAndBiases(run)


def _known(memory: Path) -> str:
    """The id of the run that an output was logged to before.

    Raises:
      ValueError: the file names none.
    """
    what = "the name of a W&B run; remove it, and a new run is begun there"
    found = files.read_json(memory, what=what)
    identity = found.get("id") if isinstance(found, dict) else None
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"{memory} is not {what}")
    return identity
