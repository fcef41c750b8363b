"""Adapters as a tree that mirrors the kernels: `layers/self_attn/q_proj/{a, b, scale}`.

A kernel W [L, I, O] gets a [L, I, R], b [L, R, O] and scale [L]; the adapted product is x W + ((x a) b) · scale. `scale` is a
constant, not a parameter: it is stored so that the tree alone says what it computes, never trained and never counted.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zhllama_jax import arrays, tree
from zhllama_jax.lora import config as config_lib


def targets(params: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Paths of the kernels whose module bears one of the names: `layers/self_attn/q_proj`, …

    Raises:
      ValueError: a name that no kernel bears; the names there are are listed.
    """
    modules = [path.removesuffix("/kernel") for path in tree.flatten(params) if path.endswith("/kernel")]
    present = {module.rsplit("/", 1)[-1] for module in modules}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise ValueError(f"lora targets {', '.join(unknown)} name no kernel; there are {', '.join(sorted(present))}")
    return [module for module in modules if module.rsplit("/", 1)[-1] in names]


def init(key: arrays.Array, params: Mapping[str, Any], config: config_lib.LoraConfig, dtype: Any = jnp.float32) -> arrays.Tree:
    """New adapters: A Kaiming-uniform as in PEFT (uniform within ± 1 / √I), B zero, so that the model is unchanged bit for bit.

    Args:
      key: PRNG key; each kernel's A depends only on the key and the kernel's path.
      params: the weights to adapt, arrays or abstract shapes; kernels are [L, I, O].
      config: rank, scale and targets.
      dtype: of a and b.

    Raises:
      ValueError: a target that names no kernel.
    """
    leaves = tree.flatten(params)
    result: dict[str, Any] = {}
    for path in targets(params, config.targets):
        num_layers, fan_in, fan_out = leaves[f"{path}/kernel"].shape
        bound = 1 / math.sqrt(fan_in)
        shape = (num_layers, fan_in, config.rank)
        result[f"{path}/a"] = jax.random.uniform(_path_key(key, path), shape, jnp.float32, -bound, bound).astype(dtype)
        result[f"{path}/b"] = jnp.zeros((num_layers, config.rank, fan_out), dtype)
        result[f"{path}/scale"] = jnp.full((num_layers,), config.scale, jnp.float32)
    return tree.unflatten(result)


def count(lora: Mapping[str, Any]) -> int:
    """Trainable parameters of a tree of adapters: all of a and b, no scale."""
    return sum(leaf.size for path, leaf in tree.flatten(lora).items() if not path.endswith("/scale"))


def _path_key(key: arrays.Array, path: str) -> arrays.Array:
    """A key of the path's own, so that adding a target leaves the other adapters' start as it was."""
    for byte in path.encode():
        key = jax.random.fold_in(key, byte)
    return key
