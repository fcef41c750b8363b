"""Layer by layer comes out what the whole model computes, adapters beside kernels included."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.convert import streamed, view
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, rope_config


def test_prompts_are_always_the_same() -> None:
    tokens_BT = streamed.prompts(300)
    assert tokens_BT.shape == (streamed.PROMPTS, streamed.PROMPT_TOKENS)
    assert tokens_BT.max() < 300
    assert (tokens_BT[:, 0] == 1).all()
    np.testing.assert_array_equal(tokens_BT, streamed.prompts(300))


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"vocab_size": 300, "base_vocab_size": 257}], ids=str)
@pytest.mark.parametrize("kind", [None, "linear"])
def test_layers_by_themselves_are_the_model(changes: dict[str, Any], kind: Any) -> None:
    scaling = None if kind is None else rope_config.RopeScaling(kind=kind, factor=2.0)
    config = config_lib.named("micro", **{"vocab_size": 300, **changes}).replace(rope_scaling=scaling)
    params = llama.init(config, jax.random.key(0))
    tokens_BT = streamed.prompts(config.vocab_size)
    with jax.default_matmul_precision("highest"):
        x_BTD, _ = llama.hidden_states(config, {"params": params}, jnp.asarray(tokens_BT))
        expected_BTV = llama.logits(config, params, x_BTD)
    np.testing.assert_allclose(streamed.logits(view.held(config, params), tokens_BT), expected_BTV, atol=1e-6)
