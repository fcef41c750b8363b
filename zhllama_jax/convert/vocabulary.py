"""A model's own tokenizer, and the rows of its vocabulary that no piece has.

Some checkpoints have more rows than their tokenizer has pieces: padded to a multiple of 64, or with a row for a [PAD] that only
`added_tokens.json` knows. Text never becomes the id of such a row, so it holds nothing of the model. Where a model is written in another
form these rows stay; where ids are drawn or scored, and where new pieces take their places, they are cut off.
"""

from pathlib import Path
from typing import Any

from zhllama_jax.convert import host, names, source, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import processor

PADDING = 1024
"""Up to so many rows that no piece has may be padding; where there are more, the tokenizer is another model's."""


def load(directory: str | Path, config: config_lib.LlamaConfig) -> processor.Tokenizer:
    """The tokenizer of a model, held against the model's rows.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it is of another kind, has more pieces than there are rows, or lacks the piece that begins or ends texts.
    """
    tokenizer = source.load_tokenizer(directory)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{directory} has no {tokenizer_hf.MODEL}: copy the one that its texts were made with into it (for a LLaMA that was not "
            "adapted, LLaMA's own)"
        )
    tokenizer.require_llama()
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{Path(directory) / tokenizer_hf.MODEL} has {tokenizer.vocab_size:,} pieces, the model beside it {config.vocab_size:,} rows"
            f"{names.vocabulary_hint(tokenizer.vocab_size, config.vocab_size)}, so it is not the model's: put the model's own back, and "
            f"grow the model to a larger one with `zhllama resize --model {directory} --tokenizer MERGED --output GROWN`"
        )
    _check_ends(config, tokenizer.vocab_size, directory)
    return tokenizer


def cut(checkpoint: host.Checkpoint, tokenizer: processor.Tokenizer) -> host.Checkpoint:
    """A model without the rows that no piece has, so that no probability is theirs and none of them is ever drawn.

    Raises:
      ValueError: such a row begins or ends texts, so it is in use; there are fewer rows than pieces, or more than `PADDING` beyond them.
    """
    unused(checkpoint.config, tokenizer, checkpoint.directory)
    pieces = tokenizer.vocab_size
    config, params = resize.cut(checkpoint.config, checkpoint.params, pieces)
    return checkpoint._replace(config=config, params=params, generation=without_gone_ends(checkpoint.generation, config.vocab_size))


def unused(config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer, model: str | Path) -> int:
    """How many rows of a model no piece has.

    Raises:
      ValueError: see `cut`.
    """
    rows, pieces = config.vocab_size, tokenizer.vocab_size
    if (more := rows - pieces) > PADDING:
        raise ValueError(
            f"{model} has {rows:,} rows and a tokenizer of {pieces:,} pieces{names.vocabulary_hint(rows, pieces)}: {more:,} "
            "more are no padding, so the tokenizer is another model's; "
            f"copy the {tokenizer_hf.MODEL} that its texts were made with into it"
        )
    _check_ends(config, pieces, model)
    return more


def without_gone_ends(generation: dict[str, Any], num_pieces: int) -> dict[str, Any]:
    """Decoding values whose list of ids that end a text has none of a row that was cut off."""
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
