"""`zhllama tokenizer train`."""

from pathlib import Path
from typing import Literal

from zhllama_jax.cli import terminal


def run(
    *,
    input: list[Path],
    vocab_size: int,
    output: Path,
    model_type: Literal["bpe", "unigram"] = "bpe",
    character_coverage: float = 0.9995,
    byte_fallback: bool = True,
    field: str = "text",
    max_sentences: int = 5_000_000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Trains a SentencePiece model; the same text and seed give the same bytes.

    Args:
      input: .txt files (a text a line) and .jsonl files.
      vocab_size: pieces in all, the special ones and the 256 byte pieces among them.
      output: .model file to write.
      model_type: bpe, whose pieces fit a LLaMA's best, or unigram, as Chinese-LLaMA-Alpaca's were.
      character_coverage: share of the text's characters that must be pieces; the rarest beyond it become bytes.
      byte_fallback: whether every other character is spelled by its UTF-8 bytes.
      field: the key of the text in .jsonl rows.
      max_sentences: a larger corpus is sampled down to this many.
      seed: of that sample.
      overwrite: replace an existing output; an input is never replaced.

    Examples:
      zhllama tokenizer train --input corpus.jsonl --vocab_size 20000 --output zh.model
    """
    from zhllama_jax.tokenizer import train

    trained = train.train(
        input,
        output=output,
        vocab_size=vocab_size,
        model_type=model_type,
        character_coverage=character_coverage,
        byte_fallback=byte_fallback,
        field=field,
        max_sentences=max_sentences,
        seed=seed,
        overwrite=overwrite,
    )
    terminal.result(
        f"{output}: {trained.vocab_size:,} pieces from {trained.sentences:,} sentences ({trained.characters:,} characters)\n"
        f"sha256 {trained.sha256}"
    )
    terminal.then("tokenizer", "merge", "--base", "LLAMA", "--added", output, "--output", "merged.model")
