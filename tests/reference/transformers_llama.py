"""The same model in transformers, its configuration and tensors laid out by hand; the test is skipped where that is not installed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.reference import weights as reference_weights
from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

TRAINED = 24
"""The length before the stretching in `SCALINGS`: short, and with `THETA` every kind has frequencies in all of its zones."""
THETA = 100.0
SCALINGS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "original_max_position_embeddings": TRAINED,
        "low_freq_factor": 0.5,
        "high_freq_factor": 2.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED, "beta_fast": 2.0, "beta_slow": 0.25},
    "yarn, all set": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": TRAINED,
        "beta_fast": 2.0,
        "beta_slow": 0.3,
        "mscale": 1.5,
        "mscale_all_dim": 0.4,
        "truncate": False,
    },
    "yarn, own attention": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": TRAINED,
        "attention_factor": 1.3,
    },
}


def scaled(config: config_lib.LlamaConfig, name: str) -> config_lib.LlamaConfig:
    """A configuration with one of `SCALINGS`."""
    parameters = dict(SCALINGS[name])
    longest = TRAINED * int(parameters["factor"]) if "original_max_position_embeddings" in parameters else TRAINED
    scaling = rope_config.RopeScaling(kind=parameters.pop("rope_type"), **parameters)
    return config.replace(rope_theta=THETA, rope_scaling=scaling, max_position_embeddings=longest)


def drawn(seed: int, *, heads: tuple[int, int], new: bool = False, tied: bool = False, rope: str | None = None) -> config_lib.LlamaConfig:
    """A small model of sizes by chance, its vocabulary odd, with new rows or without.

    Args:
      seed: of the sizes.
      heads: of the queries, and of keys and values.
      new: whether there is an extension.
      tied: whether the head is the embedding.
      rope: one of `SCALINGS`; None for plain positions.
    """
    rng = np.random.default_rng(seed)
    base = int(rng.integers(60, 100))
    config = config_lib.LlamaConfig(
        vocab_size=2 * (base // 2) + 1 + (34 if new else 0),
        base_vocab_size=base if new else None,
        hidden_size=heads[0] * int(rng.integers(24 // heads[0], 40 // heads[0])),
        intermediate_size=int(rng.integers(30, 70)),
        num_hidden_layers=2,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=2 * int(rng.integers(3, 7)),
        rms_norm_eps=float(rng.choice([1e-6, 1e-5, 1e-3])),
        tie_word_embeddings=tied,
    )
    return config if rope is None else scaled(config, rope)


def config(ours: config_lib.LlamaConfig, rope: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """The configuration in transformers; `rope` are its `rope_parameters` without the base."""
    transformers = pytest.importorskip("transformers")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("head_dim", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings")
    parameters = {**(rope or {"rope_type": "default"}), "rope_theta": ours.rope_theta}
    fields = {name: getattr(ours, name) for name in names}
    return transformers.LlamaConfig(**fields, rope_parameters=parameters, attn_implementation="eager", **more)


def model(ours: config_lib.LlamaConfig, params: arrays.Tree, rope: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """The model in transformers, float32, in evaluation mode."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(config(ours, rope, **more)).float().eval()
    state = {key: torch.tensor(value) for key, value in reference_weights.hf_state(ours, params).items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if ours.tie_word_embeddings else set())
    return theirs
