"""Rows as neighbours under Meta's rotation give the scores of rows as halves under Hugging Face's."""

import numpy as np
import pytest

from zhllama_jax.convert import rotary
from zhllama_jax.model import config as config_lib

QUERY, KEY = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(params=[4, 2, 1])
def config(request: pytest.FixtureRequest) -> config_lib.LlamaConfig:
    return config_lib.named("micro", num_key_value_heads=request.param)


def test_the_order_of_one_head() -> None:
    config = config_lib.named("micro", hidden_size=6, num_attention_heads=1, num_key_value_heads=1)
    rows = np.arange(6)[:, None] * np.ones((1, 6), int)
    assert rotary.neighbours(QUERY, rows, config)[:, 0].tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("name", [QUERY, KEY])
def test_there_and_back(name: str, config: config_lib.LlamaConfig) -> None:
    heads = config.num_attention_heads if name == QUERY else config.num_kv_heads
    weight = np.random.default_rng(0).normal(size=(heads * config.head_width, 32)).astype(np.float16)
    there = rotary.neighbours(name, weight, config)
    assert not np.array_equal(there, weight)
    np.testing.assert_array_equal(rotary.halves(name, there, config), weight)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight", "lm_head.weight"])
def test_other_tensors_stay(name: str, config: config_lib.LlamaConfig) -> None:
    weight = np.ones((32, 32))
    assert rotary.neighbours(name, weight, config) is weight is rotary.halves(name, weight, config)


def test_scores_agree(config: config_lib.LlamaConfig) -> None:
    """Hugging Face rotates numbers i and i + H/2 by cosine and sine; Meta multiplies neighbours as complex numbers."""
    rng = np.random.default_rng(1)
    width, groups = config.head_width, config.num_attention_heads // config.num_kv_heads
    query, key = rng.normal(size=(32, 32)), rng.normal(size=(config.num_kv_heads * width, 32))
    x_TD = rng.normal(size=(5, 32))
    angles = np.arange(5)[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)

    def theirs(weight: np.ndarray) -> np.ndarray:
        x_TNH = (x_TD @ weight.T).reshape(5, -1, width)
        turned = np.concatenate([-x_TNH[..., width // 2 :], x_TNH[..., : width // 2]], -1)
        cos, sin = (np.tile(f(angles), 2)[:, None] for f in (np.cos, np.sin))
        return x_TNH * cos + turned * sin

    def metas(weight: np.ndarray) -> np.ndarray:
        pairs = (x_TD @ weight.T).reshape(5, -1, width // 2, 2)
        return (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)[:, None]

    def scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        return np.einsum("tnh,snh->nts", q, np.repeat(k, groups, axis=1))

    expected = scores(theirs(query), theirs(key))
    found = scores(metas(rotary.neighbours(QUERY, query, config)), metas(rotary.neighbours(KEY, key, config)).conj()).real
    np.testing.assert_allclose(found, expected, atol=1e-9)
