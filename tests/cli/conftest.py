"""Tiny model directories that the verbs are tried on."""

from pathlib import Path
from typing import Any

import jax
import pytest

from zhllama_jax.cli import program
from zhllama_jax.convert import llama_hf, manifest
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor


def save(directory: Path, pieces: Path, **facts: Any) -> Path:
    """A micro LLaMA with random weights and the tokenizer of `pieces`."""
    tokenizer = processor.Tokenizer.load(pieces)
    config = model_config.named("micro", vocab_size=tokenizer.vocab_size, max_position_embeddings=256)
    llama_hf.save(directory, config=config, params=llama.init(config, jax.random.key(0)), tokenizer=tokenizer, **facts)
    return directory


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, english_pieces: Path) -> Path:
    """A base model that was never tuned."""
    return save(tmp_path_factory.mktemp("models") / "base", english_pieces)


@pytest.fixture(scope="session")
def tuned_model(tmp_path_factory: pytest.TempPathFactory, english_pieces: Path) -> Path:
    """The same weights, said to be tuned with the alpaca template."""
    return save(tmp_path_factory.mktemp("models") / "tuned", english_pieces, prompt=manifest.Prompt("alpaca"))


@pytest.fixture(scope="session")
def merged_pieces(tmp_path_factory: pytest.TempPathFactory, english_pieces: Path, chinese_pieces: Path) -> Path:
    """The English tokenizer with Chinese pieces behind."""
    path = tmp_path_factory.mktemp("merged") / "merged.model"
    words = ["tokenizer", "merge", "--base", str(english_pieces), "--added", str(chinese_pieces), "--output", str(path)]
    assert program.run([*words, "--proof_strings", "100"]) == 0
    return path
