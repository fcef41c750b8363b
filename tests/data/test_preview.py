"""What is shown is what is built: the same ids and masks, and texts that join to the exact text."""

import json
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.data import build, config, preview
from zhllama_jax.tokenizer import processor


@pytest.fixture(scope="module")
def tokenizer(english_pieces: Path) -> processor.Tokenizer:
    return processor.Tokenizer.load(english_pieces)


def instructions(tmp_path: Path, count: int = 12) -> Path:
    path = tmp_path / "rows.json"
    rows = [
        {"instruction": f"第{number}问?", "output": "The sea." * (number != 5), "history": [["先", "答"]] * (number % 2)}
        for number in range(count)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def corpus(tmp_path: Path, count: int = 20) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"第{number}篇。The sea is never full, {number} times." for number in range(count)), encoding="utf-8")
    return path


def fields(sample: preview.Sample) -> list[tuple[int, int, int]]:
    return [(token.number, int(token.learnt), token.segment) for token in sample.tokens]


def test_examples_are_those_that_are_built(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.SftData(files=(str(instructions(tmp_path)),), length=400, packing="one")
    built = build.sft(data, tokenizer, tmp_path / "out")
    look = preview.sft(data, tokenizer, start=2, examples=5)
    assert len(look.samples) == 5 and look.whole
    for number, sample in enumerate(look.samples, start=2):
        row = built.train[number]
        held = row.segment_ids > 0
        assert fields(sample) == list(
            zip(row.tokens[held].tolist(), row.loss_mask[held].tolist(), row.segment_ids[held].tolist(), strict=True)
        )
    counted = built.metadata["splits"]["train"]
    assert {name: look.counts[name] for name in ("examples", "turns", "tokens", "dropped_empty", "characters")} == {
        name: counted[name] for name in ("examples", "turns", "tokens", "dropped_empty", "characters")
    }
    assert look.counts["learnt"] == counted["targets"] and look.counts["rows"] == counted["rows"] and look.counts["read"] == 12
    assert look.samples[0].about.startswith("alpaca, 1 turn: ") and look.samples[1].about.startswith("alpaca, 2 turns: ")


def test_texts_join_to_the_exact_text(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    look = preview.sft(config.SftData(files=(str(instructions(tmp_path)),)), tokenizer, examples=2)
    shown = ["".join(token.text for token in sample.tokens) for sample in look.samples]
    head = "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    assert shown[0] == f"{head}### Instruction:\n第0问?\n\n### Response: The sea.</s>"
    assert shown[1] == f"{head}### Instruction:\n先\n\n### Response: 答</s>\n\n### Instruction:\n第1问?\n\n### Response: The sea.</s>"
    learnt = "".join(token.text for token in look.samples[1].tokens if token.learnt)
    assert learnt == " 答</s> The sea.</s>"


@pytest.mark.parametrize("packing", ["documents", "reference"])
def test_rows_of_text_are_those_that_are_built(tmp_path: Path, tokenizer: processor.Tokenizer, packing: str) -> None:
    data = config.TextData(files=(str(corpus(tmp_path)),), length=40, packing=packing)  # type: ignore[arg-type]
    built = build.text(data, tokenizer, tmp_path / "out").train
    look = preview.text(data, tokenizer, start=1, examples=3)
    for number, sample in enumerate(look.samples, start=1):
        row = built[number]
        held = int((row.segment_ids > 0).sum())
        assert [token.number for token in sample.tokens] == row.tokens[:held].tolist()
        assert [token.segment for token in sample.tokens] == row.segment_ids[:held].tolist()
    assert look.counts["rows"] == len(built) and look.whole
    assert look.counts["learnt"] == sum(int(built[number].loss_mask.sum()) for number in range(len(built)))


def test_a_row_is_located_by_the_document_that_it_begins_in(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    path = corpus(tmp_path)
    look = preview.text(config.TextData(files=(str(path),), length=40), tokenizer, examples=30)
    documents = path.read_text(encoding="utf-8").split("\n\n")
    for sample in look.samples:
        source, _, line = sample.where.rpartition(":")
        segment = "".join(token.text for token in sample.tokens if token.segment == 1).removeprefix("<s>").removesuffix("</s>")
        assert source == str(path) and segment.strip("\ufffd ") in documents[int(line) // 2]


def test_no_more_is_read_than_is_wanted(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.TextData(files=(str(corpus(tmp_path, 500)),), length=40)
    look = preview.text(data, tokenizer, examples=1, limit=10)
    assert look.counts["documents"] == 10 and not look.whole
    rows = preview.sft(config.SftData(files=(str(instructions(tmp_path, 50)),)), tokenizer, examples=1, limit=10)
    assert rows.counts["read"] == 10 and not rows.whole
    behind = preview.sft(config.SftData(files=(str(instructions(tmp_path, 50)),)), tokenizer, start=30, examples=2, limit=10)
    assert len(behind.samples) == 2 and behind.counts["examples"] == 32


def test_held_out_rows_are_counted_and_not_shown(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.SftData(files=(str(instructions(tmp_path, 40)),), held_out=0.3, length=400)
    look = preview.sft(data, tokenizer, examples=40)
    counts = build.sft(data, tokenizer, tmp_path / "out").metadata["splits"]
    assert len(look.samples) == counts["train"]["examples"] and look.counts["held_out"] > 0
    assert look.counts["held_out"] + look.counts["examples"] + look.counts["dropped_empty"] == 40


def test_rows_that_begin_like_one_of_the_validation_files_are_counted_and_not_shown(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    held = tmp_path / "held.json"
    held.write_text(json.dumps([{"instruction": f"第{number}问?", "output": "Another answer."} for number in (0, 2, 4)]), encoding="utf-8")
    data = config.SftData(files=(str(instructions(tmp_path)),), validation_files=(str(held),), length=400, packing="one")
    built = build.sft(data, tokenizer, tmp_path / "out")
    look = preview.sft(data, tokenizer, examples=40)
    counts = built.metadata["splits"]["train"]
    assert look.counts["dropped_held_out"] == counts["dropped_held_out"] == 3
    assert len(look.samples) == look.counts["examples"] == counts["examples"]
    for number, sample in enumerate(look.samples):
        row = built.train[number]
        assert [token.number for token in sample.tokens] == row.tokens[row.segment_ids > 0].tolist()


def test_rows_of_a_store(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    built = build.sft(config.SftData(files=(str(instructions(tmp_path)),), length=600), tokenizer, tmp_path / "out")
    [first, *_] = preview.rows(built.train, tokenizer, examples=1)
    assert "segments" in first.about and {token.segment for token in first.tokens} == set(
        range(1, int(built.train[0].segment_ids.max()) + 1)
    )
    assert preview.rows(built.train, tokenizer, start=10_000) == []


@pytest.mark.parametrize("choices", [{}, {"bos": False}, {"eos": False}, {"packing": "reference", "bos": False}])
def test_no_more_tokens_are_learnt_than_there_are(tmp_path: Path, tokenizer: processor.Tokenizer, choices: dict[str, Any]) -> None:
    """Of text, tokens count what separates documents, as what is learnt does."""
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{number}\n" for number in range(200)), encoding="utf-8")
    data = config.TextData(files=(str(path),), documents="line", length=16, **choices)
    counts = preview.text(data, tokenizer, examples=0).counts
    if data.packing == "documents":
        begun = counts["documents"] if data.bos and data.eos else 1
        assert counts["learnt"] == counts["tokens"] - begun, "all but what a document begins with where one has ended before it"
    else:
        left_out = counts["tokens"] - counts["learnt"] - counts["rows"]
        assert 0 <= left_out < data.length, "the first of each block, and an end that fills none"
