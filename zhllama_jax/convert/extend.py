"""Growing the vocabulary of a model directory to that of a merged tokenizer.

Some checkpoints have more rows than their tokenizer has pieces: padded to a multiple of 64, or with a row for a [PAD] that only
`added_tokens.json` knows. Text never becomes the id of such a row, so it holds nothing of the model, and the merged tokenizer gives its
id to a new piece. These rows give way: the model is first cut to the rows that have pieces, base and extension alike.

Where none gave way, the step names the smaller model's fingerprint: adapters that were trained on that one fit the grown one too.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from zhllama_jax import files
from zhllama_jax.convert import llama_hf, manifest
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import align, processor


class Extended(NamedTuple):
    """What a resize did.

    Attributes:
      before: rows before.
      unused: how many of these no piece of the model's own tokenizer had, and so gave way.
      config: the new model's shape.
    """

    before: int
    unused: int
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
      overwrite: replace an existing directory of ours, at once when the new one is complete.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: the tokenizer does not extend the model's, there is nothing to add, or the output may not be written.
    """
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model])
    config = llama_hf.load_config(model)
    old = processor.Tokenizer.load(model)
    llama_hf.check_tokenizer(config, old)
    if tokenizer.vocab_size < old.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size:,} pieces, fewer than the {old.vocab_size:,} of the tokenizer of {model}: "
            "rows with a piece are never removed, so give a tokenizer that was merged onto that one"
        )
    unused = config.vocab_size - old.vocab_size
    if unused:
        _check_ends(config, old.vocab_size, model)
    pieces = align.spell(old, tokenizer)
    checkpoint = llama_hf.load(model, digest=not unused)
    config, params = resize.cut(checkpoint.config, checkpoint.params, old.vocab_size)
    grown, params = resize.grow(config, params, pieces=pieces, init=init, pad_token_id=tokenizer.pad_id, key=jax.random.key(seed))
    assert grown.vocab_size == tokenizer.vocab_size, "one row for each piece"
    step = {
        "step": "resize",
        "init": init,
        "from": checkpoint.config.vocab_size,
        "unused": unused,
        "to": grown.vocab_size,
        "base_fingerprint": None if unused else checkpoint.fingerprint,
        "tokenizer_sha256": tokenizer.sha256,
    }
    llama_hf.save(
        output,
        config=grown,
        params=params,
        tokenizer=tokenizer,
        prompt=checkpoint.prompt,
        generation=_without_gone_ends(checkpoint.generation, old.vocab_size) or llama_hf.PAPER_GENERATION,
        history=[*checkpoint.history, step],
        overwrite=overwrite,
    )
    return Extended(checkpoint.config.vocab_size, unused, grown)


def _without_gone_ends(generation: dict[str, Any], num_pieces: int) -> dict[str, Any]:
    """Decoding values whose list of ids that end a text has none of a row that gave way: a new piece has its id now."""
    ends = generation.get("eos_token_id")
    if not isinstance(ends, list):
        return generation
    return {**generation, "eos_token_id": [id_ for id_ in ends if not isinstance(id_, int) or id_ < num_pieces]}


def _check_ends(config: config_lib.LlamaConfig, num_pieces: int, model: str | Path) -> None:
    """Refuses a model whose texts begin or end with the id of a row without a piece: that row is in use.

    Raises:
      ValueError: with the id and what to do.
    """
    for name, id_ in (("bos_token_id", config.bos_token_id), ("eos_token_id", config.eos_token_id)):
        if id_ is not None and id_ >= num_pieces:
            raise ValueError(
                f"{model} has {config.vocab_size:,} rows and a tokenizer of {num_pieces:,} pieces, and its {name} {id_:,} has no piece: "
                "give it the tokenizer.model that its texts were made with, or take the base model that it was tuned from"
            )
