"""`zhllama resize`."""

from pathlib import Path
from typing import Literal

from zhllama_jax.cli import terminal


def run(
    *,
    model: Path,
    tokenizer: Path,
    output: Path,
    init: Literal["mean_of_pieces", "mean", "normal"] = "mean_of_pieces",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Grows a model's vocabulary to that of a merged tokenizer; old rows stay bit for bit.

    Args:
      model: Hugging Face directory of the model, with its own tokenizer.
      tokenizer: the merged tokenizer: a .model file, or a directory that holds one.
      output: directory to write.
      init: where new rows start: mean_of_pieces (the mean of the old pieces that spell the new one), mean (of all rows), normal.
      seed: of the random rows of --init normal.
      overwrite: replace an existing output, at once when the new one is complete.
    """
    import jax

    from zhllama_jax.convert import llama_hf
    from zhllama_jax.model import resize
    from zhllama_jax.tokenizer import align, processor

    merged = processor.Tokenizer.load(tokenizer)
    config = llama_hf.load_config(model)
    old = processor.Tokenizer.load(model)
    llama_hf.check_tokenizer(config, old)
    if merged.vocab_size < config.vocab_size:
        raise ValueError(
            f"{tokenizer} has {merged.vocab_size:,} pieces, fewer than the {config.vocab_size:,} rows of {model}: rows are never removed"
        )
    pieces = align.spell(old, merged)
    checkpoint = llama_hf.load(model)
    config, params = resize.grow(
        checkpoint.config, checkpoint.params, pieces=pieces, init=init, pad_token_id=merged.pad_id, key=jax.random.key(seed)
    )
    step = {
        "step": "resize",
        "init": init,
        "from": checkpoint.config.vocab_size,
        "to": config.vocab_size,
        "tokenizer_sha256": merged.sha256,
    }
    llama_hf.save(
        output,
        config=config,
        params=params,
        tokenizer=merged,
        prompt=checkpoint.prompt,
        generation=checkpoint.generation or llama_hf.PAPER_GENERATION,
        history=[*checkpoint.history, step],
        overwrite=overwrite,
    )
    terminal.result(f"{output}: {checkpoint.config.vocab_size:,} rows grown to {config.vocab_size:,}, new ones by {init}")
