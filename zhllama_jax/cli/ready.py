"""A model directory, with adapters on top, made ready to run on this machine."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhllama_jax import hub, templates
from zhllama_jax.cli import located, terminal
from zhllama_jax.train import machines

if TYPE_CHECKING:
    from zhllama_jax.model import config as model_config
    from zhllama_jax.model import llama
    from zhllama_jax.tokenizer import processor

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class Ready:
    """Everything that decoding and scoring need.

    Attributes:
      config: the model's shape.
      weights: its collections, on the device.
      tokenizer: the directory's own.
      template: the prompt's template; "none" for a base model.
      boundary: how prompt and answer meet.
      turns: whether EOS stands behind the answers of earlier turns.
      generation: the directory's `generation_config.json`.
      options: how to compute.
      directory: where the model was read.
    """

    config: "model_config.LlamaConfig"
    weights: dict[str, Any]
    tokenizer: "processor.Tokenizer"
    template: str
    boundary: templates.Boundary
    turns: templates.Turns
    generation: dict[str, Any]
    options: "llama.Options"
    directory: Path

    @property
    def name(self) -> str:
        """The model's place for a record: its commit on the hub, or its directory."""
        return hub.id_of(self.directory) or str(self.directory)


def load(
    model: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    dtype: Dtype = "auto",
    template: str | None = None,
    boundary: templates.Boundary | None = None,
) -> Ready:
    """Reads a model directory onto the device, without rows that no piece has; oddities of it are said.

    Args:
      model: the directory, or a hub id.
      adapters: adapter directories or hub ids, folded into the weights in this order.
      dtype: of weights and computation; "auto" is bfloat16 on accelerators, float16 on GPUs that have no bfloat16, and float32 on a CPU.
      template, boundary: how the model is asked, where the user says it; see `manifest.told`.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: the tokenizer is not the model's, or see `host.load` and `manifest.told`. The weights are read last.
    """
    import jax

    from zhllama_jax.convert import fold, manifest, vocabulary
    from zhllama_jax.model import llama

    if template is not None:
        templates.named(template)
    if dtype == "auto":
        capability = getattr(jax.devices()[0], "compute_capability", None)
        dtype = machines.decoding(jax.default_backend(), capability).dtype
    directory, stacked = located.model(model), located.adapters(adapters)
    checkpoint, tokenizer = fold.load(directory, stacked, dtype=dtype)
    checkpoint = vocabulary.cut(checkpoint, tokenizer)
    for note in checkpoint.notes:
        terminal.say(f"zhllama: note: {note}")
    prompt = manifest.told(checkpoint.prompt, template, boundary)
    return Ready(
        config=checkpoint.config,
        weights={"params": jax.tree.map(jax.numpy.asarray, checkpoint.params)},
        tokenizer=tokenizer,
        template=prompt.template if prompt else "none",
        boundary=prompt.boundary if prompt else "joined",
        turns=prompt.turns if prompt else "open",
        generation=checkpoint.generation,
        options=llama.Options(dtype=jax.numpy.dtype(dtype)),
        directory=directory,
    )
