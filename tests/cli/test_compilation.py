"""Where compiled programs are kept, and that what is broken there breaks nothing."""

import json
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
    assert chosen == {"jax_compilation_cache_dir": str(tmp_path / "own")}


@pytest.mark.usefixtures("accelerator")
def test_a_directory_that_cannot_be_made_is_a_note_or_if_named_an_error(
    chosen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".cache").write_text("a file")
    compilation.cache("auto")
    said = capsys.readouterr().err
    assert not chosen and said.count("\n") == 1 and "zhllama: note: compiled programs are not kept in" in said
    with pytest.raises(ValueError, match=r"compilation_cache: .*x: not a directory; name another directory, or off"):
        compilation.cache(tmp_path / ".cache" / "x")


JOB = """
import json, pathlib, sys, warnings
import jax, jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from zhllama_jax.cli import compilation
own = pathlib.Path(sys.argv[1])
compilation.cache(own)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
warnings.simplefilter("ignore")

def value():
    jax.clear_caches()
    compilation_cache.reset_cache()
    return float(jax.jit(lambda x: jnp.sin(x).sum() * 3)(jnp.arange(7.0)))

values = [value(), value()]
kept = {path: path.read_bytes() for path in own.glob("*-cache")}
for size in (0, 1, 2, 20):
    for path, content in kept.items():
        path.write_bytes(content[: len(content) - len(content) // size] if size else b"no entry")
    values.append(value())
print(json.dumps([values, len(kept)]))
"""


def test_broken_entries_break_no_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path / "own")], capture_output=True, text=True, check=True, env={**os.environ}
    )
    values, kept = json.loads(done.stdout)
    assert kept and len(values) == 6 and len(set(values)) == 1
