"""`zhllama merge`."""

from pathlib import Path
from typing import Literal

from zhllama_jax import templates
from zhllama_jax.cli import located, terminal


def run(
    *,
    model: str,
    adapter: list[str],
    output: Path,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    force: bool = False,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    shard_mib: int = 4096,
    overwrite: bool = False,
) -> None:
    """Folds adapters into a model, in order, accumulating in float32.

    Args:
      model: Hugging Face directory of the base, or a hub id (owner/name, owner/name@revision).
      adapter: adapter directories or hub ids, in the order in which they were trained.
      output: directory to write.
      dtype: of the stored weights; the base's if left out.
      force: fold although base or order are not those of the training.
      template: what stood around instructions in training, where no adapter says: alpaca for released Alpacas.
      boundary: how an answer joined it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      shard_mib: no file of weights is larger than so many MiB, unless a single tensor is.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama merge --model llama-7b-zh --adapter runs/stage1/adapter runs/stage2/adapter --output adapted
      zhllama merge --model llama-7b-49954 --adapter llama-lora alpaca-lora --output chinese-alpaca --template alpaca
    """
    from zhllama_jax import files
    from zhllama_jax.convert import fold, manifest

    if template is not None:
        templates.named(template)
    if shard_mib < 1:
        raise ValueError(f"shard_mib must be at least 1, got {shard_mib}")
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model, *adapter])  # before anything is fetched
    base, stack = located.model(model), located.adapters(adapter)
    try:
        merged = fold.merge(
            base,
            stack,
            output,
            dtype=dtype,
            force=force,
            template=template,
            boundary=boundary,
            shard_bytes=shard_mib << 20,
            overwrite=overwrite,
        )
    except fold.Mismatch as error:
        raise ValueError(f"{error}, or fold them all the same with --force") from None
    for note in merged.notes:
        terminal.say(f"zhllama: note: {note}")
    terminal.result(
        f"{output}: {len(adapter)} adapter{'s' * (len(adapter) > 1)} folded into {model}, fingerprint {merged.manifest['fingerprint'][:16]}"
    )
    terminal.then("generate", "--model", output, "--prompt", "TEXT")
