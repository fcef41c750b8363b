"""A store by its verb: its counts are said, a training reads it, and wrong words are one line."""

import json
import shutil
from pathlib import Path

import pytest

from zhllama_jax.cli import program
from zhllama_jax.data import build, store
from zhllama_jax.tokenizer import processor


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sixty distinct documents, one of them twice."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Rivers run to the sea {number} times." for number in [*range(60), 7]))
    return path


def data_build(tokenizer: Path, output: Path, *words: str) -> int:
    return program.run(["data", "build", "--tokenizer", str(tokenizer), "--output", str(output), *words])


def test_a_corpus_becomes_a_store(english_pieces: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--text.files", str(corpus), "--text.length", "32", "--text.held_out", "0.2"]
    assert data_build(english_pieces, tmp_path / "rows", *words) == 0
    out, err = capsys.readouterr()
    tokenizer = processor.Tokenizer.load(english_pieces)
    train = store.open_store(tmp_path / "rows", build.TRAIN, tokenizer_sha256=tokenizer.sha256)
    validation = store.open_store(tmp_path / "rows", build.VALIDATION)
    table = {line.split()[0]: line.split() for line in out.splitlines()}
    assert table["train"][-1] == str(len(train)) and table["validation"][-1] == str(len(validation))
    assert int(table["train"][1]) + int(table["validation"][1]) == 60
    assert "train: duplicate: 1" in out
    assert "rows of 32 tokens" in err and train.length == 32
    assert data_build(english_pieces, tmp_path / "rows", *words) == 0
    again, err = capsys.readouterr()
    assert again == out and "was there already" in err
    (tmp_path / "rows" / "notes.txt").write_text("mine")
    assert data_build(english_pieces, tmp_path / "rows", *words) == 0
    assert "was there already" in capsys.readouterr().err, "who only reads minds no other file"
    assert data_build(english_pieces, tmp_path / "rows", "--text.files", str(corpus), "--text.length", "24", "--overwrite") == 1
    assert "rows holds notes.txt, which zhllama did not write there" in capsys.readouterr().err


def test_instructions_become_a_store(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {number}.", "output": "No." * (1 + 400 * (number == 3))} for number in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "build.yaml"
    config.write_text(f"tokenizer: {english_pieces}\noutput: {tmp_path / 'rows'}\nsft: {{files: [{path}], length: 400, overlong: drop}}\n")
    assert program.run(["data", "build", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "train: dropped overlong: 1" in out
    assert store.open_store(tmp_path / "rows", build.TRAIN).metadata["splits"]["train"]["examples"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say either --text.files FILE … (a corpus) or --sft.files FILE"),
        (["--text.files", "a.txt", "--sft.files", "b.json"], "say either"),
        (["--text.files", "missing.txt"], "missing.txt does not exist"),
        (["--text.files", "a.txt", "--text.length", "1"], "length must be 2 to"),
        (["--text.files", "a.txt", "--text.lenght", "1"], "unknown flag --text.lenght"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_build(english_pieces, tmp_path / "rows", *words) in (1, 2)
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "rows").exists()


def test_a_store_of_other_choices_is_replaced_only_when_told(
    english_pieces: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--text.files", str(corpus), "--text.length"]
    assert data_build(english_pieces, tmp_path / "rows", *words, "32") == 0
    assert data_build(english_pieces, tmp_path / "rows", *words, "16") == 1
    assert "other inputs or choices: choose another output, or replace it with --overwrite" in capsys.readouterr().err
    assert data_build(english_pieces, tmp_path / "rows", *words, "16", "--overwrite") == 0
    assert store.open_store(tmp_path / "rows", build.TRAIN).length == 16


def test_neither_corpus_nor_tokenizer_nor_files_of_others_are_replaced(
    base_model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    inside = Path(shutil.move(corpus, tmp_path / "corpus"))
    shutil.copytree(base_model, tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "Say so.", "output": "So."}) + "\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    text = ["--text.files", str(tmp_path / "corpus"), "--text.length", "16"]
    for output, words, message in (
        (inside, text, "is a file: name a directory"),
        (tmp_path / "corpus", text, "corpus holds"),
        (tmp_path / "model", text, "is read as an input"),
        (rows, ["--sft.files", str(rows)], "is a file: name a directory"),
        (tmp_path / "other", text, "other holds files and no checksums.json"),
        (tmp_path / "model" / "tokenizer.model", ["--sft.files", str(rows)], "lies inside"),
    ):
        for overwrite in ([], ["--overwrite"]):
            assert data_build(tmp_path / "model", output, *words, *overwrite) == 1
            assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_was_left_out_is_named_once(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both splits read the same file: each counts its own rows, and a fault stands once, with its line."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"instruction": "Say {number}.", "output": "yes"}}\n' for number in range(40)) + '{"oops\n')
    words = ["--sft.files", str(path), "--sft.held_out", "0.25", "--sft.on_error", "skip"]
    assert data_build(english_pieces, tmp_path / "rows", *words) == 0
    out = capsys.readouterr().out
    numbers = [int(line.split()[2]) for line in out.splitlines() if line.endswith(" alpaca")]
    assert len(numbers) == 2 and sum(numbers) == 40 and min(numbers) < 25
    assert out.count("malformed: 1") == 1 and out.count(f"  {path}:41: malformed") == 1
