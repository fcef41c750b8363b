"""`zhllama convert`."""

from pathlib import Path
from typing import Literal

from zhllama_jax.cli import located, terminal


def run(
    *,
    input: str,
    output: Path,
    to: Literal["hf"] = "hf",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    shard_mib: int = 4096,
    overwrite: bool = False,
) -> None:
    """Writes a model directory anew: another dtype, other shards, complete files.

    Args:
      input: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      output: directory to write.
      to: the format to write.
      dtype: of the stored weights; the input's if left out.
      shard_mib: no file of weights is larger than so many MiB, unless a single tensor is.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama convert --input adapted --output adapted-bf16 --dtype bfloat16
      zhllama convert --input adapted --output small-shards --shard_mib 1024
    """
    from zhllama_jax import files
    from zhllama_jax.convert import llama_hf, manifest
    from zhllama_jax.tokenizer import processor

    if shard_mib < 1:
        raise ValueError(f"shard_mib must be at least 1, got {shard_mib}")
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[input])
    directory = located.model(input)
    checkpoint = llama_hf.load(directory, dtype=dtype)
    for note in checkpoint.notes:
        terminal.say(f"zhllama: note: {note}")
    written = llama_hf.save(
        output,
        config=checkpoint.config,
        params=checkpoint.params,
        tokenizer=processor.Tokenizer.load(directory),
        prompt=checkpoint.prompt,
        generation=checkpoint.generation or llama_hf.PAPER_GENERATION,
        history=[*checkpoint.history, {"step": "convert", "dtype": dtype or "as stored"}],
        shard_bytes=shard_mib << 20,
        overwrite=overwrite,
    )
    terminal.result(f"{output}: {len(written['tensors'])} tensors, fingerprint {written['fingerprint'][:16]}")
    if _dtypes(directory) == {entry["dtype"] for entry in written["tensors"].values()}:
        terminal.then("verify", "--left", input, "--right", output)
    else:  # rounded weights are not bit for bit the same
        terminal.then("verify", "--left", output)


def _dtypes(directory: Path) -> set[str]:
    """The dtypes of a model's stored weights."""
    from zhllama_jax.convert import names, safetensors_io

    with safetensors_io.open_model(directory) as reader:
        return {entry.dtype for name, entry in reader.entries.items() if not names.IGNORED.fullmatch(name)}
