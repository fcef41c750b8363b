"""`zhllama convert`."""

from pathlib import Path
from typing import Literal

from zhllama_jax import templates
from zhllama_jax.cli import located, terminal


def run(
    *,
    input: str,
    output: Path,
    to: Literal["hf"] = "hf",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    shard_mib: int = 4096,
    overwrite: bool = False,
) -> None:
    """Writes a model directory anew: another dtype, other shards, complete files.

    Args:
      input: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      output: directory to write.
      to: the format to write.
      dtype: of the stored weights; the input's if left out.
      template: what stood around instructions when the model was tuned, where its directory does not say: alpaca for released Alpacas.
      boundary: how an answer joined it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      shard_mib: no file of weights is larger than so many MiB, unless a single tensor is.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama convert --input adapted --output adapted-bf16 --dtype bfloat16
      zhllama convert --input chinese-alpaca-hf --output chinese-alpaca --template alpaca
    """
    from zhllama_jax import files
    from zhllama_jax.convert import carry, llama_hf, manifest, vocabulary

    if template is not None:
        templates.named(template)
    if shard_mib < 1:
        raise ValueError(f"shard_mib must be at least 1, got {shard_mib}")
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[input])
    directory = located.model(input)
    tokenizer = vocabulary.load(directory, llama_hf.load_config(directory))
    prompt = manifest.told(llama_hf.load_prompt(directory), template, boundary)
    carried = carry.find(directory, prompt, num_pieces=tokenizer.vocab_size)
    checkpoint = llama_hf.load(directory, dtype=dtype)
    for note in [*checkpoint.notes, *carried.notes]:
        terminal.say(f"zhllama: note: {note}")
    written = llama_hf.save(
        output,
        config=checkpoint.config,
        params=checkpoint.params,
        tokenizer=tokenizer,
        prompt=prompt,
        generation=checkpoint.generation,
        history=[*checkpoint.history, {"step": "convert", "dtype": dtype or "as stored"} | ({"template": template} if template else {})],
        carried=carried.files,
        kept=checkpoint.kept,
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
