"""A directory made ready: dtype, template, boundary."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from zhllama_jax.cli import ready


def test_a_base_model_has_no_template(base_model: Path) -> None:
    loaded = ready.load(base_model)
    assert (loaded.template, loaded.boundary) == ("none", "joined")
    assert loaded.tokenizer.vocab_size == loaded.config.vocab_size


def test_a_tuned_model_says_how_it_was_asked(tuned_model: Path) -> None:
    assert ready.load(tuned_model).template == "alpaca"


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
    with pytest.raises(ValueError, match=r"the tokenizer has .* pieces but the model .* rows"):
        ready.load(tmp_path)
