"""A model written in one of the formats: weights, tokenizer, a page about it, a certificate, and the manifest, all or nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import files
from zhllama_jax.convert import (
    card,
    config_hf,
    gguf_io,
    gguf_quant,
    llama_hf,
    llama_meta,
    manifest,
    modelfile,
    safetensors_io,
    source,
    tokenizer_hf,
    view,
)
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


class Form(NamedTuple):
    """How a model is to be stored.

    Attributes:
      to: the format.
      dtype: "float32", "float16" or "bfloat16"; of a GGUF file also "q8_0" or "q4_0".
      shard_bytes: Hugging Face: no file is larger, unless a single tensor is.
      shards: Meta: number of files.
      even: Meta: refuse a vocabulary that cannot be cut evenly.
    """

    to: source.Format
    dtype: str
    shard_bytes: int = safetensors_io.SHARD_BYTES
    shards: int = 1
    even: bool = False


class Around(NamedTuple):
    """What surrounds the weights of a model; see `llama_hf.save`."""

    tokenizer: processor.Tokenizer
    prompt: manifest.Prompt | None
    generation: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    carried: Mapping[str, bytes] = config_hf.NOTHING
    kept: Mapping[str, Any] = config_hf.NOTHING


class Written(NamedTuple):
    """What a write left: the manifest, notes for the user, and the file of weights where there is one only."""

    manifest: dict[str, Any]
    notes: list[str]
    file: str | None = None


def check(form: Form) -> None:
    """Refuses a form that no format has.

    Raises:
      ValueError: with what is allowed.
    """
    allowed = (
        [*llama_hf.DTYPES, *(kind.lower() for kind in gguf_quant.WRITABLE if kind not in gguf_quant.PLAIN)]
        if form.to == "gguf"
        else list(llama_hf.DTYPES)
    )
    if form.dtype not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(allowed)} for {source.NAMES[form.to]}, got {form.dtype!r}")


def write(
    output: str | Path, made: view.View, *, form: Form, around: Around, certify: llama_hf.Certify | None = None, overwrite: bool = False
) -> Written:
    """Writes a model; nothing stands under its name before all of it is on the disk and certified.

    Args:
      output: the directory; does not exist yet, unless `overwrite`.
      made: the model; its tensors have the form's dtype, or one that is quantised to it.
      form: how to store it.
      around: what surrounds the weights.
      certify: what to do before the directory takes its name.
      overwrite: replace an existing directory of ours.

    Raises:
      ValueError: the format cannot hold the model, or see `certify` and `llama_hf.write`.
    """
    check(form)
    if form.to == "hf":
        with made.tensors() as tensors:
            written = llama_hf.write(
                output,
                tensors,
                config=made.config,
                dtype=form.dtype,
                shard_bytes=form.shard_bytes,
                certify=certify,
                overwrite=overwrite,
                **around._asdict(),
            )
        return Written(written, [])
    llama_hf.check_tokenizer(made.config, around.tokenizer)
    config = llama_hf.with_ids(made.config, around.tokenizer)
    with files.new_directory(output, ours=manifest.model_files, overwrite=overwrite) as folder:
        fill = _meta if form.to == "meta" else _gguf
        weights, notes = fill(folder, Path(output), made._replace(config=config), form, around)
        for name, content in around.carried.items():
            (folder / name).write_bytes(content)
        page = card.model(
            Path(output).name,
            config,
            dtype=form.dtype,
            tokenizer=around.tokenizer,
            prompt=around.prompt,
            history=around.history,
            carried=around.carried.keys(),
            form=form.to,
            weights=next(iter(weights.files)),
        )
        files.atomic_write(folder / "README.md", page)
        if certify is not None:
            files.write_json(folder / llama_hf.CERTIFICATE, certify(folder, weights))
        facts = {"layout": form.to, **llama_hf.facts(config, around.tokenizer, around.prompt, around.history)}
        contents = manifest.write(folder, kind="model", written=weights, facts=facts)
        return Written(contents, notes, next(iter(weights.files)) if len(weights.files) == 1 else None)


def _meta(folder: Path, output: Path, made: view.View, form: Form, around: Around) -> tuple[safetensors_io.Written, list[str]]:
    with made.tensors() as tensors:
        written = llama_meta.write(
            folder, tensors, config=made.config, dtype=llama_hf.DTYPES[form.dtype], shards=form.shards, even=form.even
        )
    (folder / tokenizer_hf.MODEL).write_bytes(around.tokenizer.serialized)
    notes = []
    if made.config.context != config_lib.LlamaConfig.max_position_embeddings:
        notes.append(f"Meta's format does not say the context length of {made.config.context:,} tokens: tell it to who loads the model")
    return written, notes


def _gguf(folder: Path, output: Path, made: view.View, form: Form, around: Around) -> tuple[safetensors_io.Written, list[str]]:
    dtype = llama_hf.DTYPES.get(form.dtype, form.dtype.upper())
    path = folder / f"{output.name}-{dtype.lower()}.gguf"
    with made.tensors() as tensors:
        written = gguf_io.write(
            path, tensors, config=made.config, tokenizer=around.tokenizer, dtype=dtype, prompt=around.prompt, name=output.name
        )
    (folder / tokenizer_hf.MODEL).write_bytes(around.tokenizer.serialized)
    eos = around.tokenizer.piece(around.tokenizer.eos_id)
    text = modelfile.render(path.name, config=made.config, prompt=around.prompt, generation=around.generation, eos=eos)
    files.atomic_write(folder / modelfile.FILE, text)
    return safetensors_io.Written(written.files, written.tensors), written.notes
