"""`zhllama merge`."""

from pathlib import Path
from typing import Literal

from zhllama_jax import templates
from zhllama_jax.cli import convert, rewritten


def run(
    *,
    model: str,
    adapter: list[str],
    output: Path,
    to: Literal["hf", "meta", "gguf"] = "hf",
    dtype: convert.Dtype | None = None,
    force: bool = False,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    pad_vocab_multiple: int = 1,
    shard_mib: int = 4096,
    shards: int = 1,
    even_shards: bool = False,
    logits: bool = True,
    allow_unknown_keys: bool = False,
    overwrite: bool = False,
) -> None:
    """Folds adapters into a model, in order, accumulating in float32.

    A certificate says what was compared. A base with fewer rows than released adapters have is grown to the last one's tokenizer by itself.

    Args:
      model: the base, recognised by itself: a directory in Hugging Face's or Meta's format, a .gguf file, or a hub id (owner/name,
        owner/name@revision).
      adapter: adapter directories or hub ids, in the order in which they were trained.
      output: directory to write.
      to: the format to write: hf (Hugging Face), meta (params.json and consolidated.*.pth), gguf (llama.cpp, with an Ollama Modelfile).
      dtype: of the stored weights; the base's if left out; q8_0 and q4_0 for gguf only.
      force: fold although base or order are not those of the training.
      template: what stood around instructions in training, where no adapter says: alpaca for released Alpacas.
      boundary: how an answer joined it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      pad_vocab_multiple: add zero rows until the vocabulary is a multiple of it; servers that cut it over devices want 64.
      shard_mib: hf: no file of weights is larger than so many MiB, unless a single tensor is.
      shards: meta: number of files.
      even_shards: meta: refuse a vocabulary that the files cannot share evenly; else the last file has what is left over.
      logits: compare logits too, on 64 tokens, layer by layer: adapters beside the base against the merged model.
      allow_unknown_keys: pass over keys of configurations, the adapters' too, that nobody knows here, which may change the numbers.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama merge --model llama-7b-zh --adapter runs/stage1/adapter runs/stage2/adapter --output adapted
      zhllama merge --model llama-7b-meta --adapter llama-lora alpaca-lora --to gguf --dtype q8_0 --template alpaca --output alpaca-gguf
    """
    rewritten.run(
        model,
        output,
        adapters=adapter,
        to=to,
        dtype=dtype,
        force=force,
        template=template,
        boundary=boundary,
        pad_vocab_multiple=pad_vocab_multiple,
        shard_mib=shard_mib,
        shards=shards,
        even_shards=even_shards,
        logits=logits,
        allow_unknown_keys=allow_unknown_keys,
        overwrite=overwrite,
    )
