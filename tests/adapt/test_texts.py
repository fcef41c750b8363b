"""What is held out is never learned from, whoever asks: the vocabulary, the n-gram model, the packed rows, the scores."""

import json
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax.adapt import texts
from zhllama_jax.data import build
from zhllama_jax.data import config as data_config
from zhllama_jax.tokenizer import processor

DOCUMENTS = [f"Document {number}: the river runs to the sea." for number in range(200)]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join([*DOCUMENTS, *DOCUMENTS[:20]]), encoding="utf-8")
    return str(path)


@pytest.fixture
def others(tmp_path: Path) -> str:
    """Documents for validation, of which ten stand in the corpus too."""
    path = tmp_path / "others.txt"
    path.write_text("\n\n".join([*DOCUMENTS[50:60], "Something else.", "And more."]), encoding="utf-8")
    return str(path)


@pytest.fixture
def instructions(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {number}.", "input": "now" * (number % 2), "output": str(number)} for number in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("salt", ["", "other"])
def test_a_share_is_held_out_and_the_rest_is_learned(corpus: str, salt: str) -> None:
    text = data_config.TextData(files=(corpus,), held_out=0.2, salt=salt)
    learned, held_out = list(texts.learned({"text": text}, "text")), texts.held_out(text)
    assert sorted(learned + held_out) == sorted(DOCUMENTS)
    assert 20 <= len(held_out) <= 60


def test_documents_for_validation_are_not_learned_though_they_stand_in_the_files(corpus: str, others: str) -> None:
    text = data_config.TextData(files=(corpus,), validation_files=(others,))
    assert list(texts.learned({"text": text}, "text")) == DOCUMENTS[:50] + DOCUMENTS[60:]
    assert texts.held_out(text) == [*DOCUMENTS[50:60], "Something else.", "And more."]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
def test_the_packed_rows_split_alike(
    corpus: str, others: str, english_pieces: Path, tmp_path: Path, apart: bool, deduplicate: bool
) -> None:
    split = {"validation_files": (others,)} if apart else {"held_out": 0.2}
    text = data_config.TextData(files=(corpus,), length=64, deduplicate=deduplicate, **split)
    built = build.text(text, processor.Tokenizer.load(english_pieces), tmp_path / "store").metadata["splits"]
    for name, expected in (("train", list(texts.learned({"text": text}, "text"))), ("validation", texts.held_out(text))):
        assert (built[name]["documents"], built[name]["characters"]) == (len(expected), sum(map(len, expected)))


def test_characters_are_counted_from_the_start(corpus: str) -> None:
    text = data_config.TextData(files=(corpus,), held_out=0.2)
    whole = "".join(texts.held_out(text))
    for room in (1, 30, 100, len(whole)):
        assert "".join(texts.held_out(text, max_characters=room)) == whole[:room]
    assert "".join(texts.held_out(text, max_characters=len(whole) + 1)) == whole


def test_nothing_held_out_is_said(corpus: str) -> None:
    text = data_config.TextData(files=(corpus,))
    assert not texts.holds_out(text)
    with pytest.raises(ValueError, match=r"text\.txt: nothing is held out; set held_out"):
        texts.held_out(text)
    assert texts.holds_out(data_config.TextData(files=(corpus,), held_out=0.1))
    assert texts.holds_out(data_config.TextData(files=(corpus,), validation_files=(corpus,)))


def test_a_share_that_no_document_falls_into_is_not_said_to_be_missing(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text\.txt: held_out 1e-09 holds out none of 2\d\d documents: raise it"):
        texts.held_out(data_config.TextData(files=(corpus,), held_out=1e-9))
    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"blank\.txt: no text to measure on in there"):
        texts.held_out(data_config.TextData(files=(corpus,), validation_files=(str(blank),)))


def test_held_out_rows_are_those_that_are_not_packed(instructions: str, english_pieces: Path, tmp_path: Path) -> None:
    rows = data_config.SftData(files=(instructions,), held_out=0.2, length=256, template="none")
    held_out = texts.held_out_rows(rows)
    built = build.sft(rows, processor.Tokenizer.load(english_pieces), tmp_path / "store").metadata["splits"]
    assert built["train"]["examples"] == 200 - len(held_out) > 100
    assert built["validation"]["examples"] == len(held_out) > 10
    assert built["validation"]["characters"] == sum(len(row.output) for row in held_out)


def test_rows_apart_are_all_held_out_and_none_without_a_share(instructions: str) -> None:
    assert len(texts.held_out_rows(data_config.SftData(files=("none.jsonl",), validation_files=(instructions,)))) == 200
    assert texts.held_out_rows(data_config.SftData(files=(instructions,))) == []


def test_what_one_text_holds_out_is_learned_from_none(corpus: str, others: str, english_pieces: Path, tmp_path: Path) -> None:
    """The same documents under two names: with a large share, with none, and as another text's validation files."""
    named = {
        "much": data_config.TextData(files=(corpus,), held_out=0.3),
        "none": data_config.TextData(files=(corpus,), length=64),
        "apart": data_config.TextData(files=("unused.txt",), validation_files=(others,)),
    }
    held_out = {*texts.held_out(named["much"]), *texts.held_out(named["apart"])}
    expected = [document for document in DOCUMENTS if document not in held_out]
    assert 100 < len(expected) < 150
    assert list(texts.learned(named, "much")) == list(texts.learned(named, "none")) == expected
    tokenizer = processor.Tokenizer.load(english_pieces)
    built = build.text(named["none"], tokenizer, tmp_path / "store", others=texts.others(named, "none"))
    assert built.metadata["splits"]["train"]["documents"] == len(expected)
    with pytest.raises(ValueError, match="holds data built from other"):
        build.text(named["none"], tokenizer, tmp_path / "store")


@pytest.mark.parametrize("split", [{"held_out": 0.2}, {"validation_files": ("others",)}])
def test_reference_rows_split_by_the_same_lines(
    corpus: str, others: str, english_pieces: Path, tmp_path: Path, split: dict[str, Any]
) -> None:
    """Lines of paragraphs, with a blank one between: no line that is scored is in the rows, though `documents` says blank_line."""
    split = {"validation_files": (others,)} if "validation_files" in split else split
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(f"{first}\n{second}" for first, second in zip(DOCUMENTS[::2], DOCUMENTS[1::2], strict=True)))
    text = data_config.TextData(files=(str(path),), packing="reference", length=16, **split)
    learned, held_out = list(texts.learned({"text": text}, "text")), texts.held_out(text)
    assert not set(learned) & set(held_out)
    assert {*learned, *held_out} >= set(DOCUMENTS)
    built = build.text(text, processor.Tokenizer.load(english_pieces), tmp_path / "store").metadata["splits"]
    for name, expected in (("train", learned), ("validation", held_out)):
        assert built[name]["characters"] == sum(map(len, expected)) > 0
