"""What a run says: JSONL and trackers for programs, a progress line on a terminal, plain lines elsewhere.

Only process 0 speaks. A reader that goes away (`| head`) ends the speaking, and a tracker that fails ends its tracking, never the
training. After a resume the JSONL holds every
step once: what came after the restored step is cut off before the run goes on.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import files
from zhllama_jax.train import guard, trackers, watch

METRICS = "metrics.jsonl"
KEYS = ("kind", "step")
"""What every line has, and so no source of data may be called."""

WIDE = 120
"""Columns of a terminal that has room for a bar beside the figures."""


REDRAW = 1.0
"""Seconds from one picture of the progress line to the next, at least: where a terminal is recorded every one of them is kept."""


class Pace(NamedTuple):
    """How fast a stretch of steps went.

    Attributes:
      seconds: its wall time.
      tokens_per_second: tokens read, padding left out.
      flops_per_second: model FLOP/s.
      utilisation: share of the devices' peak; None where the peak is not known.
    """

    seconds: float
    tokens_per_second: float
    flops_per_second: float
    utilisation: float | None


class Journal:
    """The log of one run; made by `journal`."""

    def __init__(self, directory: Path, *, speaks: bool, tensorboard: bool, wandb: watch.Wandb | None, settings: Mapping[str, Any]) -> None:
        """Use `journal`."""
        self._directory, self._speaks = directory, speaks
        self._first, self._total, self._started = 0, 0, 0.0
        self._lines: Any = None
        self._trackers: list[trackers.Tracker] = []
        self._bar: Any = None
        self._drawn = 0.0
        self._tensorboard, self._wandb, self._settings = tensorboard, wandb, settings

    def say(self, text: str) -> None:
        """Tells the user a line."""
        if not self._speaks:
            return
        try:
            if self._bar is not None:
                self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)
        except OSError:
            self._speaks = False

    def connect(self) -> None:
        """Begins the run at Weights & Biases, if there is to be one: before long work, which a missing login would make vain.

        Raises:
          ValueError: see `trackers.weights_and_biases`.
        """
        if self._speaks and self._wandb is not None:
            run = trackers.weights_and_biases(self._wandb, self._directory, config=self._settings, say=self.say)
            self._trackers += [run] if run else []
        self._wandb = None

    def begin(self, step: int, *, total: int) -> None:
        """Opens the files for a run of `total` steps that goes on after `step`; later lines of a former attempt are cut off."""
        self._first, self._total, self._started = step, total, time.monotonic()
        if not self._speaks:
            return
        path = self._directory / METRICS
        _truncate(path, step)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        if self._tensorboard:
            self._trackers.append(trackers.TensorBoard(self._directory, step=step))
            self.say(f"figures: {path}; `tensorboard --logdir {self._directory / trackers.TENSORBOARD}` draws them")
        self.connect()
        if sys.stderr.isatty():
            self._bar = _bar(self._total, step)

    def steps(self, step: int, figures: Mapping[str, float], pace: Pace) -> None:
        """Logs a stretch of training steps that ended with `step`."""
        seconds = {"seconds": round(pace.seconds, 4), "tokens_per_second": round(pace.tokens_per_second, 1)}
        flops = {"flops_per_second": round(pace.flops_per_second)}
        utilisation = {} if pace.utilisation is None else {"mfu": round(pace.utilisation, 4)}
        self._record({"kind": "train", "step": step, **figures, **seconds, **flops, **utilisation})
        left = clock(self._left(step))
        share = f"{pace.flops_per_second / 1e9:,.1f} GFLOP/s" if pace.utilisation is None else f"MFU {100 * pace.utilisation:.1f} %"
        text = f"loss {figures['loss']:.4f}  lr {figures['learning_rate']:.2e}  norm {figures['grad_norm']:.3f}  "
        text += f"{pace.tokens_per_second:,.0f} tokens/s  {share}"
        if figures.get("skipped"):
            text += f"  left out {figures['skipped']:.0f}"
        if self._bar is not None:
            now = time.monotonic()
            draws = now - self._drawn >= REDRAW
            self._drawn = now if draws else self._drawn
            description = f"{step:,}/{self._total:,}  {left} left  {text}"
            self._bar.update(self._bar.task_ids[0], completed=step, description=description, refresh=draws)
        else:
            self.say(f"step {step:>6,}/{self._total:,}  {text}  {left} left")

    def validation(self, step: int, figures: Mapping[str, Mapping[str, float | None]], *, best: bool) -> None:
        """Logs the scores of held-out rows by source after `step`."""
        assert not set(figures) & set(KEYS), "feed gives sources other names"
        self._record({"kind": "validation", "step": step, **figures})
        parts = []
        for name, score in figures.items():
            bits = score.get("bits_per_character")
            parts.append(f"{name}: loss {score['loss']:.4f}" + ("" if bits is None else f", {bits:.4f} bits per character"))
        self.say(f"step {step:>6,}/{self._total:,}  validation  {'; '.join(parts)}{'  best so far' if best else ''}")

    def close(self, *, failed: bool = False) -> None:
        """Flushes and closes the files; trackers are told whether the run failed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._lines is not None:
            self._lines.close()
        for tracker in self._trackers:
            with self._left_out(tracker):
                tracker.close(failed=failed)
        self._lines, self._trackers = None, []

    def _record(self, line: Mapping[str, Any]) -> None:
        if self._lines is None:
            return
        # A number that is not finite is no JSON; null says the same.
        self._lines.write(json.dumps(_without_nan(line), ensure_ascii=False) + "\n")
        self._lines.flush()
        figures = {f"{line['kind']}/{name}": value for name, value in _flat(line)}
        for tracker in list(self._trackers):
            with self._left_out(tracker):
                tracker.add(line["step"], figures)

    @contextlib.contextmanager
    def _left_out(self, tracker: trackers.Tracker) -> Iterator[None]:
        """Drops a tracker that fails in the block, with a word: the JSONL has the figures anyway."""
        try:
            yield
        except Exception as error:  # whatever goes wrong in a library or on the way to its server
            self._trackers = [other for other in self._trackers if other is not tracker]
            reason = " ".join(str(error).split()) or type(error).__name__
            self.say(f"warning: {tracker.name} failed and is left out from here on ({reason}); {METRICS} has every figure")

    def _left(self, step: int) -> float:
        """Seconds that the rest will take at the pace so far."""
        return (time.monotonic() - self._started) / max(step - self._first, 1) * (self._total - step)


@contextlib.contextmanager
def journal(
    directory: Path, *, speaks: bool, tensorboard: bool, wandb: watch.Wandb | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[Journal]:
    """A run's log under `directory`, closed at the end of the block.

    Args:
      directory: the run's.
      speaks: whether this process writes and prints at all.
      tensorboard: whether to write TensorBoard events too.
      wandb: the run at Weights & Biases to write to, if any.
      settings: the run's settings, for trackers that show them.

    Raises:
      ValueError: see `trackers.check`, and, when the log connects or begins, `trackers.weights_and_biases`.
    """
    trackers.check(wandb)
    log = Journal(directory, speaks=speaks, tensorboard=tensorboard, wandb=wandb, settings=settings or {})
    try:
        yield log
    except BaseException as error:
        log.close(failed=not isinstance(error, guard.Interrupted))  # such a run was saved and goes on
        raise
    log.close()


def read(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's JSONL, as far as they are whole."""
    path = directory / METRICS
    return [line for _, line in _whole_lines(path)] if path.is_file() else []


def summary(directory: Path) -> dict[str, Any]:
    """The figures of a whole run, over all its processes: last loss and scores, tokens without padding, pace, seconds of training."""
    lines = read(directory)
    train = [line for line in lines if line["kind"] == "train"]
    scores = [line for line in lines if line["kind"] == "validation"]
    seconds = sum(line["seconds"] for line in train)
    tokens = sum(line["seconds"] * line["tokens_per_second"] for line in train)
    return {
        "loss": train[-1]["loss"] if train else None,
        "validation": {name: value for name, value in scores[-1].items() if name not in KEYS} if scores else {},
        "tokens_read": round(sum(line.get("tokens_read", 0) for line in train)),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "seconds": round(seconds, 1),
    }


def clock(seconds: float) -> str:
    """1:02:03 or 02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def _truncate(path: Path, step: int) -> None:
    """Leaves only the lines up to `step`; the rest belongs to steps that are done again."""
    if path.is_file():
        files.atomic_write(path, b"".join(raw for raw, line in _whole_lines(path) if line["step"] <= step))


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(bytes, object) of every line that was written to its end; a kill may have cut off the last."""
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if raw.endswith(b"\n") and isinstance(line, dict) and isinstance(line.get("step"), int):
            yield raw, line


def _bar(total: int, step: int) -> Any:
    """The progress line of a terminal: how far and how long come first, and what a narrow terminal cuts off comes last."""
    from rich import console, progress, table

    screen = console.Console(stderr=True)
    text = progress.TextColumn("{task.description}", markup=False, table_column=table.Column(no_wrap=True, overflow="ellipsis"))
    columns = (text,) if screen.width < WIDE else (progress.BarColumn(bar_width=20), text)
    bar = progress.Progress(*columns, console=screen, auto_refresh=False)
    bar.add_task(f"{step:,}/{total:,}  compiling", total=total, completed=step)
    bar.start()
    return bar


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif name not in KEYS and isinstance(value, int | float):
            yield prefix + name, value
