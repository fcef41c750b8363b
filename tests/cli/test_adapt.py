"""The verb hands its file to the pipeline; the pipeline itself is tried in tests/adapt."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.adapt import demonstration, pipeline
from zhllama_jax.cli import program
from zhllama_jax.train import config as train_config

CONFIG = """
output: {output}
texts: {{english: {{files: [a.txt]}}, chinese: {{files: [b.txt], held_out: 0.1}}}}
base: {{model: llama}}
vocabulary: {{added: [zh.model]}}
trainings:
- {{name: rows, texts: {{chinese: 1}}, stage: {{preset: embeddings}}, steps: 1}}
"""


def test_the_pipeline_gets_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(CONFIG.format(output=tmp_path / "run"))
    got: list[adapt_config.Adapt] = []

    def run(settings: adapt_config.Adapt, *, say: Callable[[str], None]) -> Path:
        got.append(settings)
        say("[1/1] rows")
        return Path("run/report.md")

    monkeypatch.setattr(pipeline, "run", run)
    assert program.run(["adapt", "--config", str(config), "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert out == "run/report.md\n"
    assert err.startswith("[1/1] rows\nopen run/report.html in a browser; the same as text: run/report.md\n")
    assert (got[0].base.model, got[0].seed, got[0].texts["chinese"].held_out) == ("llama", 3, 0.1)
    assert got[0].trainings[0].stage.preset == "embeddings"


def test_missing_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(CONFIG.format(output=tmp_path / "run"))
    assert program.run(["adapt", "--config", str(config)]) == 1
    assert "zhllama: error: llama not found" in capsys.readouterr().err.splitlines()[-1]


def test_a_text_that_is_not_named_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(CONFIG.format(output=tmp_path / "run").replace("{chinese: 1}", "{chinse: 1}"))
    assert program.run(["adapt", "--config", str(config)]) == 2
    assert "names the text 'chinse'" in capsys.readouterr().err


def test_without_a_file_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["adapt"]) == 2
    assert capsys.readouterr().err.startswith("zhllama: error: missing: --output, --texts")


def test_a_resolved_pipeline_reads_back_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's, which uses every part, with a prompt and a rule that YAML must quote."""
    whole = demonstration.prepare(tmp_path / "run", seed=3)
    *former, last = whole.trainings
    ruled = dataclasses.replace(last.stage, extra_rules=(train_config.Rule("lora/.*/(a|b)", lr_scale=0.5),))
    whole = dataclasses.replace(
        whole,
        trainings=(*former, dataclasses.replace(last, stage=ruled)),
        evaluation=dataclasses.replace(whole.evaluation, samples=("为什么: 天\n- 是 '蓝' 的？ #", "no")),
    )
    (tmp_path / "config.yaml").write_text(whole.to_yaml(), encoding="utf-8")
    got: list[adapt_config.Adapt] = []
    monkeypatch.setattr(pipeline, "run", lambda settings, *, say: got.append(settings) or Path("report.md"))
    assert program.run(["adapt", "--config", str(tmp_path / "config.yaml")]) == 0
    assert got == [whole]
