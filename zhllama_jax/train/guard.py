"""What keeps a run from harm: one trainer per directory, signals that end in a saved state, and a stop before numbers rot."""

import contextlib
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import jax
from jax.experimental import multihost_utils

from zhllama_jax import files

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again and it goes on."""


LOCK = ".lock"


class Diverged(ValueError):
    """Loss, gradients or updates were not finite for too many steps in a row."""


class Interrupted(SystemExit):
    """A signal ended the run after its state was saved; the process exits with `EXIT_CODE`."""

    def __init__(self) -> None:
        """Takes nothing: the one line was said already."""
        super().__init__(EXIT_CODE)


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Holds a run's directory for this process; the system lets go of it when the process ends, however it ends.

    A block that fails before it wrote anything leaves no directory behind that was not there before.

    Raises:
      ValueError: another trainer holds it; the message names the process.
    """
    path = directory / LOCK
    with files.folder(directory), contextlib.closing(_locked(path)) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    """The opened and locked file of that name.

    Raises:
      ValueError: another process holds it.
    """
    while True:
        stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with stream:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
            raise ValueError(f"{path.parent} is in use by {holder}: two runs in one directory would spoil it") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(stream.fileno())):
                return stream
        stream.close()  # its former holder removed it in between


class Signals:
    """Notes SIGTERM and SIGINT so that the loop can save at its next step; a second signal acts as if nobody listened.

    Attributes:
      received: the name of the first signal, or None.
    """

    def __init__(self) -> None:
        """Use `listen`."""
        self.received: str | None = None

    def stop_at(self, step: int) -> bool:
        """Whether to stop after `step`. Of several processes all stop after the same one, as the preemption service agrees."""
        if not jax.distributed.is_initialized():
            return self.received is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.received = "a preemption notice"
        return self.received is not None


@contextlib.contextmanager
def listen() -> Iterator[Signals]:
    """Listens for signals while the block runs.

    Only the main thread can; and where `jax.distributed` runs, its preemption service listens instead.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread() or jax.distributed.is_initialized():
        yield signals
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        signals.received = signal.Signals(number).name
        for each, handler in former.items():
            signal.signal(each, handler)

    for number in former:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def check_finite(streak: int, *, step: int, limit: int) -> None:
    """Stops a run whose last `limit` steps were all left out.

    Raises:
      Diverged: with what to try.
    """
    if streak >= limit:
        raise Diverged(
            f"step {step}: loss, gradient or update was not finite for {streak} steps in a row; their updates were left out. "
            "Look at the data of these steps, or begin anew with a lower optimizer.learning_rate: `zhllama train` wants another output "
            "for that, since the checkpoints here, the newest from before these steps, go on with the present rate only"
        )
