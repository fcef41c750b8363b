"""Which dimension of which array lies along which mesh axis: one table over paths for everything a model holds.

The layout is the one of jax-llm-examples and MaxText: `fsdp` along the model width, `tensor` along heads, MLP width and
vocabulary, so that each matrix product needs its gathers along `fsdp` only and its sums along `tensor` only.
"""

from collections.abc import Iterable

from jax.sharding import PartitionSpec as P

from zhllama_jax import tree
from zhllama_jax.shard import mesh as mesh_lib

DATA, FSDP, TENSOR = mesh_lib.AXES

_INWARD = "(self_attn/(q|k|v)|mlp/(gate|up))_proj"  # model width -> heads or MLP width
_OUTWARD = "(self_attn/o|mlp/down)_proj"  # and back

WEIGHTS: list[tuple[str, P]] = [
    ("params/(embed_tokens|lm_head)/(base|extension)", P(TENSOR, FSDP)),
    (f"params/layers/{_INWARD}/kernel", P(None, FSDP, TENSOR)),
    (f"params/layers/{_OUTWARD}/kernel", P(None, TENSOR, FSDP)),
    ("params/(layers/.*_layernorm|norm)/weight", P()),
    (f"lora/layers/{_INWARD}/a", P(None, FSDP, None)),
    (f"lora/layers/{_INWARD}/b", P(None, None, TENSOR)),
    (f"lora/layers/{_OUTWARD}/a", P(None, TENSOR, None)),
    (f"lora/layers/{_OUTWARD}/b", P(None, None, FSDP)),
    ("lora/.*/scale", P()),
]

BATCH = P(None, mesh_lib.BATCH_AXES, None)
"""[accumulation, batch, length]: the rows of one micro-batch lie across the devices."""

TOKENS = P(mesh_lib.BATCH_AXES, None)
"""[batch · length, width]: activations lie like the rows that they come from."""

EVALUATION_BATCH = P(mesh_lib.BATCH_AXES, None)
"""[batch, length]."""


def specs(paths: Iterable[str]) -> dict[str, P]:
    """The partition spec of every weight by its path.

    Raises:
      ValueError: a path that the table does not know.
    """
    return tree.match(WEIGHTS, paths, table="partition rules", unused="allow")


def state_specs(names: Iterable[str]) -> dict[str, P]:
    """The specs of a training state's leaves by name: a moment lies like the weight whose path its name ends with.

    `opt_state/1/0/mu/params/norm/weight` lies like `params/norm/weight`; counters lie everywhere.
    """
    found = {}
    for name in names:
        parts = name.split("/")
        start = next((i for i, part in enumerate(parts) if part in ("params", "lora")), None)
        found[name] = P() if start is None else specs(["/".join(parts[start:])])["/".join(parts[start:])]
    return found
