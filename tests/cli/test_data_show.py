"""What is learnt can be told from what is only read, with colours and without; every sign is seen."""

import json
from pathlib import Path

import pytest
import rich.console

from zhllama_jax.cli import data_show, program

ROWS = [
    {"instruction": "问\t一", "output": "The sea."},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2},
    {"instruction": "c\\d", "output": "e\x1b[31m"},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


def show(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    assert program.run(["data", "show", *map(str, words)]) == 0
    return capsys.readouterr()


def test_examples_and_counts(english_pieces: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = show(capsys, "--tokenizer", english_pieces, "--files", rows)
    assert "### Instruction:\\n\n问\\t一\\n\n\\n\n### Response:[ The sea.</s>]\n" in out
    assert "### Response:[ b</s>]\\n\n\\n\n### Instruction:\\n\na\\n\n\\n\n### Response:[ b</s>]\n" in out
    assert "c\\\\d" in out and "e\\x1b[31m</s>" in out and "\x1b" not in out
    assert out.startswith("read, [learnt], \\n ends a line\n")
    assert f"example 1, {rows}:1 (messages, 2 turns: " in out
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("source ", "rows.json  "))}
    assert table["rows.json"][1:4] == ["3", "3", "4"]
    assert "rows.json: rows.json: 2 alpaca, 1 messages" in out
    assert err.startswith("next: zhllama data build --tokenizer ") and "--sft.files" in err


def test_which_examples_and_their_ids(english_pieces: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tokenizer", english_pieces, "--sft.files", rows, "--sft.template", "none", "--examples", "1", "--start", "1", "--ids"]
    out, _ = show(capsys, *words)
    assert out.count("example ") == 1 and "<s>a[b</s>]a[b</s>]\n" in out
    ids = [line.split() for line in out.splitlines() if line.startswith(("read ", "learnt "))]
    assert [words[0] for words in ids] == ["read", "learnt", "read", "learnt"]
    assert ids[0][1] == "1" and ids[1][-1] == ids[3][-1] == "2"


def test_text_with_the_borders_of_documents(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"Rivers run {number}."}) + "\n" for number in range(50)))
    out, err = show(capsys, "--tokenizer", english_pieces, "--files", path, "--limit", "5")
    assert "(text, packing documents, rows of 512 tokens)" in out
    assert "<s>[Rivers run 0.</s>]\n--- segment 2 ---\n<s>[Rivers run 1.</s>]" in out.replace("[ ", "[")
    assert "--text.files" in err


def test_colours_on_a_terminal_and_none_where_none_are_wanted(
    english_pieces: Path, rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out, _ = show(capsys, "--tokenizer", english_pieces, "--files", rows, "--examples", "1")
    assert "\x1b[36m" in out and "\x1b[1;32m The sea.</s>\x1b[0m" in out and "[ The sea" not in out.replace("\x1b[", "")
    monkeypatch.setenv("NO_COLOR", "1")
    out, _ = show(capsys, "--tokenizer", english_pieces, "--files", rows, "--examples", "1")
    assert "\x1b" not in out and "[ The sea.</s>]" in out


def test_long_lines_are_not_folded(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "字" * 300, "output": "x"}, ensure_ascii=False), encoding="utf-8")
    out, _ = show(capsys, "--tokenizer", english_pieces, "--sft.files", path, "--sft.length", "2000")
    assert "字" * 300 in out
    assert rich.console.Console().width < 300


def test_the_sources_of_a_training(english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "中文.txt"
    text.write_text("江河都往海里流\n\n海却不满", encoding="utf-8")
    config = tmp_path / "train.yaml"
    config.write_text(
        f"model: {{tokenizer: {english_pieces}}}\noutput: {tmp_path / 'run'}\nstage: full\nsteps: 1\n"
        f"data: {{sources: [{{text: {{files: [{text}], length: 64}}, share: {{weight: 3, max_rows: 7}}}}, "
        f"{{sft: {{files: [{rows}], length: 64, template: none}}}}]}}\n"
    )
    out, err = show(capsys, "--config", config, "--examples", "1")
    assert "source 1 of 2: 中文 (text" in out and "source 2 of 2: rows (instructions, template none" in out
    parts = [line.split() for line in out.splitlines()[-4:]]
    assert parts[0] == ["mixture", "weight", "per", "cent", "max_epochs", "max_rows", "max_tokens"]
    assert parts[2:] == [["中文", "3", "75.0", "-", "7", "-"], ["rows", "1", "25.0", "-", "-", "-"]]
    assert err == "next: zhllama train --config FILE\n"
    assert not (tmp_path / "run").exists(), "looking writes nothing"


def test_a_configuration_for_building(english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "build.yaml"
    config.write_text(f"tokenizer: {english_pieces}\noutput: {tmp_path / 'rows'}\nsft: {{files: [{rows}], length: 64, template: none}}\n")
    out, err = show(capsys, "--config", config)
    assert "[b</s>]" in out and err == "next: zhllama data build --config FILE\n"


def test_the_rows_of_a_pipeline_have_its_length(
    english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "en.txt"
    text.write_text("".join(f"Rivers run to the sea, {number}.\n" for number in range(40)))
    config = tmp_path / "adapt.yaml"
    config.write_text(
        f"output: {tmp_path / 'run'}\nbase: {{model: llama}}\nvocabulary: {{added: [x.model]}}\n"
        f"texts: {{chinese: {{files: [{text}], held_out: 0.1}}}}\ninstructions: {{files: [{rows}]}}\nsequence_length: 48\n"
        "trainings: [{name: rows, texts: {chinese: 1}, stage: {preset: embeddings}, steps: 1}]\n"
    )
    out, _ = show(capsys, "--config", config, "--tokenizer", english_pieces, "--examples", "1")
    assert out.count("rows of 48 tokens)") == 2 and "512" not in out
    assert "row 0: 49 tokens, 48 learnt" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to show: give --files FILE"),
        (["--files", "missing.txt"], "missing.txt names no"),
        (["--sft.files", "a.json", "--examples", "-1"], "examples and start must be at least 0"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, english_pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["data", "show", "--tokenizer", str(english_pieces), *words]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_tokenizer_is_needed(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["data", "show", "--files", str(rows)]) == 1
    assert "say with --tokenizer which tokenizer" in capsys.readouterr().err


def test_every_sign_is_seen() -> None:
    assert data_show.visible("a\nb\\c\t\u3000\x1b\u200b中") == "a\\n\nb\\\\c\\t\u3000\\x1b\\u200b中"
