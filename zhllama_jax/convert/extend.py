"""Growing the vocabulary of a model directory to that of a merged tokenizer.

Rows that no piece has (see `vocabulary`) give way, since the merged tokenizer gives their ids to new pieces: the model is first cut to the
rows that have pieces, base and extension alike.

Where none gave way, the step names the smaller model's fingerprint: adapters that were trained on that one fit the grown one too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from zhllama_jax import files
from zhllama_jax.convert import carry, certificate, llama_hf, manifest, source, view, vocabulary
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize
from zhllama_jax.tokenizer import align, processor


class Extended(NamedTuple):
    """What a resize did.

    Attributes:
      before: rows before.
      unused: how many of these no piece of the model's own tokenizer had, and so gave way.
      config: the new model's shape.
      notes: what is odd and harmless, and what was left out, as sentences.
    """

    before: int
    unused: int
    config: config_lib.LlamaConfig
    notes: list[str]


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
    with source.Source(model, digest=True, once=True) as opened:
        config = opened.config
        old = vocabulary.load(model, config)
        if tokenizer.vocab_size < old.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size:,} pieces, fewer than the {old.vocab_size:,} of the tokenizer of {model}: "
                "rows with a piece are never removed, so give a tokenizer that was merged onto that one"
            )
        unused = vocabulary.unused(config, old, model)
        pieces = align.spell(old, tokenizer)
        made = view.cut(view.stored(opened), old.vocab_size)
        made = view.grown(made, pieces=pieces, init=init, pad_token_id=tokenizer.pad_id, key=jax.random.key(seed))
        assert made.config.vocab_size == tokenizer.vocab_size, "one row for each piece"
        dtype = opened.dtypes[0] if len(opened.dtypes) == 1 else "float32"
        if len(opened.dtypes) > 1:
            made = view.cast(made, llama_hf.parse_dtype(dtype))
        step: dict[str, Any] = {
            "step": "resize",
            "init": init,
            "from": config.vocab_size,
            "unused": unused,
            "to": made.config.vocab_size,
            "base_fingerprint": None,
            "tokenizer_sha256": tokenizer.sha256,
        }

        def certify(folder: Path, written: Any) -> Mapping[str, Any]:
            # Known only now that all tensors were read, and the manifest is written after this.
            step["base_fingerprint"] = None if unused else opened.fingerprint()
            return certificate.certify(folder, certificate.Proof(made, (), made.config, dtype, [dtype], logits=False))

        carried = carry.find(model, opened.prompt, num_pieces=tokenizer.vocab_size)
        with made.tensors() as tensors:
            llama_hf.write(
                output,
                tensors,
                config=made.config,
                dtype=dtype,
                tokenizer=tokenizer,
                prompt=opened.prompt,
                generation=llama_hf.with_sampling(vocabulary.without_gone_ends(opened.generation, old.vocab_size)),
                carried=carried.files,
                history=[*opened.history, step],
                kept=opened.kept,
                certify=certify,
                overwrite=overwrite,
            )
        return Extended(config.vocab_size, unused, made.config, opened.notes + opened.reader.notes + carried.notes)
