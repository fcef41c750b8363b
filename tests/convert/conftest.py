"""Tiny models and tokenizers that the tests of this folder share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor, proto


@pytest.fixture(scope="session")
def tokenizer(english_pieces: Path) -> processor.Tokenizer:
    """A LLaMA-like tokenizer of a few hundred pieces."""
    return processor.Tokenizer.load(english_pieces)


@pytest.fixture(scope="session")
def padded_tokenizer(tokenizer: processor.Tokenizer) -> processor.Tokenizer:
    """The same with a padding piece, as Alpaca's has."""
    model = proto.parse(tokenizer.serialized)
    piece = model.pieces.add()
    piece.piece, piece.score = proto.PAD, 0.0
    return processor.Tokenizer.from_bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def config(tokenizer: processor.Tokenizer) -> config_lib.LlamaConfig:
    """A two-layer model with grouped heads whose last 40 rows are an extension."""
    return config_lib.named("micro", vocab_size=tokenizer.vocab_size, base_vocab_size=tokenizer.vocab_size - 40)


@pytest.fixture(scope="session")
def make_params() -> Callable[..., Any]:
    """Random params of a config with norms that are not one, as NumPy arrays."""

    def make(config: config_lib.LlamaConfig, seed: int = 0, dtype: Any = np.float32) -> Any:
        params = llama.init(config, jax.random.key(seed))
        key = jax.random.key(seed + 1)
        norms = [params["norm"], params["layers"]["input_layernorm"], params["layers"]["post_attention_layernorm"]]
        for number, norm in enumerate(norms):
            norm["weight"] = 1 + 0.1 * jax.random.normal(jax.random.fold_in(key, number), norm["weight"].shape)
        return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params)

    return make


@pytest.fixture(scope="session")
def params(config: config_lib.LlamaConfig, make_params: Callable[..., Any]) -> Any:
    """Float32 params of `config`."""
    return make_params(config)
