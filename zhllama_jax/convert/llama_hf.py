"""Hugging Face model directories in and out.

A directory is read tensor by tensor into stacked leaves on the host, and written tensor by tensor into shards under a temporary name
that becomes the final one when everything is on the disk. `config.json` carries `base_vocab_size`, so a round trip restores which
rows are the original vocabulary's.
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhllama_jax import files, tree
from zhllama_jax.convert import card, config_hf, manifest, names, readers, safetensors_io, tokenizer_hf, torch_io
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

CERTIFICATE = "certificate.json"

Certify = Callable[[Path, safetensors_io.Written], Mapping[str, Any]]
"""Holds what was written into a folder against what was meant, and returns the certificate; raises ValueError where they differ."""

_NOTED = ("_from_model_config", "transformers_version")  # what transformers notes about itself

DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What a weight may be, by NumPy's name; `safetensors_io.DTYPES` has the other side."""


def read_config(directory: str | Path, *, allow_unknown: bool = False) -> config_hf.Contents:
    """All that the `config.json` of a model directory says.

    Raises:
      FileNotFoundError: there is no such directory or file.
      ValueError: the directory is an adapter, or see `config_hf.read`.
    """
    directory = Path(directory)
    files.expect_folder(directory, "a Hugging Face model directory")
    if (directory / "adapter_config.json").is_file() and not (directory / CONFIG).is_file():
        raise ValueError(f"{directory} is an adapter, not a model: give its base model, and this directory as an adapter")
    return config_hf.read(directory / CONFIG, allow_unknown=allow_unknown)


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


def open_weights(directory: str | Path) -> readers.Reader:
    """Opens a directory's weights: safetensors, or PyTorch's files where there are none.

    Raises:
      FileNotFoundError, ValueError: see `safetensors_io.open_model` and `torch_io.open_model`.
    """
    directory = Path(directory)
    files.expect_folder(directory, "a Hugging Face model directory")
    pytorch = any((directory / name).is_file() for name in (torch_io.SINGLE, torch_io.INDEX))
    if pytorch and not any(directory.glob("*.safetensors")):
        return torch_io.open_model(directory)
    return safetensors_io.open_model(directory)


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
    kept: Mapping[str, Any] = config_hf.NOTHING,
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
      kept: neutral keys of the `config.json` that the model came with.
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
        kept=kept,
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
    kept: Mapping[str, Any] = config_hf.NOTHING,
    shard_bytes: int = safetensors_io.SHARD_BYTES,
    certify: Certify | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a model directory from a stream of tensors in the order of `names.tensors`, already in `dtype`; see `save`.

    With `certify` its certificate stands in the directory, or nothing is written.
    """
    check_tokenizer(config, tokenizer)
    config = with_ids(config, tokenizer)
    plan = {tensor.name: (DTYPES[dtype], tensor.shape) for tensor in names.tensors(config)}
    ends = [id_ for id_ in _ends(generation) if id_ < config.vocab_size]
    eos = ends if len(ends) > 1 and tokenizer.eos_id in ends else config.eos_token_id
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": eos, "pad_token_id": config.pad_token_id}
    with files.new_directory(directory, ours=manifest.model_files, overwrite=overwrite) as folder:
        written = safetensors_io.write(folder, plan, tensors, shard_bytes=shard_bytes)
        files.write_json(folder / CONFIG, config_hf.to_json(config, dtype, kept))
        files.write_json(folder / GENERATION, {**{key: value for key, value in generation.items() if key not in _NOTED}, **ids})
        for name, content in carried.items():
            (folder / name).write_bytes(content)
        tokenizer_hf.write(folder, tokenizer, max_length=config.context, prompt=prompt, pad_id=config.pad_token_id)
        page = card.model(
            Path(directory).name, config, dtype=dtype, tokenizer=tokenizer, prompt=prompt, history=history, carried=carried.keys()
        )
        files.atomic_write(folder / "README.md", page)
        if certify is not None:
            files.write_json(folder / CERTIFICATE, certify(folder, written))
        return manifest.write(folder, kind="model", written=written, facts=facts(config, tokenizer, prompt, history))


def facts(
    config: config_lib.LlamaConfig,
    tokenizer: processor.Tokenizer,
    prompt: manifest.Prompt | None,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a model's manifest says beside digests."""
    return {
        "vocab_size": config.vocab_size,
        "base_vocab_size": config.base_rows,
        "tokenizer_sha256": tokenizer.sha256,
        "prompt": prompt._asdict() if prompt else None,
        "history": list(history),
    }


def with_ids(config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> config_lib.LlamaConfig:
    """The model's shape with its tokenizer's ids of BOS, EOS and padding."""
    pad_id = config.pad_token_id if tokenizer.pad_id is None else tokenizer.pad_id  # many a LLaMA pads with 0 and has no piece for it
    return config.replace(bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=pad_id)


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
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return safetensors_io.DTYPES[DTYPES[dtype]]


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
