"""`zhllama tokenizer merge`."""

from pathlib import Path
from typing import Literal

from zhllama_jax.cli import located, terminal


def run(
    *,
    base: str,
    added: list[str],
    output: Path,
    mode: Literal["safe", "reference"] = "safe",
    script: str = "han",
    pad_token: bool = False,
    proof_strings: int = 100_000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Adds pieces to a LLaMA tokenizer; old ids never move.

    Args:
      base: LLaMA's tokenizer, extended before or not: a .model file, a model directory, or a hub id (owner/name).
      added: SentencePiece models, hub ids that have one, or word lists (.txt, one a line).
      output: .model file to write.
      mode: safe takes pieces of the script only and proves that other text is encoded as before; reference does byte for byte
        what Chinese-LLaMA-Alpaca did, which adapters released for it need.
      script: the script or scripts whose pieces safe mode takes.
      pad_token: also add the padding piece [PAD].
      proof_strings: generated texts that safe mode compares.
      seed: of those texts.
      overwrite: replace an existing output; the base and what is added are never replaced.

    Examples:
      zhllama tokenizer merge --base llama-7b --added zh.model words.txt --output merged.model
      zhllama tokenizer merge --base llama-7b --added zh.model --mode reference --output merged.model
    """
    from zhllama_jax import files
    from zhllama_jax.tokenizer import merge, proto

    first, more = located.tokenizer(base), [located.tokenizer(name) for name in added]
    files.free_file(output, overwrite=overwrite, inputs=map(proto.file, (first, *more)))
    merged = merge.merge(first, more, mode=mode, script=script, pad_token=pad_token, proof_strings=proof_strings, seed=seed)
    files.atomic_write(output, merged.serialized)
    terminal.result(f"{output}: {merged.summary()}")
    if mode == "reference" and merged.stranded:
        count = f"{len(merged.stranded):,} words of lists, such as {merged.stranded[0]},"
        terminal.say(
            f"zhllama: warning: no text is ever encoded as {count} for reference mode adds no pieces that lead there: safe mode does"
        )
        return
    model = base if first.is_dir() else "MODEL"
    terminal.then("resize", "--model", model, "--tokenizer", output, "--output", "resized")
