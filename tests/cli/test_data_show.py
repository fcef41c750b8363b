"""What is learnt can be told from what is only read, with colours and without; every sign is seen."""

import json
import shlex
from pathlib import Path

import pytest
import rich.console

from zhllama_jax.cli import flags, program
from zhllama_jax.data import build, store
from zhllama_jax.data import config as data_config
from zhllama_jax.tokenizer import processor

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
        f"{{sft: {{files: [{rows}], length: 64, template: none}}, share: {{weight: 1}}}}]}}\nglobal_batch: 4\n"
    )
    out, err = show(capsys, "--config", config, "--examples", "1")
    assert "source 1 of 2: 中文 (text" in out and "source 2 of 2: rows (instructions, template none" in out
    parts = [line.split() for line in out.splitlines()[-4:]]
    assert parts[0] == ["mixture", "weight", "per", "cent", "max_epochs", "max_rows", "max_tokens", "rows", "used", "rows", "read", "times"]
    assert parts[2:] == [["中文", "3", "75.0", "-", "7", "-", "1", "3", "3.00"], ["rows", "1", "25.0", "-", "-", "-", "1", "1", "1.00"]]
    assert err == f"next: zhllama train --config {config}\n"
    assert not (tmp_path / "run").exists(), "looking writes nothing"


def test_a_source_of_a_training_that_comes_to_nothing(
    english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.yaml"
    source = f"{{sft: {{files: [{rows}], length: 2, overlong: drop, template: none}}}}"
    config.write_text(
        f"model: {{tokenizer: {english_pieces}}}\noutput: {tmp_path / 'run'}\nstage: full\nsteps: 1\nglobal_batch: 4\n"
        f"data: {{sources: [{source}]}}\n"
    )
    assert program.run(["data", "show", "--config", str(config)]) == 1
    out, err = capsys.readouterr()
    assert "dropped overlong: 3" in out and "source 0 of the mixture has no rows" in err


def test_a_configuration_for_building(english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "build.yaml"
    config.write_text(f"tokenizer: {english_pieces}\noutput: {tmp_path / 'rows'}\nsft: {{files: [{rows}], length: 64, template: none}}\n")
    out, err = show(capsys, "--config", config)
    assert "[b</s>]" in out and err == f"next: zhllama data build --config {config}\n"


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
    out, err = show(capsys, "--config", config, "--tokenizer", english_pieces, "--examples", "1")
    assert out.count("rows of 48 tokens)") == 2 and "512" not in out
    assert "row 0: 49 tokens, 48 learnt" in out and "note" not in err, "who names a tokenizer knows which one counts"


def test_a_pipeline_is_counted_in_its_merged_vocabulary_or_says_that_it_is_not(
    base_model: Path, english_pieces: Path, merged_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, config, merged = tmp_path / "zh.txt", tmp_path / "adapt.yaml", tmp_path / "run" / "steps" / "tokenizer"
    text.write_text("江河都往海里流。\n\n海却不满。\n", encoding="utf-8")
    config.write_text(
        f"output: {tmp_path / 'run'}\nbase: {{model: {base_model}}}\nvocabulary: {{added: [x.model]}}\nsequence_length: 32\n"
        f"texts: {{chinese: {{files: [{text}], held_out: 0.001}}}}\n"
        "trainings: [{name: rows, texts: {chinese: 1}, stage: embeddings, steps: 1}]\n"
    )

    def counted(*words: object) -> tuple[int, str]:
        out, err = show(capsys, "--config", config, "--examples", "0", *words)
        head, row = (line.split() for line in out.splitlines() if line.startswith(("source  ", "chinese  ")))
        return int(row[head.index("tokens")]), err

    before, err = counted()
    assert (
        before == counted("--tokenizer", base_model)[0] and f"note: {merged} does not exist yet, so tokens are those of the base's" in err
    )
    merged.mkdir(parents=True)
    (merged / "tokenizer.model").write_bytes(merged_pieces.read_bytes())
    after, err = counted()
    assert (
        after == counted("--tokenizer", merged_pieces)[0] < before and f"note: tokens are those of {merged}, the merged vocabulary" in err
    )


@pytest.mark.parametrize("new", [False, True])
def test_rows_longer_than_the_model_s_context_are_refused_as_in_the_training(
    base_model: Path, english_pieces: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], new: bool
) -> None:
    config, model = tmp_path / "train.yaml", base_model
    if new:
        model = f"{{tokenizer: {english_pieces}, init: {{size: micro, max_position_embeddings: 256}}}}"
    config.write_text(
        f"model: {model}\noutput: {tmp_path / 'run'}\nstage: {'full' if new else 'sft'}\nsteps: 1\nglobal_batch: 8\n"
        f"data: {{sources: [{{sft: {{files: [{rows}], length: 257}}}}]}}\n"
    )
    message = "the rows of rows (sft.length) have 257 tokens, more than the model's context of 256 (max_position_embeddings)"
    for verb in (["data", "show"], ["train"]):
        assert program.run([*verb, "--config", str(config)]) == 1
        assert message in capsys.readouterr().err
    config.write_text(config.read_text().replace("257", "256"))
    show(capsys, "--config", config, "--examples", "0")


def test_rows_longer_than_the_base_s_context_are_refused_as_in_the_pipeline(
    base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "adapt.yaml"
    config.write_text(
        f"output: {tmp_path / 'run'}\nbase: {{model: {base_model}}}\nvocabulary: {{added: [x.model]}}\nsequence_length: 300\n"
        "texts: {chinese: {files: [a.txt], held_out: 0.1}}\ntrainings: [{name: rows, texts: {chinese: 1}, stage: embeddings, steps: 1}]\n"
    )
    assert program.run(["data", "show", "--config", str(config)]) == 1
    assert "sequence_length 300 is more than the base's context of 256 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to show: give --files FILE"),
        (["--files", "missing.txt"], "missing.txt does not exist"),
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


def test_the_next_command_does_what_was_shown(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files, keys and choices of one source go on to `data build`, those of several to `train`."""
    paths = [tmp_path / name for name in ("a b.jsonl", "c.jsonl")]
    for path in paths:
        path.write_text('{"问": "一加一", "output": "二"}\n{"oops\n', encoding="utf-8")
    chosen = ["--sft.files", *paths, "--sft.columns.prompt", "问", "--sft.on_error", "skip", "--sft.packing", "one", "--sft.length", 300]
    out, err = show(capsys, "--tokenizer", english_pieces, *chosen)
    assert "a_b_and_1_more: malformed: 2" in out
    words = shlex.split(err.removeprefix("next: zhllama ").strip())
    assert program.run([str(tmp_path / "built") if word == "DIR" else word for word in words]) == 0
    assert build.key("sft", *_of_store(tmp_path / "built", english_pieces)) == store.read_metadata(tmp_path / "built")["key"]
    capsys.readouterr()
    text = tmp_path / "zh.txt"
    text.write_text("江河都往海里流", encoding="utf-8")
    _, err = show(capsys, "--tokenizer", english_pieces, *chosen, "--text.files", text, "--text.bos", "false")
    words = shlex.split(err.removeprefix("next: zhllama ").strip())
    [experiment], _ = flags.parse("train", program.VERBS["train"], words[1:])
    texts, rows = experiment.data.sources
    assert texts.text == data_config.TextData(files=(str(text),), bos=False) and experiment.epochs == 1
    assert rows.sft == _rows(paths)


def _rows(paths: list[Path]) -> data_config.SftData:
    columns = data_config.Columns(prompt="问")
    return data_config.SftData(files=tuple(map(str, paths)), columns=columns, on_error="skip", packing="one", length=300)


def _of_store(directory: Path, pieces: Path) -> tuple:
    """What names the store that `_rows` would be built into."""
    digests = [[file["sha256"] for file in part] for part in store.read_metadata(directory)["sources"].values()]
    return _rows([directory]), processor.Tokenizer.load(pieces), digests


def test_files_with_faults_can_be_looked_at(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"oops\n{"instruction": "a", "output": "b"}\n')
    assert program.run(["data", "show", "--tokenizer", str(english_pieces), "--files", str(path)]) == 1
    assert "rows.jsonl:1: not JSON" in (err := capsys.readouterr().err) and "on_error: skip" in err
    out, err = show(capsys, "--tokenizer", english_pieces, "--files", path, "--on_error", "skip")
    assert "rows.jsonl: malformed: 1" in out and f"{path}:1: malformed" in out and "--sft.on_error skip" in err


def test_rows_decide_where_no_weights_do(english_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"many": 30, "few": 3}
    for name, count in names.items():
        lines = "".join(f'{{"instruction": "{name} {number}", "output": "b"}}\n' for number in range(count))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    config = tmp_path / "train.yaml"
    sources = ", ".join(f"{{sft: {{files: [{tmp_path / name}.jsonl], length: 64, template: none, packing: one}}}}" for name in names)
    config.write_text(
        f"model: {{tokenizer: {english_pieces}}}\noutput: run\nstage: full\nepochs: 2\nglobal_batch: 1\ndata: {{sources: [{sources}]}}\n"
    )
    out, _ = show(capsys, "--config", config, "--examples", "0")
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("many", "few"))}
    assert table["many"][-3:] == ["30", "60", "2.00"] and table["few"][-3:] == ["3", "6", "2.00"]
    assert "one epoch reads each row of each once" in out
    out, _ = show(capsys, "--config", config, "--examples", "0", "--limit", "2")
    assert "how often each row is read: --limit null tells" in out and "2.00" not in out
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 0.001"))
    out, _ = show(capsys, "--config", config, "--examples", "0")
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("many", "few"))}
    assert table["many"][-3:] == ["30", "1", "0.033"], "what is read is not said to be read 0.00 times"
