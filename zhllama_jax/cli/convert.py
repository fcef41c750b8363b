"""`zhllama convert`."""

from pathlib import Path
from typing import Literal

from zhllama_jax import templates
from zhllama_jax.cli import located, rewritten, terminal

Dtype = Literal["float32", "float16", "bfloat16", "q8_0", "q4_0"]


def run(
    *,
    input: str,
    output: Path,
    to: Literal["hf", "meta", "gguf", "peft"] = "hf",
    dtype: Dtype | None = None,
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
    """Writes a model or an adapter in another format, dtype or cut.

    A certificate says what was compared.

    Args:
      input: what to read, recognised by itself: a directory in Hugging Face's or Meta's format, a .gguf file, an adapter, or a hub id
        (owner/name, owner/name@revision).
      output: directory to write.
      to: the format to write: hf (Hugging Face), meta (params.json and consolidated.*.pth), gguf (llama.cpp, with an Ollama Modelfile),
        peft (of an adapter only).
      dtype: of the stored weights; the input's if left out; q8_0 and q4_0 for gguf only.
      template: what stood around instructions when the model was tuned, where its directory does not say: alpaca for released Alpacas.
      boundary: how an answer joined it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      pad_vocab_multiple: add zero rows until the vocabulary is a multiple of it; servers that cut it over devices want 64.
      shard_mib: hf: no file of weights is larger than so many MiB, unless a single tensor is.
      shards: meta: number of files.
      even_shards: meta: refuse a vocabulary that the files cannot share evenly; else the last file has what is left over.
      logits: compare logits too where numbers were changed, on 64 tokens, layer by layer.
      allow_unknown_keys: pass over keys of the configuration that nobody knows here, which may change the numbers.
      overwrite: replace a directory that zhllama wrote, at once when the new one is complete; an input is never replaced.

    Examples:
      zhllama convert --input llama-7b-meta --output llama-7b --dtype bfloat16
      zhllama convert --input adapted --to gguf --dtype q8_0 --output adapted-gguf
      zhllama convert --input chinese-alpaca-hf --output chinese-alpaca --template alpaca
    """
    from zhllama_jax import files
    from zhllama_jax.convert import manifest, peft

    if to == "peft":
        files.free_directory(output, ours=manifest.adapter_files, overwrite=overwrite, inputs=[input])
        done, notes = peft.rewrite(located.either(input), output, overwrite=overwrite, allow_unknown=allow_unknown_keys)
        for note in notes:
            terminal.say(f"zhllama: note: {note}")
        terminal.result(f"{output}: {len(done['tensors'])} tensors, digest {done['fingerprint'][:16]}")
        terminal.then("merge", "--model", "MODEL", "--adapter", output, "--output", "merged")
        return
    rewritten.run(
        input,
        output,
        to=to,
        dtype=dtype,
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
