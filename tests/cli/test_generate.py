"""Answers, and only answers, on standard output."""

import gzip
import json
import shutil
import sys
from pathlib import Path

import pytest

from zhllama_jax import hub
from zhllama_jax.cli import program, ready
from zhllama_jax.data import chat
from zhllama_jax.decode import config as decode_config
from zhllama_jax.decode import stream


def generate(model: Path, *words: str) -> int:
    return program.run(["generate", "--model", str(model), "--max_new_tokens", "6", *words])


def expected(model: Path, prompts: list[str], template: str, **flags: object) -> list[str]:
    loaded = ready.load(model)
    sampling, generation = decode_config.resolve({"max_new_tokens": 6, **flags}, loaded.generation)
    ids = [chat.render_prompt(loaded.tokenizer, prompt, template=template) for prompt in prompts]
    answers = stream.complete(
        loaded.config, loaded.weights, loaded.tokenizer, ids, sampling=sampling, generation=generation, continuation=template == "none"
    )
    return [answer.text for answer in answers]


def test_standard_output_is_just_the_continuation(base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(base_model, "--prompt", "The sea", "--template", "none", "--temperature", "0") == 0
    [text] = expected(base_model, ["The sea"], "none", temperature=0)
    assert text
    assert capsys.readouterr() == (text + "\n", "")


def test_the_template_comes_from_the_directory(tuned_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tuned_model, "--prompt", "The sea", "--seed", "3") == 0
    assert capsys.readouterr().out == expected(tuned_model, ["The sea"], "alpaca", seed=3)[0] + "\n"


def test_several_prompts_are_answered_in_order(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tmp_path / "prompts.txt"
    more.write_text("Rivers run\n\nShe reads\n")
    words = ["--prompt", "The sea", "A small", "--prompts", str(more), "--temperature", "0", "--json_lines"]
    assert generate(base_model, *words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    prompts = ["The sea", "A small", "Rivers run", "She reads"]
    assert [row["prompt"] for row in rows] == prompts
    assert [row["text"] for row in rows] == expected(base_model, prompts, "none", temperature=0)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}


def test_rows_of_prompts_join_instruction_and_input(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One"}\n{"instruction": "Two", "input": "three", "output": "four"}\n')
    assert generate(base_model, "--prompts", str(path), "--json_lines") == 0
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == ["One", "Two\nthree"]


@pytest.mark.parametrize("name", ["prompts.jsonl.gz", "prompts.json", "prompts.txt.gz", "prompts.JSON.gz", "prompts"])
def test_prompts_are_read_by_the_file_s_name(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """What is packed is unpacked, rows are rows, and a list may hold texts."""
    rows: list[object] = [{"prompt": "One"}, {"instruction": "Two"}, *(["Three"] if "JSON" in name else [])]
    kind = name.lower().removesuffix(".gz").partition(".")[2]
    text = {"jsonl": "\n".join(map(json.dumps, rows)), "json": json.dumps(rows, indent=1)}.get(kind, "One\n\nTwo\n")
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert generate(base_model, "--prompts", str(tmp_path / name), "--json_lines") == 0
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == ["One", "Two", "Three"][: len(rows)]


def test_prompts_of_another_kind_are_refused(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\nOne\n")
    assert generate(base_model, "--prompts", str(tmp_path / "prompts.csv")) == 1
    assert f"{tmp_path / 'prompts.csv'}: cannot tell what this file holds: name it .txt (one prompt a line)" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["0", "false", "[]"])
def test_an_input_that_is_no_text_is_refused(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], empty: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"instruction": "One", "input": null}}\n{{"instruction": "Two", "input": {empty}}}\n')
    assert generate(base_model, "--prompts", str(path)) == 1
    assert "prompts.jsonl:2: expected a text under 'prompt', or under 'instruction' and 'input'" in capsys.readouterr().err


def test_one_prompt_streams_to_a_terminal(base_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert generate(base_model, "--prompt", "The sea", "--temperature", "0") == 0
    assert capsys.readouterr().out == expected(base_model, ["The sea"], "none", temperature=0)[0] + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to answer: give --prompt TEXT or --prompts FILE"),
        (["--prompt", "x", "--template", "alpaka"], "no template 'alpaka': choose one of"),
        (["--prompt", "x", "--temperature", "-1"], "temperature must be 0 (greedy) or above, got -1.0"),
        (["--prompts", "nowhere.txt"], "nowhere.txt not found"),
        (["--prompt", "word " * 300], "leaves no room in the context of 256"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], message: str, base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(base_model, *words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("zhllama: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_malformed_row_is_named_with_its_line(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One"}\n{"prompt": 2}\n')
    assert generate(base_model, "--prompts", str(path)) == 1
    assert f"{path}:2: expected a text under 'prompt'" in capsys.readouterr().err
    path.write_text('{"prompt": "One"\n')
    assert generate(base_model, "--prompts", str(path)) == 1
    assert f"{path}:1: not JSON" in capsys.readouterr().err


def test_a_missing_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["generate", "--model", "nowhere", "--prompt", "x"]) == 1
    assert capsys.readouterr().err == f"zhllama: error: nowhere not found: {hub.absent('model')}\n"


def test_a_vocabulary_larger_than_the_model_is_one_line(
    base_model: Path, english_pieces: Path, chinese_pieces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_model, model)
    words = ["--base", str(english_pieces), "--added", str(chinese_pieces), "--output", str(model / "tokenizer.model")]
    assert program.run(["tokenizer", "merge", *words, "--proof_strings", "10", "--overwrite"]) == 0
    capsys.readouterr()
    assert generate(model, "--prompt", "x") == 1
    err = capsys.readouterr().err
    assert f"{model / 'tokenizer.model'} has 412 pieces, the model beside it 340 rows, so it is not the model's" in err
    assert f"zhllama resize --model {model} --tokenizer MERGED --output GROWN" in err
    assert err.count("\n") == 1


def test_a_file_without_a_prompt_is_named(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").touch()
    assert program.run(["generate", "--model", str(base_model), "--prompts", str(tmp_path / "empty.txt")]) == 1
    assert f"{tmp_path / 'empty.txt'} holds no prompt" in capsys.readouterr().err


def test_a_system_text_takes_the_place_of_the_head(
    tuned_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids are those that a row with that system text is learnt with; a template without a head refuses it in one line."""
    asked: list[list[int]] = []

    def complete(config: object, weights: object, tokenizer: object, ids: list[list[int]], **how: object) -> list[stream.Completion]:
        asked.extend(ids)
        return [stream.Completion("x", [1], "stop")] * len(ids)

    monkeypatch.setattr(stream, "complete", complete)
    assert generate(tuned_model, "--prompt", "The sea", "--system", "Be brief.") == 0
    example = chat.SftExample("The sea", "", "answer", system="Be brief.")
    learnt = chat.render_example(ready.load(tuned_model).tokenizer, example)
    assert learnt is not None and asked == [learnt.tokens[: learnt.loss_mask.index(1)]]
    capsys.readouterr()
    assert generate(tuned_model, "--prompt", "The sea", "--system", "Be brief.", "--template", "none") == 1
    assert "the template 'none' has no place for a system text: choose one of alpaca" in capsys.readouterr().err
