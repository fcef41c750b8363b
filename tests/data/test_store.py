"""What is written is read, without TensorFlow, and nothing foreign is opened."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax.data import pack, store

SHA = "ab" * 32


def metadata(length: int = 9, vocab_size: int = 500) -> dict[str, Any]:
    return {"tokenizer_sha256": SHA, "vocab_size": vocab_size, "length": length}


def rows(count: int, length: int = 9, vocab_size: int = 500, seed: int = 0) -> list[pack.Row]:
    rng = np.random.default_rng(seed)
    return [
        pack.Row(
            rng.integers(0, vocab_size, length + 1).astype(np.uint32),
            rng.integers(0, 2, length + 1).astype(np.uint8),
            np.sort(rng.integers(0, 5, length + 1)).astype(np.uint16),
        )
        for _ in range(count)
    ]


def same(left: pack.Row, right: pack.Row) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("vocab_size", [500, 65_535, 65_536, 130_000])
@pytest.mark.parametrize("length", [9, 16])
def test_round_trip(tmp_path: Path, length: int, vocab_size: int) -> None:
    train, validation = rows(20, length, vocab_size), rows(3, length, vocab_size, seed=1)
    train[0].tokens[0] = vocab_size - 1
    written = store.write(tmp_path / "s", {"train": iter(train), "validation": validation}, metadata=metadata(length, vocab_size))
    for split, expected in (("train", train), ("validation", validation)):
        opened = store.open_store(tmp_path / "s", split, tokenizer_sha256=SHA)
        assert len(opened) == len(written[split]) == len(expected)
        assert opened.length == length
        assert all(same(opened[index], row) for index, row in enumerate(expected))
        assert same(opened[-1], expected[-1])
        for index in (len(expected), -len(expected) - 1):
            with pytest.raises(IndexError, match="row"):
                opened[index]


def test_nothing_is_left_where_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    assert len(store.open_store(tmp_path / "s")) == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_a_row_takes_about_two_bytes_a_token(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packed = list(pack.pack((rng.integers(3, 60_000, 150) for _ in range(5000)), length=512, bos_id=1, eos_id=2))
    store.write(tmp_path / "s", {"train": packed}, metadata=metadata(512, 60_000))
    size = sum(path.stat().st_size for path in (tmp_path / "s").iterdir())
    assert size < len(packed) * 513 * 2.5


def test_directory_holds_the_dataset_and_nothing_else(tmp_path: Path) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [
        "checksums.json",
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "packed_rows-train.array_record-00000-of-00001",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_only_a_store_with_nothing_else_in_it_is_replaced(tmp_path: Path) -> None:
    """Be it damaged; a foreign file of the name of ours makes no store."""
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    next((tmp_path / "s").glob("packed_rows-*")).write_bytes(b"damaged")
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"s holds notes\.txt, which zhllama did not write there"):
        store.write(tmp_path / "s", {"train": rows(3)}, metadata=metadata(), overwrite=True)
    (tmp_path / "s" / "notes.txt").unlink()
    store.write(tmp_path / "s", {"train": rows(3)}, metadata=metadata(), overwrite=True)
    assert len(store.open_store(tmp_path / "s")) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / store.CHECKSUMS).write_text('{"thesis.pdf": {"bytes": 1, "sha256": ""}}')
    with pytest.raises(ValueError, match=r"features\.json not found: .* only a directory of its kind that zhllama wrote is ever replaced"):
        store.write(tmp_path / "other", {"train": rows(3)}, metadata=metadata(), overwrite=True)


def test_metadata_may_be_filled_in_while_rows_are_read(tmp_path: Path) -> None:
    described = metadata()

    def counted() -> Iterator[pack.Row]:
        yield from rows(3)
        described["counts"] = {"rows": 3}

    opened = store.write(tmp_path / "s", {"train": counted()}, metadata=described)["train"]
    assert opened.metadata == store.read_metadata(tmp_path / "s") == metadata() | {"counts": {"rows": 3}}


def test_no_tensorflow_no_jax_and_not_a_word(tmp_path: Path, repository: Path) -> None:
    code = f"""
import sys
import numpy as np
from zhllama_jax.data import batches, pack, store
rows = [pack.Row(np.full(5, i, np.uint32), np.ones(5, np.uint8), np.ones(5, np.uint16)) for i in range(8)]
store.write({str(tmp_path / "s")!r}, {{"train": rows}}, metadata={metadata(4)!r})
run = batches.Batches([store.open_store({str(tmp_path / "s")!r})], global_batch=8, seed=0)
assert sorted(run.rows(0).tokens[:, 0]) == list(range(8))
assert not {{"tensorflow", "jax"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == result.stderr == ""


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[pack.Row]:
        yield from rows(3)
        raise ValueError("a.jsonl:4: not JSON")

    with pytest.raises(ValueError, match=r"^a\.jsonl:4: not JSON$"):
        store.write(tmp_path / "s", {"train": broken()}, metadata=metadata())
    assert list(tmp_path.iterdir()) == []


def test_existing_stores_are_replaced_only_on_request(tmp_path: Path) -> None:
    store.write(tmp_path / "s", {"train": rows(3)}, metadata=metadata())
    with pytest.raises(ValueError, match="exists already"):
        store.write(tmp_path / "s", {"train": rows(4)}, metadata=metadata())
    assert len(store.open_store(tmp_path / "s")) == 3
    assert len(store.write(tmp_path / "s", {"train": rows(4)}, metadata=metadata(), overwrite=True)["train"]) == 4


@pytest.mark.parametrize(
    ("splits", "described", "message"),
    [
        ({"train": rows(2), "validation": []}, metadata(), "no rows for validation"),
        ({"train": rows(2, vocab_size=600)}, metadata(vocab_size=3), "but the vocabulary has 3"),
        ({"train": rows(2)}, {"length": 9}, "must hold tokenizer_sha256, vocab_size"),
        ({"train": rows(2, length=8)}, metadata(9), "row 0 has 9 tokens instead of 10"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, splits: dict[str, Any], described: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.write(tmp_path / "s", splits, metadata=described)
    assert list(tmp_path.iterdir()) == []


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    with pytest.raises(
        ValueError, match=r"was tokenised with another tokenizer \(sha256 abababababab…, vocabulary 500\).*build the data again"
    ):
        store.open_store(tmp_path / "s", tokenizer_sha256="cd" * 32)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"features\.json not found"):
        store.open_store(tmp_path / "gone")
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    with pytest.raises(ValueError, match="has no split 'test', only 'train'"):
        store.open_store(tmp_path / "s", "test")


EVIL = "evil_module_of_a_stranger.Feature"
ATTACKS = {
    "class of a feature": lambda features: features["featuresDict"]["features"]["tokens"].update(pythonClassName=EVIL),
    "class of the whole": lambda features: features.update(pythonClassName=EVIL),
    "snake case": lambda features: features.update(python_class_name=EVIL),
    "legacy form": lambda features: features.update(type=EVIL, content={}),
    "legacy form inside": lambda features: features["featuresDict"]["features"].update(tokens={"type": EVIL, "content": {}}),
    "another class of TFDS": lambda features: features.update(pythonClassName="tensorflow_datasets.core.features.Dataset"),
    "a list": lambda features: features.update(featuresDict=[{"pythonClassName": EVIL}]),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_strangers_directory_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Any) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    (tmp_path / "evil_module_of_a_stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "s" / "features.json"
    features = json.loads(path.read_text())
    attack(features)
    path.write_text(json.dumps(features))
    with pytest.raises(ValueError, match="is no store of ours and was not opened"):
        store.open_store(tmp_path / "s")
    assert "evil_module_of_a_stranger" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "mnist"),
        ("fileFormat", "tfrecord"),
        ("splits", [{"name": "train", "filepathTemplate": "../../{SPLIT}", "shardLengths": ["2"]}]),
        ("splits", 3),
        ("splits", [3]),
    ],
)
def test_a_strangers_description_is_refused(tmp_path: Path, key: str, value: object) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    path = tmp_path / "s" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match="is no store of ours"):
        store.open_store(tmp_path / "s")


def test_metadata_of_a_stranger_are_refused(tmp_path: Path) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    (tmp_path / "s" / "metadata.json").write_text("[]")
    with pytest.raises(ValueError, match=r"metadata\.json lacks"):
        store.open_store(tmp_path / "s")


def flip(path: Path, place: int) -> None:
    """Changes one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


DAMAGES = {
    "gone": (lambda path: path.unlink(), "is gone"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "bytes instead of"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_split_whose_file_is_gone_or_cut_is_not_opened(tmp_path: Path, damage: Any, message: str) -> None:
    store.write(tmp_path / "s", {"train": rows(20), "validation": rows(2)}, metadata=metadata())
    damage(tmp_path / "s" / "packed_rows-train.array_record-00000-of-00001")
    with pytest.raises(ValueError, match=rf"s is damaged: packed_rows-train\..* {message}.*; build the data again"):
        store.open_store(tmp_path / "s")
    assert len(store.open_store(tmp_path / "s", "validation")) == 2


def test_a_changed_byte_is_found_by_digest_and_named_where_it_is_read(tmp_path: Path) -> None:
    store.write(tmp_path / "s", {"train": rows(200, length=64)}, metadata=metadata(64))
    assert not store.damage(tmp_path / "s", contents=True)
    flip(tmp_path / "s" / "packed_rows-train.array_record-00000-of-00001", 43_000)
    assert not store.damage(tmp_path / "s")
    assert "has another content than was written" in store.damage(tmp_path / "s", contents=True)
    opened = store.open_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"s is damaged: row \d+ of its split 'train' cannot be read \(.*\); build the data again"):
        [opened[number] for number in range(len(opened))]


@pytest.mark.parametrize("content", ["[]", '{"packed_rows-train.array_record-00000-of-00001": {"bytes": 3}}'])
def test_a_record_of_files_that_lists_none_is_refused(tmp_path: Path, content: str) -> None:
    store.write(tmp_path / "s", {"train": rows(2)}, metadata=metadata())
    (tmp_path / "s" / "checksums.json").write_text(content)
    with pytest.raises(ValueError, match=r"checksums\.json does not list the bytes and sha256"):
        store.open_store(tmp_path / "s")
    (tmp_path / "s" / "checksums.json").write_text("{}")
    with pytest.raises(ValueError, match=r"names no file of split 'train'"):
        store.open_store(tmp_path / "s")
