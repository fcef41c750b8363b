"""Model FLOPs of a training token, by the usual convention, and what share of a device's peak a run reaches.

A matrix product costs 2 FLOPs a weight going forward and 2 for the slope of its input; a trained matrix 2 more for its own. So a
frozen kernel counts 4N and a trained one 6N; recomputation under remat is not counted. Causal attention counts half its square.
"""

from collections.abc import Mapping
from typing import Any

from zhllama_jax.model import config as model_config
from zhllama_jax.train import stages

# Dense bfloat16 peaks in FLOP/s from the vendors' data sheets, by the start of jax's device_kind; the longest start wins.
PEAKS: dict[str, float] = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
}


def peak(device_kind: str) -> float | None:
    """The peak of one device in FLOP/s; None where the table has none (a CPU, an unknown accelerator)."""
    starts = [start for start in PEAKS if device_kind.startswith(start)]
    return PEAKS[max(starts, key=len)] if starts else None


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
