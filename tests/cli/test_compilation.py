"""Where compiled programs are kept, and that what is broken there breaks nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from zhllama_jax.cli import compilation


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What JAX is told, in a home of its own."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(compilation.atexit, "register", lambda *arguments: None)
    monkeypatch.setattr(compilation, "_kept", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return told


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def test_a_cpu_keeps_nothing_unasked(chosen: dict[str, Any], tmp_path: Path) -> None:
    compilation.cache("auto")
    assert not chosen and not list(tmp_path.iterdir())
    compilation.cache("on")
    assert chosen == {"jax_compilation_cache_dir": str(tmp_path / ".cache/zhllama/compiled")}


@pytest.mark.usefixtures("accelerator")
def test_an_accelerator_keeps_programs_where_nobody_else_can_put_any(chosen: dict[str, Any], tmp_path: Path) -> None:
    compilation.cache("auto")
    users = tmp_path / ".cache" / "zhllama" / "compiled"
    assert chosen == {"jax_compilation_cache_dir": str(users)} and users.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("accelerator")
def test_off_is_off(chosen: dict[str, Any], tmp_path: Path) -> None:
    compilation.cache("off")
    assert chosen == {"jax_enable_compilation_cache": False} and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("accelerator")
def test_the_desktops_directory_jaxs_own_and_the_one_that_is_named(
    chosen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/void")
    assert compilation.users() == tmp_path / ".cache/zhllama/compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compilation.users() == tmp_path / "xdg/zhllama/compiled"
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", "set by JAX_COMPILATION_CACHE_DIR", raising=False)
    compilation.cache("auto")
    assert not chosen and not (tmp_path / "xdg").exists()
    compilation.cache(tmp_path / "own")
    assert chosen == {"jax_compilation_cache_dir": str(tmp_path / "own" / "zhllama")}


@pytest.mark.usefixtures("accelerator")
def test_a_directory_that_cannot_be_made_is_a_note_or_if_named_an_error(
    chosen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".cache").write_text("a file")
    compilation.cache("auto")
    said = capsys.readouterr().err
    assert not chosen and said.count("\n") == 1 and "zhllama: note: compiled programs are not kept in" in said
    with pytest.raises(ValueError, match=r"compilation_cache: .*zhllama: not a directory; name another directory, or off"):
        compilation.cache(tmp_path / ".cache" / "x")


def entry(directory: Path, name: str, content: bytes, *, age: float = 0.0) -> Path:
    path = directory / f"{name}-cache"
    path.write_bytes(content)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_only_what_was_sealed_and_is_the_same_is_kept(tmp_path: Path) -> None:
    sound, torn, flipped = (entry(tmp_path, name, name.encode() * 100) for name in ("sound", "torn", "flipped"))
    compilation.seal(tmp_path)
    torn.write_bytes(torn.read_bytes()[:-1])
    flipped.write_bytes(b"F" + flipped.read_bytes()[1:])
    entry(tmp_path, "killed", b"not sealed")
    (tmp_path / "gone-cache.sha256").write_text("0" * 64)
    other = tmp_path / "notes.txt"
    other.write_text("somebody's")
    compilation.clean(tmp_path)
    assert sorted(tmp_path.glob("*")) == sorted([other, sound, tmp_path / "sound-cache.sha256"])


def test_the_oldest_go_where_room_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        entry(tmp_path, str(number), b"x" * 10, age=number)
    compilation.seal(tmp_path)
    monkeypatch.setattr(compilation, "LARGEST", 25)
    compilation.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["0-cache", "1-cache"]


def test_entries_that_are_not_kept_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = entry(tmp_path, "old", b"x" * 10, age=9)
    compilation.seal(tmp_path)
    entry(tmp_path, "killed", b"x" * 20)
    monkeypatch.setattr(compilation, "LARGEST", 25)
    compilation.clean(tmp_path)
    assert list(tmp_path.glob("*-cache")) == [old]


JOB = """
import pathlib, sys
import jax, jax.numpy as jnp
from zhllama_jax.cli import compilation
compilation.cache(pathlib.Path(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: jnp.tanh(jnp.sin(x) @ jnp.cos(x).T).sum())(jnp.arange(64.0).reshape(8, 8))))
"""


def test_broken_entries_break_no_run(tmp_path: Path) -> None:
    """Whole processes: without the seal a flipped bit in machine code ends the second one with a fault of memory."""

    def job() -> str:
        return subprocess.run([sys.executable, "-c", JOB, str(tmp_path)], capture_output=True, text=True, check=True).stdout

    first = job()
    kept = sorted((tmp_path / "zhllama").glob("*-cache"))
    assert kept and len(list((tmp_path / "zhllama").glob("*.sha256"))) == len(kept)
    for path in kept:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert job() == first


def test_one_process_at_a_time_uses_a_directory(tmp_path: Path) -> None:
    """A second one neither removes what the first writes nor seals what a killed one left half-written, and says why it keeps nothing."""
    holding = JOB + "\nprint('ready', flush=True)\nsys.stdin.read()"
    words = [sys.executable, "-c", holding, str(tmp_path)]
    place = tmp_path / "zhllama"
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        value = first.stdout.readline()
        assert first.stdout.readline() == "ready\n"
        fresh = sorted(place.glob("*-cache"))
        second = subprocess.run([sys.executable, "-c", JOB, str(tmp_path)], capture_output=True, text=True, check=True)
        assert second.stdout == value and "another process uses it; this one compiles its own" in second.stderr
        assert fresh and sorted(place.glob("*-cache")) == fresh and not list(place.glob("*.sha256"))
        first.kill()
    torn = entry(place, "torn", b"half")
    third = subprocess.run([sys.executable, "-c", JOB, str(tmp_path)], capture_output=True, text=True, check=True)
    assert third.stdout == value and "note" not in third.stderr, "the lock of a killed process is free"
    assert not torn.exists() and len(list(place.glob("*.sha256"))) == len(list(place.glob("*-cache"))) > 0


def test_an_interrupt_seals_all_but_what_may_be_half_written(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys, time
from zhllama_jax.cli import compilation, program
def verb(words):
    compilation.cache(pathlib.Path(sys.argv[1]))
    for name, age in (("before", 60), ("torn", 0)):
        path = pathlib.Path(sys.argv[1], "zhllama", f"{name}-cache")
        path.write_bytes(b"program")
        os.utime(path, (time.time() - age,) * 2)
    raise KeyboardInterrupt
program._run = verb
program.main()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "zhllama: interrupted\n")
    assert [path.name for path in (tmp_path / "zhllama").glob("*.sha256")] == ["before-cache.sha256"]


@pytest.mark.usefixtures("accelerator")
def test_a_second_verb_of_one_process_goes_on_with_its_directory(
    chosen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compilation.cache(tmp_path)
    mine = entry(tmp_path / "zhllama", "mine", b"program")
    compilation.cache(tmp_path)
    assert mine.exists() and not capsys.readouterr().err and chosen
