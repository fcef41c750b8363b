"""Growing the vocabulary of a model directory to that of a merged tokenizer."""

from pathlib import Path
from typing import NamedTuple

import jax

from zhllama_jax.convert import llama_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import align, processor


class Extended(NamedTuple):
    """What a resize did.

    Attributes:
      before: rows before.
      config: the new model's shape.
    """

    before: int
    config: config_lib.LlamaConfig


def run(
    model: str | Path,
    tokenizer: processor.Tokenizer,
    output: str | Path,
    *,
    init: resize.Init = "mean_of_pieces",
    seed: int = 0,
    overwrite: bool = False,
) -> Extended:
    """Writes the directory of `model` with one new row for each piece that the tokenizer has more.

    Args:
      model: Hugging Face directory with its own SentencePiece tokenizer.
      tokenizer: the merged one; its first pieces must be those of the model's.
      output: directory to write.
      init: how new rows begin, see `resize.grow`.
      seed: of the random rows of "normal".
      overwrite: replace an existing output, at once when the new one is complete.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: the tokenizer does not extend the model's, or there is nothing to add.
    """
    config = llama_hf.load_config(model)
    old = processor.Tokenizer.load(model)
    llama_hf.check_tokenizer(config, old)
    if tokenizer.vocab_size < config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size:,} pieces, fewer than the {config.vocab_size:,} rows of {model}: "
            "rows are never removed"
        )
    pieces = align.spell(old, tokenizer)
    checkpoint = llama_hf.load(model)
    grown, params = resize.grow(
        checkpoint.config, checkpoint.params, pieces=pieces, init=init, pad_token_id=tokenizer.pad_id, key=jax.random.key(seed)
    )
    step = {
        "step": "resize",
        "init": init,
        "from": checkpoint.config.vocab_size,
        "to": grown.vocab_size,
        "tokenizer_sha256": tokenizer.sha256,
    }
    llama_hf.save(
        output,
        config=grown,
        params=params,
        tokenizer=tokenizer,
        prompt=checkpoint.prompt,
        generation=checkpoint.generation or llama_hf.PAPER_GENERATION,
        history=[*checkpoint.history, step],
        overwrite=overwrite,
    )
    return Extended(checkpoint.config.vocab_size, grown)
