"""The verb makes the world and hands its recipe to the pipeline; the demo itself is tried in tests/test_demo.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.adapt import pipeline
from zhllama_jax.cli import program


def test_the_world_is_written_and_the_report_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    got: list[adapt_config.Adapt] = []

    def run(settings: adapt_config.Adapt, *, say: Callable[[str], None]) -> Path:
        got.append(settings)
        (tmp_path / "report.md").write_text("# 报告\n")
        return tmp_path / "report.md"

    monkeypatch.setattr(pipeline, "run", run)
    assert program.run(["demo", "--output", str(tmp_path / "run"), "--seed", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "# 报告\n"
    assert f"open {tmp_path / 'report.html'} in a browser; the same as text: {tmp_path / 'report.md'}" in err.splitlines()
    assert got[0].seed == 2
    assert all(Path(path).is_file() for text in got[0].texts.values() for path in text.files)


def test_a_demo_that_cannot_begin_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["demo", "--output", str(tmp_path / "run"), "--seed", "-1"]) in (1, 2)
    assert "seed must lie in 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "notes.txt").write_text("precious")
    assert program.run(["demo", "--output", str(tmp_path)]) == 1
    assert f"{tmp_path} holds files that no run of this pipeline wrote" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
