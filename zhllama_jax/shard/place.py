"""Moves trees onto a mesh, after checking that every dimension divides."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zhllama_jax import arrays, tree
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import rules


def shardings(leaves: Mapping[str, Any], specs: Mapping[str, P], mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of every leaf (array or abstract shape) by path.

    Raises:
      ValueError: a dimension that its mesh axes do not divide; the message names every such leaf, and what to do.
    """
    problems = [problem for path, leaf in leaves.items() for problem in _indivisible(path, leaf.shape, specs[path], mesh)]
    if problems:
        raise ValueError(f"the mesh {dict(mesh.shape)} does not divide: {'; '.join(problems)}. Choose mesh axes that divide these sizes")
    return {path: NamedSharding(mesh, specs[path]) for path in leaves}


def weights(values: arrays.Tree, mesh: Mesh) -> arrays.Tree:
    """Lays a tree of weights (with its collections on top) onto the mesh by the table of `rules`."""
    leaves = tree.flatten(values)
    places = shardings(leaves, rules.specs(leaves), mesh)
    return tree.unflatten({path: jax.device_put(leaf, places[path]) for path, leaf in leaves.items()})


def batch(values: Any, mesh: Mesh, spec: P) -> Any:
    """Makes global arrays of a tree of this process's rows (NumPy), lying as `spec` says."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda local: jax.make_array_from_process_local_data(sharding, local), values)


def tokens(mesh: Mesh) -> NamedSharding | None:
    """Where flat activations lie; None on one device, where there is nothing to say."""
    return NamedSharding(mesh, rules.TOKENS) if mesh.size > 1 else None


def check_heads(mesh: Mesh, *, num_kv_heads: int) -> None:
    """Refuses a tensor axis that would cut through a key/value head.

    Raises:
      ValueError: with the sizes that work.
    """
    tensor = mesh.shape[mesh_lib.TENSOR]
    if num_kv_heads % tensor:
        allowed = [size for size in range(1, num_kv_heads + 1) if num_kv_heads % size == 0]
        raise ValueError(f"mesh tensor={tensor} does not divide the model's {num_kv_heads} key/value heads; tensor may be one of {allowed}")


def _indivisible(path: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> list[str]:
    """One sentence for each dimension of a leaf that does not divide."""
    found = []
    for dimension, axes in enumerate(spec):
        names = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        parts = math.prod(mesh.shape[name] for name in names)
        if shape[dimension] % parts:
            found.append(f"{path} {tuple(shape)}: dimension {dimension} of {shape[dimension]} by {'·'.join(names)} = {parts}")
    return found
