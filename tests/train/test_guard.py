"""Guards: one trainer a directory, signals noted once, a stop before numbers rot."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from zhllama_jax.train import guard


def test_two_trainers_on_one_directory(tmp_path) -> None:
    words = rf"in use by process {os.getpid()} on .*two runs"
    with guard.lock(tmp_path / "run"), pytest.raises(ValueError, match=words), guard.lock(tmp_path / "run"):
        pass
    with guard.lock(tmp_path / "run"):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path) -> None:
    code = f"""
import pathlib, time
from zhllama_jax.train import guard
with guard.lock(pathlib.Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"process {child.pid}"), guard.lock(tmp_path):
            pass
        child.kill()
    with guard.lock(tmp_path):
        pass


def test_a_lock_goes_with_its_holder_and_a_new_directory_with_a_failure(tmp_path) -> None:
    with guard.lock(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []
    for directory in (tmp_path / "a" / "b", tmp_path / "run"):
        with pytest.raises(RuntimeError), guard.lock(directory):
            raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]
    with pytest.raises(RuntimeError), guard.lock(tmp_path / "a"):
        (tmp_path / "a" / "state").write_text("")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state"]


def test_a_lock_that_was_taken_away_meanwhile_is_not_trusted(tmp_path, monkeypatch) -> None:
    """The former holder removes its file between our opening and our locking of it: what we hold then keeps nobody out."""
    real, opened = guard.fcntl.flock, []

    def flock(stream, operation) -> None:
        opened.append(stream)
        if len(opened) == 1:
            (tmp_path / guard.LOCK).unlink()
        real(stream, operation)

    monkeypatch.setattr(guard.fcntl, "flock", flock)
    with guard.lock(tmp_path), pytest.raises(ValueError, match="in use by"), guard.lock(tmp_path):
        pass
    assert len(opened) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_next_one_acts(number) -> None:
    former = signal.getsignal(number)
    second = []
    signal.signal(number, lambda *_: second.append(number))
    try:
        with guard.listen() as signals:
            assert not signals.stop_at(1)
            os.kill(os.getpid(), number)
            assert signals.stop_at(2) and signals.received == number.name and not second
            os.kill(os.getpid(), number)
            assert second
    finally:
        signal.signal(number, former)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with guard.listen():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_listen_to_nothing() -> None:
    found = []

    def work() -> None:
        with guard.listen() as signals:
            found.append(signals.stop_at(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_an_interrupted_process_exits_with_75() -> None:
    with pytest.raises(SystemExit) as caught:
        raise guard.Interrupted
    assert caught.value.code == 75


def test_too_many_bad_steps_stop_the_run() -> None:
    guard.check_finite(2, step=7, limit=3)
    with pytest.raises(guard.Diverged, match=r"step 8: .* 3 steps in a row.*lower optimizer.learning_rate: .* another output"):
        guard.check_finite(3, step=8, limit=3)
