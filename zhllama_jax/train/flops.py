"""Model FLOPs of a training token, by the usual convention, and what share of a device's peak a run reaches.

A matrix product costs 2 FLOPs a weight going forward and 2 for the slope of its input; a trained matrix 2 more for its own. So a
frozen kernel counts 4N and a trained one 6N; recomputation under remat is not counted. Causal attention counts half its square.
"""

from collections.abc import Mapping
from typing import Any

from zhllama_jax.model import config as model_config
from zhllama_jax.train import machines, stages


def peak(device_kind: str) -> float | None:
    """The bfloat16 peak of one device in FLOP/s; None for a CPU, an unknown accelerator, or one without bfloat16."""
    chip = machines.of_kind(device_kind)
    return chip.flops.get("bfloat16") if chip else None


def per_token(config: model_config.LlamaConfig, leaves: Mapping[str, Any], mask: Mapping[str, bool], *, length: int) -> float:
    """FLOPs of one training token.

    Args:
      config: the model's shape.
      leaves: arrays or abstract shapes of all weights by path.
      mask: which learn.
      length: tokens per row, for attention.
    """
    total = 0.0
    for path, leaf in leaves.items():
        if path.endswith(("/kernel", "/a", "/b")) or path.startswith(f"params/{config.head_matrix}/"):
            total += (6 if mask[path] else 4) * stages.logical_size(path, leaf.shape, config)
    attention = 6 * length * config.num_attention_heads * config.head_width * config.num_hidden_layers
    return total + attention
