"""A directory made ready: dtype, template, boundary."""

import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.cli import program, ready
from zhllama_jax.convert import host, llama_hf, source
from zhllama_jax.decode import stream
from zhllama_jax.model import config as model_config
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import processor


def test_a_base_model_has_no_template(base_model: Path) -> None:
    loaded = ready.load(base_model)
    assert (loaded.template, loaded.boundary) == ("none", "joined")
    assert loaded.tokenizer.vocab_size == loaded.config.vocab_size


def test_a_tuned_model_says_how_it_was_asked(tuned_model: Path) -> None:
    assert ready.load(tuned_model).template == "alpaca"


def test_what_the_user_says_goes_before_what_is_recorded(base_model: Path, tuned_model: Path) -> None:
    """A template alone means faithful where nothing is recorded, as in convert and merge, and changes no recorded boundary."""

    def found(model: Path, **said: str) -> tuple[str, str]:
        loaded = ready.load(model, **said)  # type: ignore[arg-type]
        return loaded.template, loaded.boundary

    assert found(base_model, template="alpaca") == ("alpaca", "faithful")
    assert found(base_model, template="alpaca", boundary="joined") == ("alpaca", "joined")
    assert found(tuned_model, template="llama_cpp") == ("llama_cpp", "joined")
    assert found(tuned_model, boundary="faithful") == ("alpaca", "faithful")
    with pytest.raises(ValueError, match="no template is known: give one too"):
        ready.load(base_model, boundary="joined")


@pytest.mark.parametrize("boundary", [[], ["--boundary", "joined"]])
def test_a_released_model_is_asked_alike_before_and_after_its_template_is_recorded(
    boundary: list[str], base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def complete(config: object, weights: object, tokenizer: object, ids: list[list[int]], **how: object) -> list[stream.Completion]:
        asked.extend(ids)
        return [stream.Completion("x", [1], "stop")] * len(ids)

    def streamed(config: object, weights: object, tokenizer: object, ids: list[int], **how: object) -> list[str]:
        asked.append(ids)
        return ["x"]

    monkeypatch.setattr(stream, "complete", complete)
    monkeypatch.setattr(stream, "stream", streamed)
    exam, recorded = tmp_path / "exam.jsonl", tmp_path / "recorded"
    exam.write_text('{"instruction": "The sea", "output": "x"}\n')
    told = ["--template", "alpaca", *boundary]
    assert program.run(["convert", "--input", str(base_model), "--output", str(recorded), *told]) == 0
    for model, words in ((base_model, told), (recorded, [])):
        for verb in (["generate", "--prompt", "The sea"], ["evaluate", "exam", "--exam", str(exam)], ["chat"]):
            monkeypatch.setattr(sys, "stdin", io.StringIO("The sea\n"))
            assert program.run([*verb, "--model", str(model), *words]) == 0
    assert len(asked) == 6 and all(ids == asked[0] for ids in asked)


@pytest.mark.parametrize(("dtype", "found"), [("auto", jnp.float32), ("bfloat16", jnp.bfloat16)])
def test_weights_and_computation_share_a_dtype(dtype: ready.Dtype, found: jnp.dtype, base_model: Path) -> None:
    loaded = ready.load(base_model, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.weights)} == {jnp.dtype(found)}
    assert loaded.options.dtype == found


def test_a_tokenizer_of_another_model_is_noticed(base_model: Path, chinese_pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(chinese_pieces.read_bytes())
    for path in base_model.iterdir():
        if path.name != "tokenizer.model":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="is not a LLaMA tokenizer"):
        ready.load(tmp_path)


def test_rows_without_a_piece_are_never_drawn(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model padded to 352 rows whose spare rows would win every draw: it generates, and gives what the unpadded one does."""
    base = host.load(base_model)
    config = base.config.replace(vocab_size=352, base_vocab_size=None)
    params = dict(base.params)
    for name in model_config.MATRICES:
        rows_VD = np.asarray(resize.rows(base.params[name], base.config))
        params[name] = resize.blocks(np.concatenate([rows_VD, np.tile(100 * rows_VD[2:3], (12, 1))]), config)
    llama_hf.save(tmp_path / "padded", config=config, params=params, tokenizer=processor.Tokenizer.load(base_model))
    loaded, plain = ready.load(tmp_path / "padded"), ready.load(base_model)
    assert loaded.config == plain.config
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded.weights, plain.weights)))
    words = ["--prompt", "Hello", "--max_new_tokens", "5"]
    assert program.run(["generate", "--model", str(tmp_path / "padded"), *words]) == 0
    assert program.run(["generate", "--model", str(base_model), *words]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert program.run(["convert", "--input", str(tmp_path / "padded"), "--output", str(tmp_path / "out")]) == 0
    assert source.load_config(tmp_path / "out").vocab_size == 352, "written again, the rows stay"
