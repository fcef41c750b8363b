"""`zhllama stages`."""

from typing import Literal

from zhllama_jax.cli import terminal
from zhllama_jax.train import config as train_config


def run(
    *,
    size: str = "7b",
    vocab_size: int = 49_953,
    stage: train_config.Preset = "pretrain_lora",
    lora: Literal["none", "attention", "all"] | None = None,
    rows: Literal["none", "new", "all"] | None = None,
    rank: int = 8,
) -> None:
    """Prints which weights a stage trains, by rule, counted on abstract shapes.

    Args:
      size: a named model size: 7b, 13b, 33b, 65b, small, tiny …
      vocab_size: pieces of the vocabulary; what exceeds 32,000 is the extension.
      stage: preset: embeddings, pretrain_lora, sft, new_rows or full.
      lora: kernels that carry adapters; the preset's if left out.
      rows: vocabulary rows that learn; the preset's if left out.
      rank: width of the adapters.
    """
    from zhllama_jax.model import config as model_config
    from zhllama_jax.train import stages

    base = min(vocab_size, model_config.LLAMA_VOCAB_SIZE)
    config = model_config.named(size, vocab_size=vocab_size, base_vocab_size=base)
    chosen = train_config.Stage(preset=stage, lora=lora, rows=rows)
    terminal.result(str(stages.table(chosen, config, train_config.Lora(rank=rank))))
