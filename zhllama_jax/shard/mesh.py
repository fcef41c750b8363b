"""The mesh of devices: three named axes, of which training needs no more.

`data` repeats the weights and splits the batch, `fsdp` splits the batch and every weight's width, `tensor` splits heads, MLP
width and vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
AXES = (DATA, FSDP, TENSOR)
BATCH_AXES = (DATA, FSDP)


def make(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of the given shape over `devices` (all of them by default).

    One axis may be -1 and takes what is left. Without one, a single process may use fewer devices than there are: the first ones.

    Raises:
      ValueError: the shape does not fit the devices; the message says why.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = [data, fsdp, tensor]
    given = dict(zip(AXES, shape, strict=True))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ValueError(f"mesh axes must be whole numbers above 0, at most one of them -1, got {given}")
    fixed = math.prod(size for size in shape if size != -1)
    if -1 in shape:
        if len(devices) % fixed:
            raise ValueError(f"mesh {given}: {len(devices)} devices are not divisible by {fixed}, the product of the fixed axes")
        shape[shape.index(-1)] = len(devices) // fixed
    elif fixed > len(devices) or (fixed < len(devices) and jax.process_count() > 1):
        raise ValueError(f"mesh {given} takes {fixed} devices, but there are {len(devices)}; write -1 for the axis that takes the rest")
    devices = devices[: math.prod(shape)]
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
