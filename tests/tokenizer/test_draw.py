"""The picture is a picture, the same each time, and needs no Chinese font."""

import warnings
from pathlib import Path

import pytest

from zhllama_jax.tokenizer import analyse, draw, merge, processor


def test_the_picture(base_model: Path, chinese_model: Path, tmp_path: Path, chinese_lines: list[str]) -> None:
    pytest.importorskip("matplotlib")
    merged = merge.merge(base_model, [chinese_model], proof_strings=100)
    (tmp_path / "zh.txt").write_text("\n".join(chinese_lines[:50]), encoding="utf-8")
    report = analyse.report(
        processor.Tokenizer.load(base_model),
        processor.Tokenizer.from_bytes(merged.serialized),
        [(name, [tmp_path / "zh.txt"]) for name in ("wiki", "小说", "news", "詩")],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw.picture(report, tmp_path / "a.png")
        draw.picture(report, tmp_path / "b.png")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(b"\x89PNG") and len(first) > 5_000
    assert first == second
