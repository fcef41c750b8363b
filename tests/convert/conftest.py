"""Tiny models and tokenizers that the tests of this folder share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import tree
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
    """Random params of a config, norms near one, spare rows zero, as NumPy arrays."""

    def make(config: config_lib.LlamaConfig, seed: int = 0, dtype: Any = np.float32) -> Any:
        rng = np.random.default_rng(seed)
        logical = {"base": config.base_rows, "extension": config.extension_rows}

        def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
            values = 0.1 * rng.normal(size=shape)
            name = path.rsplit("/", 1)[-1]
            if name == "weight":
                values += 1
            if name in logical:
                values[logical[name] :] = 0
            return values.astype(np.float32).astype(dtype)

        return tree.map_with_path(lambda path, abstract: leaf(path, abstract.shape), llama.abstract(config))

    return make


@pytest.fixture(scope="session")
def params(config: config_lib.LlamaConfig, make_params: Callable[..., Any]) -> Any:
    """Float32 params of `config`."""
    return make_params(config)
