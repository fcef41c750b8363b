"""What a training step needs of a device's memory, by arithmetic on shapes: no weights are made and nothing is compiled.

What lies in memory between steps is exact. What lives only within one is counted in arrays of three sizes: M tokens of width D, M of
width F, and the scores of all heads. How many of each live at once was counted in XLA's own plans for a CPU, with which a test compares
the whole: for small float32 models it is 0.9 to 1.4 times as much. Larger ones and bfloat16 were not compared, and other backends fuse and
gather otherwise: leave a tenth free.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from zhllama_jax import tree
from zhllama_jax.model import config as model_config
from zhllama_jax.shard import rules
from zhllama_jax.train import config as config_lib
from zhllama_jax.train import stages, succession

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Counts = tuple[float, float, float, float]

SAVED: dict[str, Counts] = {"none": (2, 3, 5, 2), "dots": (2, 3, 2, 0), "full": (1, 0, 0, 0)}
"""Of each layer, from its forward pass to its backward one: arrays of width D, of width D split over `tensor` (heads), of width F,
split too, and of scores in float32."""

WORKING: Counts = (4, 4, 6, 3.7)
"""Of the one layer whose backward pass runs, likewise."""


class Memory(NamedTuple):
    """Bytes per device.

    Attributes:
      frozen: weights that do not learn, in the dtype of the computation.
      trainable: weights that do, in float32.
      optimizer: AdamW's two moments.
      gradients: of the trainables, in float32; twice while micro-batches are added up.
      update: gradients, updates and new moments, which all are there until it is known that none is infinite.
      gathered: what is split over devices and collected for the layer, or the head, that is computed.
      saved: what the forward pass keeps for the backward one, in all layers.
      working: what the backward pass of one layer makes.
      logits: of one chunk of tokens, with their slopes, and the slope of the hidden states.
    """

    frozen: int
    trainable: int
    optimizer: int
    gradients: int
    update: int
    gathered: int
    saved: int
    working: int
    logits: int

    @property
    def stored(self) -> int:
        """What stays between two steps."""
        return self.frozen + self.trainable + self.optimizer

    @property
    def total(self) -> int:
        """The most that lives at one time: the loss, the layers and the update take turns."""
        backward = self.gradients + self.gathered + self.saved + max(self.working, self.logits)
        return self.stored + max(backward, self.update)


class Shapes(NamedTuple):
    """What a stage starts from, without data: arrays by path, and which of them learn."""

    leaves: Mapping[str, Any]
    mask: Mapping[str, bool]


def shapes(config: model_config.LlamaConfig, stage: config_lib.Stage, lora: config_lib.Lora) -> Shapes:
    """The shapes that `estimate` counts; tracing the model for them takes most of its time.

    Raises:
      ValueError: see `stages.plan`.
    """
    weights = stages.abstract(stage, config, lora)
    return Shapes(tree.flatten(weights), stages.plan(stage, weights).mask)


def estimate(
    config: model_config.LlamaConfig,
    stage: config_lib.Stage,
    lora: config_lib.Lora,
    mesh: config_lib.Mesh,
    *,
    micro_batch: int,
    length: int,
    dtype: str,
    remat: str,
    loss_chunk: int = 512,
    accumulation: int = 1,
    weights: Shapes | None = None,
) -> Memory:
    """What one device needs for a step.

    Args:
      config: the model's shape.
      stage: what learns.
      lora: the adapters' shape.
      mesh: devices along each axis, all of them above 0.
      micro_batch: rows that a device takes at a time.
      length: tokens of a row.
      dtype: of the computation and the frozen weights.
      remat: what the backward pass recomputes.
      loss_chunk: tokens of a device whose logits exist at a time.
      accumulation: micro-batches of a step, one after another.
      weights: `shapes` of the first three, for a caller that estimates often.

    Raises:
      ValueError: see `stages.plan`.
    """
    width = BYTES[dtype]
    leaves, mask = weights or shapes(config, stage, lora)
    parts = _parts(leaves, mesh)
    sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
    frozen = sum(
        -(-sizes[path] // parts[path]) * (4 if path.endswith(("norm/weight", "/scale")) else width) for path in leaves if not mask[path]
    )
    trainable = 4 * sum(-(-sizes[path] // parts[path]) for path in leaves if mask[path])
    return Memory(
        frozen=frozen,
        trainable=trainable,
        optimizer=2 * trainable,
        gradients=trainable * (2 if accumulation > 1 else 1),
        update=4 * trainable,
        gathered=_gathered(config, sizes, parts, mesh, width),
        saved=round(config.num_hidden_layers * _activations(config, stage, lora, mesh, SAVED[remat], remat, micro_batch, length, width)),
        working=round(_activations(config, stage, lora, mesh, WORKING, "all", micro_batch, length, width)),
        logits=_logits(config, mesh, micro_batch, length, loss_chunk, width),
    )


def _parts(leaves: Mapping[str, Any], mesh: config_lib.Mesh) -> dict[str, int]:
    """Into how many parts the mesh cuts each weight."""
    sizes = {rules.DATA: mesh.data, rules.FSDP: mesh.fsdp, rules.TENSOR: mesh.tensor}
    return {path: math.prod(sizes[axis] for axis in spec if axis is not None) for path, spec in rules.specs(leaves).items()}


def _gathered(config: model_config.LlamaConfig, sizes: dict[str, int], parts: dict[str, int], mesh: config_lib.Mesh, width: int) -> int:
    """The kernels of two layers (one is used, the next one is on its way), or the head, whole along `fsdp`."""
    if mesh.fsdp == 1:
        return 0
    layer = sum(size // config.num_hidden_layers for path, size in sizes.items() if path.endswith("/kernel"))
    head = sum(size for path, size in sizes.items() if path.startswith(f"params/{config.head_matrix}/"))
    return max(2 * layer, head) * width // mesh.tensor


def _activations(
    config: model_config.LlamaConfig,
    stage: config_lib.Stage,
    lora: config_lib.Lora,
    mesh: config_lib.Mesh,
    counts: Counts,
    kept: str,
    micro_batch: int,
    length: int,
    width: int,
) -> float:
    """Bytes of one layer's activations.

    Of an adapter x → ((dropout(x) a) b), "none" keeps the dropped input and its mask, "dots" both products, "full" nothing; the backward
    pass of a layer makes "all" of them.
    """
    tokens, split = micro_batch * length, mesh.tensor
    heads, heads_kv = config.num_attention_heads * config.head_width, config.num_kv_heads * config.head_width
    across = {"q_proj": heads, "k_proj": heads_kv, "v_proj": heads_kv, "o_proj": config.hidden_size * split}
    across |= {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size, "down_proj": config.hidden_size * split}
    inward = {"o_proj": heads, "down_proj": config.intermediate_size}
    whole, of_heads, inner, scores = counts
    total = width * tokens * (whole * config.hidden_size + (of_heads * config.hidden_size + inner * config.intermediate_size) / split)
    total += 4 * scores * micro_batch * config.num_attention_heads * length * length / split
    targets = succession.kernels(stage.lora_targets) if stage.lora_targets else ()
    for name in targets:
        if kept in ("none", "all") and lora.dropout:
            total += (width + 1) * tokens * inward.get(name, config.hidden_size * split) / split
        if kept in ("dots", "all"):
            total += width * tokens * (across[name] / split + lora.rank)
    return total


def _logits(config: model_config.LlamaConfig, mesh: config_lib.Mesh, micro_batch: int, length: int, chunk: int, width: int) -> int:
    """A chunk's float32 logits, their exponentials and the slopes; and the hidden states with their slope."""
    tokens = min(micro_batch * length, max(chunk, micro_batch))
    rows = sum(model_config.padded_rows(block.rows) for block in config.blocks)
    return tokens * rows * (4 + 4 + width) // mesh.tensor + 2 * micro_batch * length * config.hidden_size * width
