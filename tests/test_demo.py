"""The demo at its true size, from the installed wheel in an empty folder, held to its promises. Minutes a seed: a nightly test."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

OF_THE_HARNESS = ("JAX_NUM_CPU_DEVICES", "JAX_NUMPY_RANK_PROMOTION", "XLA_FLAGS")
"""What conftest sets to make the other tests strict and quick to compile; the demo runs as a user runs it."""


def by(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by one of their cells."""
    return {row[key]: row for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_keeps_its_promises(seed: int, installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in OF_THE_HARNESS}
    words = [installed / "zhllama", "demo", "--seed", str(seed)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "runs" / "demo"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and [path.name for path in output.parent.iterdir()] == ["demo"]
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))

    bits = {after: row["chinese"] for after, row in by(report["likelihood"]["rows"], "after").items()}
    assert bits["pretrain"] <= 0.2 * bits["resized"], "bits per character fall by at least 80 % in pre-training"
    assert bits["pretrain"] < 2.0
    assert bits["tune"] < 2.0, "tuning does not ruin the language"
    baselines = {row["name"]: row["chinese"] for row in report["baselines"]}
    assert len(baselines) == 2, "the n-gram of characters and the un-extended model"
    assert bits["pretrain"] < min(baselines.values()), baselines

    exams = by(report["exams"]["rows"], "after")
    assert exams["tune"]["exact"] >= 0.6
    assert exams["resized"]["exact"] < 0.05 and exams["pretrain"]["exact"] < 0.05
    assert exams["tune"]["most_frequent"] < 0.1
    shown, written = (re.sub("[ -]+", " ", text) for text in (done.stdout, (output / "report.md").read_text(encoding="utf-8")))
    assert shown == written, "what is shown is the report, with aligned tables"
