"""A vocabulary trained by its verb."""

import itertools
from pathlib import Path

import pytest

from zhllama_jax import files
from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import program
from zhllama_jax.tokenizer import processor
from zhllama_jax.tokenizer import train as tokenizer_train

PARTS = ("江河", "大海", "小鸟", "白云"), ("流过", "看见", "想念", "唱起"), ("高山", "春天", "故乡", "月亮")
LINES = ["".join(words) + "。" for words in itertools.product(*PARTS)]


def train(source: Path, output: Path, *words: str, size: int = 292) -> int:
    return program.run(["tokenizer", "train", "--input", str(source), "--output", str(output), "--vocab_size", str(size), *words])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some lines of Chinese."""
    path = tmp_path / "zh.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_same_text_gives_the_same_bytes(model_type: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.model", "b.model"):
        assert train(text, tmp_path / name, "--model_type", model_type) == 0
    digest = files.sha256(tmp_path / "a.model")
    assert digest == files.sha256(tmp_path / "b.model")
    assert capsys.readouterr().out.count(digest) == 2
    tokenizer = processor.Tokenizer.load(tmp_path / "a.model")
    assert tokenizer.decode(tokenizer.encode(LINES[0])) == LINES[0]


def test_a_folder_is_not_called_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, tmp_path / "out.model") == 1
    assert f"{tmp_path} is a folder: expected a .txt or .jsonl file" in capsys.readouterr().err


def test_bpe_is_the_default_here_and_in_a_pipeline(text: Path, tmp_path: Path) -> None:
    assert train(text, tmp_path / "default.model") == train(text, tmp_path / "bpe.model", "--model_type", "bpe") == 0
    assert files.sha256(tmp_path / "default.model") == files.sha256(tmp_path / "bpe.model")
    assert adapt_config.NewVocabulary(texts=("zh",), vocab_size=292).model_type == "bpe"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "missing.txt", "missing.txt not found"),
        ('{"text": "好"}\n{"text": \n', "rows.jsonl", "rows.jsonl:2: not JSON"),
        ("", "empty.txt", "text"),
        ("短\n", "short.txt", "vocab"),
    ],
)
def test_wrong_input_is_one_line(content: str | None, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert train(tmp_path / name, tmp_path / "out.model", size=2000) == 1
    err = capsys.readouterr().err
    assert err.startswith("zhllama: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.model").exists()


@pytest.mark.parametrize(("output", "message"), [(".", "is a directory"), ("old.model", "exists already"), ("zh.txt", "read as an input")])
def test_an_output_that_may_not_be_written_is_refused_before_the_work(
    output: str, message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_train, "from_texts", lambda *_, **__: pytest.fail("the work began before the output was looked at"))
    (tmp_path / "old.model").write_bytes(b"precious")
    assert train(text, tmp_path / output, *(["--overwrite"] if output == "zh.txt" else [])) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"zhllama: error: {tmp_path / output} ") and message in err and err.count("\n") == 1
    assert (tmp_path / "old.model").read_bytes() == b"precious"


def test_an_existing_output_is_replaced_on_demand(text: Path, tmp_path: Path) -> None:
    (tmp_path / "old.model").write_bytes(b"precious")
    assert train(text, tmp_path / "old.model", "--overwrite") == 0
    assert processor.Tokenizer.load(tmp_path / "old.model").vocab_size == 292
