"""Views make tensors when they are asked for, and compose."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import names, peft_tensors, view
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize

PIECES = [(3, 4), (), (5,)]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("init", ["mean_of_pieces", "mean", "normal"])
def test_grown_is_what_grows_in_memory(config: config_lib.LlamaConfig, make_params: Callable[..., Any], init: Any, tied: bool) -> None:
    shape = config.replace(tie_word_embeddings=tied)
    params, key = make_params(shape), jax.random.key(3)
    grown, expected = resize.grow(shape, params, pieces=PIECES, init=init, pad_token_id=shape.vocab_size + 1, key=key)
    found = view.grown(view.held(shape, params), pieces=PIECES, init=init, pad_token_id=shape.vocab_size + 1, key=key)
    assert found.config == grown
    collected = tree.flatten(names.collect(found.config, found.read))
    for path, leaf in tree.flatten(expected).items():
        np.testing.assert_array_equal(collected[path], leaf, err_msg=path)


def test_cut_and_padded_are_each_other_s_way_back(config: config_lib.LlamaConfig, params: Any) -> None:
    plain = view.held(config, params)
    padded = view.padded(plain, 64)
    assert padded.config.vocab_size % 64 == 0 and padded.config.base_rows == config.base_rows
    assert not padded.read("lm_head.weight")[config.vocab_size :].any()
    back = view.cut(padded, config.vocab_size)
    assert back.config == config
    with back.tensors() as found, plain.tensors() as known:
        for (name, value), (other, expected) in zip(found, known, strict=True):
            assert name == other
            np.testing.assert_array_equal(value, expected)
    assert view.padded(plain, 1) is plain and view.cut(plain, config.vocab_size) is plain
    with pytest.raises(ValueError, match="pad_vocab_multiple must be at least 1, got 0"):
        view.padded(plain, 0)


def test_nothing_is_read_before_it_is_asked_for(config: config_lib.LlamaConfig, params: Any) -> None:
    asked: list[str] = []
    plain = view.held(config, params)

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return plain.read(name)

    chain = view.cast(view.padded(view.View(config, read), 8), np.dtype(np.float16))
    assert asked == []
    assert chain.read("model.norm.weight").dtype == np.float16
    assert asked == ["model.norm.weight"]


@pytest.mark.parametrize("which", [["whole"], ["some"], ["whole", "some"], ["some", "whole"], ["whole", "some", "whole", "some"]])
def test_rows_take_the_place_of_others_in_order(config: config_lib.LlamaConfig, params: Any, which: list[str]) -> None:
    """And a matrix of which nothing is left is not read."""
    rng, count, width = np.random.default_rng(1), config.vocab_size, config.hidden_size
    adapters: list[Any] = []
    for kind in which:
        ids = np.arange(count) if kind == "whole" else np.sort(rng.choice(count, 7, replace=False))
        values_VD = rng.normal(size=(len(ids), width)).astype(np.float16)
        values_VD.flags.writeable = False
        rows = peft_tensors.Rows(ids, width, kind == "whole", "F16", lambda values_VD=values_VD: values_VD)
        adapters.append(SimpleNamespace(lora={}, rows={"lm_head": rows}))
    plain, asked = view.held(config, params), []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        value = np.array(plain.read(name))
        value.flags.writeable = False
        return value

    found = view.folded(view.View(config, read), adapters, np.dtype(np.float32)).read("lm_head.weight")
    expected = np.array(plain.read("lm_head.weight"), np.float32)
    for adapter in adapters:
        expected[adapter.rows["lm_head"].ids] = adapter.rows["lm_head"].values_VD
    np.testing.assert_array_equal(found, expected)
    assert asked == ([] if "whole" in which else ["lm_head.weight"])


def test_all_rows_of_a_smaller_model_are_some_of_a_padded_one(config: config_lib.LlamaConfig, params: Any) -> None:
    values_VD = np.ones((config.vocab_size, config.hidden_size), np.float32)
    rows = peft_tensors.Rows(np.arange(config.vocab_size), config.hidden_size, True, "F32", lambda: values_VD)
    adapters: list[Any] = [SimpleNamespace(lora={}, rows={"lm_head": rows})]
    found = view.folded(view.padded(view.held(config, params), 64), adapters, np.dtype(np.float32)).read("lm_head.weight")
    assert found.shape[0] % 64 == 0 and (found[: config.vocab_size] == 1).all() and not found[config.vocab_size :].any()


def test_an_untied_head_is_the_embedding_with_its_new_rows(config: config_lib.LlamaConfig, make_params: Callable[..., Any]) -> None:
    shape = config.replace(tie_word_embeddings=True)
    rows = peft_tensors.Rows(np.array([2, 5]), shape.hidden_size, False, "F32", lambda: np.ones((2, shape.hidden_size), np.float32))
    adapters: list[Any] = [SimpleNamespace(lora={}, rows={"embed_tokens": rows})]
    tied = view.folded(view.held(shape, make_params(shape)), adapters, np.dtype(np.float32))
    found = view.untied(tied)
    assert not found.config.tie_word_embeddings and view.untied(found) is found
    head_VD = found.read("lm_head.weight")
    assert (head_VD[[2, 5]] == 1).all()
    np.testing.assert_array_equal(head_VD, tied.read("model.embed_tokens.weight"))
