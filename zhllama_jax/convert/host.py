"""A model in memory: the weights of a source in our layout, on the host."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import arrays
from zhllama_jax.convert import config_hf, llama_hf, manifest, names, source
from zhllama_jax.model import config as config_lib


class Checkpoint(NamedTuple):
    """A model in memory.

    Attributes:
      config: the model's shape.
      params: the weights in our layout, NumPy arrays on the host.
      prompt: how instructions were put to it in training; None for a base model.
      generation: `generation_config.json` as it stands, {} without one.
      history: what was done to the model so far, from its manifest.
      directory: where it was read.
      notes: what is odd in the directory and harmless, as sentences.
      fingerprint: of the weights that were read; None where that was not asked for.
      kept: neutral keys of its `config.json` that the next one takes over.
    """

    config: config_lib.LlamaConfig
    params: arrays.Tree
    prompt: manifest.Prompt | None
    generation: dict[str, Any]
    history: list[dict[str, Any]]
    directory: Path
    notes: list[str]
    fingerprint: str | None = None
    kept: Mapping[str, Any] = config_hf.NOTHING


def load(
    path: str | Path, *, dtype: str | None = None, digest: bool = False, as_found: bool = False, allow_unknown: bool = False
) -> Checkpoint:
    """Reads a model of any format.

    Args:
      path: see `source`.
      dtype: "float32", "float16" or "bfloat16" for all weights; None keeps the stored one, and is float32 where there are several.
      digest: make the fingerprint of what is read (about a second per gigabyte).
      as_found, allow_unknown: see `source.Source`.

    Raises:
      FileNotFoundError, ValueError: see `source.Source`.
    """
    with source.Source(path, digest=digest, as_found=as_found, allow_unknown=allow_unknown) as opened:
        notes = opened.notes
        if source.tokenizer_path(path) is None and opened.format != "gguf":
            notes.append(f"{path} has no tokenizer")
        if dtype is None and len(opened.dtypes) > 1:
            notes.append(f"the weights are stored as {', '.join(opened.dtypes)} and read as float32")
        target = llama_hf.parse_dtype(dtype or (opened.dtypes[0] if len(opened.dtypes) == 1 else "float32"))
        params = names.collect(opened.config, lambda name: llama_hf.cast(name, opened.read(name), target))
        return Checkpoint(
            config=opened.config,
            params=params,
            prompt=opened.prompt,
            generation=opened.generation,
            history=opened.history,
            directory=Path(path),
            notes=notes + opened.reader.notes,
            fingerprint=opened.fingerprint() if digest else None,
            kept=opened.kept,
        )
