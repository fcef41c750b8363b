"""A tiny extended model with strong opinions, shared by the tests of decoding."""

from typing import Any

import jax
import pytest

from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama


def opinionated(config: model_config.LlamaConfig, seed: int) -> dict[str, Any]:
    """Random weights, scaled so that some tokens are clearly likelier than others and the past matters."""
    params = llama.init(config, jax.random.key(seed))
    return {"params": jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim > 1 and leaf.shape[-1] > 1 else leaf, params)}


@pytest.fixture(scope="session")
def config() -> model_config.LlamaConfig:
    """Two layers, grouped heads, 150 base and 50 new rows; id 0 ends a text, so that ids from 1 on are ordinary."""
    return model_config.named("micro", vocab_size=200, base_vocab_size=150, max_position_embeddings=64, eos_token_id=0)


@pytest.fixture(scope="session")
def weights(config: model_config.LlamaConfig) -> dict[str, Any]:
    """Its weights."""
    return opinionated(config, 0)
