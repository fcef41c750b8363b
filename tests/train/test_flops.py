"""FLOPs: the published arithmetic of the 7B and 13B stages."""

import pytest

from zhllama_jax import tree
from zhllama_jax.model import config as model_config
from zhllama_jax.train import config, flops, stages


@pytest.mark.parametrize(
    ("size", "stage", "expected"),
    [("7b", "sft", 27.1e9), ("13b", "sft", 52.3e9), ("7b", "full", 40e9)],
)
def test_the_arithmetic_of_the_recipes(size, stage, expected) -> None:
    """numbers.md 5.1: LoRA + embedding + head 27.1 and 52.3 GFLOP a token, full 40; attention comes on top."""
    llama = model_config.named(size, vocab_size=49_953, base_vocab_size=32_000)
    chosen = config.Stage(stage)
    weights = stages.abstract(chosen, llama, config.Lora())
    found = flops.per_token(llama, tree.flatten(weights), stages.plan(chosen, weights).mask, length=0)
    assert found == pytest.approx(expected, rel=0.01)


def test_attention_grows_with_the_length() -> None:
    llama = model_config.named("7b")
    weights = stages.abstract(config.Stage("embeddings"), llama, config.Lora())
    leaves, mask = tree.flatten(weights), stages.plan(config.Stage("embeddings"), weights).mask
    extra = flops.per_token(llama, leaves, mask, length=4096) - flops.per_token(llama, leaves, mask, length=0)
    assert extra == 6 * 4096 * 4096 * 32  # 3.2 GFLOP


def test_peaks() -> None:
    assert flops.peak("NVIDIA H200") == 989e12
    assert flops.peak("TPU v5 lite") == 197e12
    assert flops.peak("TPU v5p slice") == 459e12
    assert flops.peak("cpu") is None
