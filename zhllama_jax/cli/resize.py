"""`zhllama resize`."""

from pathlib import Path
from typing import Literal

from zhllama_jax.cli import allocator, located, terminal


def run(
    *,
    model: str,
    tokenizer: str,
    output: Path,
    init: Literal["mean_of_pieces", "mean", "normal"] = "mean_of_pieces",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Grows a model to a merged vocabulary; old rows stay bit for bit.

    Args:
      model: Hugging Face directory of the model, with its own tokenizer, or a hub id (owner/name, owner/name@revision).
      tokenizer: the merged tokenizer: a .model file, a directory that holds one, or a hub id.
      output: directory to write.
      init: where new rows start: mean_of_pieces (the mean of the old pieces that spell the new one), mean (of all rows), normal.
      seed: of the random rows of --init normal.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama resize --model llama-7b --tokenizer merged.model --output llama-7b-zh
    """
    allocator.keep_freed_memory(one_heap=True)
    from zhllama_jax import files
    from zhllama_jax.convert import extend, manifest
    from zhllama_jax.tokenizer import processor

    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model, tokenizer])
    directory, merged = located.model(model), processor.Tokenizer.load(located.tokenizer(tokenizer))
    done = extend.run(directory, merged, output, init=init, seed=seed, overwrite=overwrite)
    for note in done.notes:
        terminal.say(f"zhllama: note: {note}")
    gone = f", of which {done.unused:,} had no piece and gave way," if done.unused else ""
    terminal.result(f"{output}: {done.before:,} rows{gone} grown to {done.config.vocab_size:,}, new ones by {init}")
    only_padding = done.config.vocab_size - done.before + done.unused == 1 and merged.pad_id == merged.vocab_size - 1
    stage, kind, rows, folder = ("sft", "sft", "ROWS", "sft") if only_padding else ("embeddings", "text", "TEXT", "stage1")
    start = ["train", "--model", output, "--stage", stage]
    terminal.then(*start, "--data.sources", f"{{{kind}: {{files: [{rows}]}}}}", "--steps", 1000, "--output", f"runs/{folder}")
