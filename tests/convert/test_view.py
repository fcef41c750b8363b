"""Views make tensors when they are asked for, and compose."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import names, view
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
