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

LEAVES = ("a", "b", "scale")
_TOLD = 3
"""So many problems of an adapter are told: one of another model has them all over."""


def targets(params: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Paths of the modules that get an adapter: `layers/self_attn/q_proj`, …

    Args:
      params: the weights, arrays or abstract shapes.
      names: each a regex over the paths of modules with a kernel; a bare name such as `q_proj` stands for `.*/q_proj`.

    Raises:
      ValueError: a name that decides no kernel; the paths are listed.
    """
    rules = [(f".*/{name}/kernel" if name.isidentifier() else f"(?:{name})/kernel", True) for name in names]
    chosen = tree.match([*rules, (".*", False)], tree.flatten(params), table="lora targets")
    return [path.removesuffix("/kernel") for path, is_target in chosen.items() if is_target]


def check(params: Mapping[str, Any], lora: Mapping[str, Any]) -> None:
    """Refuses adapters that the forward pass would pass over or stumble upon.

    Args:
      params: the weights, arrays or abstract shapes.
      lora: the adapters, the same.

    Raises:
      ValueError: with the first of the `problems`, and how many there are.
    """
    found = problems(params, lora)
    if found:
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise ValueError(f"the adapter does not fit the model: {'; '.join(found[:_TOLD])}{more}")


def problems(params: Mapping[str, Any], lora: Mapping[str, Any]) -> list[str]:
    """What is wrong with a tree of adapters, as sentences: each module is exactly {a, b, scale}, of shapes that fit a kernel's."""
    kernels = {path.removesuffix("/kernel"): leaf for path, leaf in tree.flatten(params).items() if path.endswith("/kernel")}
    modules: dict[str, dict[str, Any]] = {}
    for path, leaf in tree.flatten(lora).items():
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    unknown = [module for module in modules if module not in kernels]
    found = [f"{', '.join(unknown)} {'name' if len(unknown) > 1 else 'names'} no kernel"] if unknown else []
    for module in modules.keys() & kernels.keys():
        factors = modules[module]
        if factors.keys() != set(LEAVES):
            found.append(f"{module} must hold {', '.join(LEAVES)}, and holds {', '.join(factors)}")
            continue
        num_layers, fan_in, fan_out = kernels[module].shape
        shapes = {name: tuple(factors[name].shape) for name in LEAVES}
        rank = shapes["a"][-1] if shapes["a"] else 0
        if shapes != {"a": (num_layers, fan_in, rank), "b": (num_layers, rank, fan_out), "scale": (num_layers,)}:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            found.append(f"{module} has {listed}, beside a kernel of {list(kernels[module].shape)} (layers, inputs, outputs)")
    return found


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
