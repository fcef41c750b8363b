"""A tiny world for whole runs: a tokenizer, a base model directory, and text."""

from pathlib import Path

import pytest

from zhllama_jax.data import config as data_config
from zhllama_jax.train import config

LENGTH = 32


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred lines of text."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    lines = [f"line {number}: the river runs to the sea, and {number % 7} boats follow it down." for number in range(300)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def text_data(corpus: Path) -> data_config.TextData:
    """The corpus in rows of 32 tokens, a tenth of it held out."""
    return data_config.TextData(files=(str(corpus),), held_out=0.1, length=LENGTH)


@pytest.fixture(scope="session")
def small(text_data: data_config.TextData) -> dict:
    """Fields of an experiment that trains for six steps on one device."""
    return {
        "data": config.Data(sources=(config.Source(text=text_data),)),
        "global_batch": 4,
        "steps": 6,
        "mesh": config.Mesh(data=1, fsdp=1, tensor=1),
        "lora": config.Lora(rank=2, alpha=4.0, dropout=0.1),
        "optimizer": config.Optimizer(learning_rate=1e-2),
        "validation": config.Validation(every=3, max_rows=8),
        "checkpoint": config.Checkpoint(every=2),
        "log_every": 1,
        "tensorboard": False,
    }


@pytest.fixture(scope="session")
def base(small: dict, english_pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory trained from random weights by the loop itself."""
    from zhllama_jax.train import loop

    output = tmp_path_factory.mktemp("base")
    new = config.NewModel(tokenizer=str(english_pieces), init=config.Dimensions("micro", max_position_embeddings=64))
    result = loop.run(config.Experiment(model=new, stage="full", output=str(output), **small))
    return Path(result["model"])
