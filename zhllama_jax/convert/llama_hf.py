"""Hugging Face model directories in and out.

A directory is read tensor by tensor into stacked leaves on the host, and written tensor by tensor into shards under a temporary name
that becomes the final one when everything is on the disk. `config.json` carries `base_vocab_size`, so a round trip restores which
rows are the original vocabulary's.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import arrays, files, tree
from zhllama_jax.convert import card, config_hf, manifest, names, safetensors_io, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

CONFIG = "config.json"
GENERATION = "generation_config.json"
PAPER_GENERATION: Mapping[str, Any] = {
    "do_sample": True,
    "temperature": 0.2,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.3,
    "max_new_tokens": 512,
}
"""The decoding values of the paper (Cui et al., 2023, arXiv 2304.08177, section 5)."""

_NOTED = ("_from_model_config", "transformers_version")  # what transformers notes about itself

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Checkpoint(NamedTuple):
    """A model directory in memory.

    Attributes:
      config: the model's shape.
      params: the weights in our layout, NumPy arrays on the host.
      prompt: how instructions were put to it in training; None for a base model.
      generation: `generation_config.json` as it stands, {} without one.
      history: what was done to the model so far, from its manifest.
      directory: where it was read.
      notes: what is odd in the directory and harmless, as sentences.
      fingerprint: of the weights that were read; None where that was not asked for.
    """

    config: config_lib.LlamaConfig
    params: arrays.Tree
    prompt: manifest.Prompt | None
    generation: dict[str, Any]
    history: list[dict[str, Any]]
    directory: Path
    notes: list[str]
    fingerprint: str | None = None


def load(directory: str | Path, *, dtype: str | None = None, digest: bool = False, as_found: bool = False) -> Checkpoint:
    """Reads a model directory.

    Args:
      directory: holds `config.json` and safetensors.
      dtype: "float32", "float16" or "bfloat16" for all weights; None keeps the stored one.
      digest: make the fingerprint of what is read (about a second per gigabyte).
      as_found: see `open_weights`.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: another kind of model or tokenizer, a setting that is not supported, tensors that do not fit the configuration, or see
        `manifest.hold`.
    """
    directory = Path(directory)
    config, notes = _read_config(directory)
    if not tokenizer_hf.require_sentencepiece(directory):
        notes.append(f"{directory} has no tokenizer")
    contents = manifest.read(directory, "model")
    with open_weights(directory, config, digest=digest, as_found=as_found) as reader:
        target = parse_dtype(dtype) if dtype else _stored_dtype(reader, notes)
        params = names.collect(config, lambda name: cast(name, reader.read(name), target))
        fingerprint = manifest.fingerprint_by_reading(reader) if digest else None
        notes += reader.notes
    return Checkpoint(
        config=config,
        params=params,
        prompt=manifest.prompt(contents),
        generation=load_generation(directory),
        history=contents["history"] if contents else [],
        directory=directory,
        notes=notes,
        fingerprint=fingerprint,
    )


def load_config(directory: str | Path) -> config_lib.LlamaConfig:
    """The shape of the model in a directory, without its weights."""
    return _read_config(Path(directory))[0]


def load_generation(directory: str | Path) -> dict[str, Any]:
    """The `generation_config.json` of a directory as it stands, {} without one.

    Raises:
      ValueError: it is damaged.
    """
    path = Path(directory) / GENERATION
    value = files.read_json(path, what="a generation_config.json") if path.is_file() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a generation_config.json: it holds no object")
    return value


def load_prompt(directory: str | Path) -> manifest.Prompt | None:
    """How instructions were put to the model of a directory; None for a base model."""
    return manifest.prompt(manifest.read(directory, "model"))


def open_weights(
    directory: str | Path, config: config_lib.LlamaConfig, *, digest: bool = False, as_found: bool = False
) -> safetensors_io.Reader:
    """Opens a directory's weights after holding them against the configuration; as they are read they are held against the manifest.

    Args:
      directory: holds `config.json` and safetensors.
      config: what it should hold.
      digest: see `manifest.hold`.
      as_found: read whatever is there, also what is not as the manifest says, and what are no numbers: to compare it.

    Raises:
      FileNotFoundError, ValueError: see `safetensors_io.open_model`, `manifest.hold` and `names.check`.
    """
    reader = safetensors_io.open_model(directory)
    try:
        if not as_found:
            manifest.hold(directory, "model", reader, beside=(CONFIG, tokenizer_hf.MODEL), digest=digest)
        shapes = reader.shapes
        if config.tie_word_embeddings and _ties(reader):
            del shapes["lm_head.weight"]
        names.check(config, shapes, where=str(directory))
    except BaseException:
        reader.close()
        raise
    return reader


def save(
    directory: str | Path,
    *,
    config: config_lib.LlamaConfig,
    params: Mapping[str, Any],
    tokenizer: processor.Tokenizer,
    dtype: str | None = None,
    prompt: manifest.Prompt | None = None,
    generation: Mapping[str, Any] = PAPER_GENERATION,
    history: Sequence[Mapping[str, Any]] = (),
    carried: Mapping[str, bytes] = types.MappingProxyType({}),
    shard_bytes: int = safetensors_io.SHARD_BYTES,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a model directory that transformers, llama.cpp and we ourselves load.

    Args:
      directory: does not exist yet, unless `overwrite`.
      config: the model's shape.
      params: the weights in our layout, on the host or on devices.
      tokenizer: must not have more pieces than the model has rows.
      dtype: "float32", "float16" or "bfloat16"; None keeps the weights' own, which must then be one.
      prompt: how instructions were put to the model in training, if they were; gives the chat template.
      generation: decoding values for `generation_config.json`. Several ids under `eos_token_id` stay if the tokenizer's is among them;
        the other ids are the tokenizer's, and the configuration's for padding without a piece.
      history: what was done to the model so far, oldest first, JSON objects.
      carried: further files, by name; see `carry`.
      shard_bytes: a file of weights is closed before it would exceed this.
      overwrite: replace an existing directory of ours (at once, when the new one is complete).

    Returns:
      The manifest.

    Raises:
      ValueError: the directory exists, the tokenizer does not fit, or a number does not fit float16.
    """
    if dtype is None:
        found = sorted({leaf.dtype.name for leaf in tree.flatten(params).values()})
        if len(found) > 1:
            raise ValueError(f"the weights are of several dtypes ({', '.join(found)}): say in which one to store them")
        dtype = found[0]
    target = parse_dtype(dtype)
    return write(
        directory,
        ((name, cast(name, array, target)) for name, array in names.export(config, params)),
        config=config,
        tokenizer=tokenizer,
        dtype=dtype,
        prompt=prompt,
        generation=generation,
        history=history,
        carried=carried,
        shard_bytes=shard_bytes,
        overwrite=overwrite,
    )


def write(
    directory: str | Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    config: config_lib.LlamaConfig,
    tokenizer: processor.Tokenizer,
    dtype: str,
    prompt: manifest.Prompt | None,
    generation: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    carried: Mapping[str, bytes] = types.MappingProxyType({}),
    shard_bytes: int = safetensors_io.SHARD_BYTES,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a model directory from a stream of tensors in the order of `names.tensors`, already in `dtype`; see `save`."""
    check_tokenizer(config, tokenizer)
    pad_id = config.pad_token_id if tokenizer.pad_id is None else tokenizer.pad_id  # many a LLaMA pads with 0 and has no piece for it
    config = config.replace(bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=pad_id)
    plan = {tensor.name: (_DTYPES[dtype], tensor.shape) for tensor in names.tensors(config)}
    ends = [id_ for id_ in _ends(generation) if id_ < config.vocab_size]
    eos = ends if len(ends) > 1 and tokenizer.eos_id in ends else config.eos_token_id
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": eos, "pad_token_id": config.pad_token_id}
    with files.new_directory(directory, ours=manifest.model_files, overwrite=overwrite) as folder:
        written = safetensors_io.write(folder, plan, tensors, shard_bytes=shard_bytes)
        files.write_json(folder / CONFIG, config_hf.to_json(config, dtype))
        files.write_json(folder / GENERATION, {**{key: value for key, value in generation.items() if key not in _NOTED}, **ids})
        for name, content in carried.items():
            (folder / name).write_bytes(content)
        tokenizer_hf.write(folder, tokenizer, max_length=config.max_position_embeddings, prompt=prompt)
        page = card.model(
            Path(directory).name, config, dtype=dtype, tokenizer=tokenizer, prompt=prompt, history=history, carried=carried.keys()
        )
        files.atomic_write(folder / "README.md", page)
        facts = {
            "vocab_size": config.vocab_size,
            "base_vocab_size": config.base_rows,
            "tokenizer_sha256": tokenizer.sha256,
            "prompt": prompt._asdict() if prompt else None,
            "history": list(history),
        }
        return manifest.write(folder, kind="model", written=written, facts=facts)


def check_tokenizer(config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> None:
    """Refuses a tokenizer that is not of LLaMA's kind, or whose ids would run past the model's rows.

    Raises:
      ValueError: with what differs, or both sizes and what to do.
    """
    tokenizer.require_llama()
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size:,} pieces, the model {config.vocab_size:,} rows"
            f"{names.vocabulary_hint(tokenizer.vocab_size, config.vocab_size)}: grow the model first with `zhllama resize`"
        )


def parse_dtype(dtype: str) -> np.dtype:
    """The NumPy dtype of a name among "float32", "float16", "bfloat16"."""
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return safetensors_io.DTYPES[_DTYPES[dtype]]


def cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` in another dtype, rounded to nearest even.

    Raises:
      ValueError: float16 cannot hold a number that was finite.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype == np.float16 and safetensors_io.not_finite(result):
        largest = np.abs(array.astype(np.float32)).max()
        raise ValueError(f"{name} holds numbers up to {largest:g}, beyond float16's 65504: store the model as bfloat16 or float32")
    return result


def with_sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Decoding values for a model that was adapted: the given ones, and the paper's if these say nothing about sampling."""
    return dict(generation) if generation.keys() & PAPER_GENERATION.keys() else {**generation, **PAPER_GENERATION}


def _ends(generation: Mapping[str, Any]) -> list[int]:
    """The ids that end a text where `generation_config.json` lists several."""
    value = generation.get("eos_token_id")
    return [id_ for id_ in value if type(id_) is int and id_ >= 0] if isinstance(value, list) else []


def _read_config(directory: Path) -> tuple[config_lib.LlamaConfig, list[str]]:
    files.expect_folder(directory, "a Hugging Face model directory")
    if (directory / "adapter_config.json").is_file() and not (directory / CONFIG).is_file():
        raise ValueError(f"{directory} is an adapter, not a model: give its base model, and this directory as an adapter")
    return config_hf.read(directory / CONFIG)


def _stored_dtype(reader: safetensors_io.Reader, notes: list[str]) -> np.dtype:
    """The one dtype of a directory's weights; float32 where there are several."""
    found = {entry.dtype for name, entry in reader.entries.items() if not names.IGNORED.fullmatch(name)} & safetensors_io.DTYPES.keys()
    if len(found) == 1:
        return safetensors_io.DTYPES[found.pop()]
    notes.append(f"the weights are stored as {', '.join(sorted(found))} and read as float32")
    return safetensors_io.DTYPES["F32"]


def _ties(reader: safetensors_io.Reader) -> bool:
    """Whether a tied model's directory holds a head all the same, equal to the embedding."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if head not in reader.entries or embedding not in reader.entries:
        return False
    return safetensors_io.describe(reader.read(head)) == safetensors_io.describe(reader.read(embedding))
