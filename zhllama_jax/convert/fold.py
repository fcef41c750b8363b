"""Base + adapters -> one model: checked, accumulated in float32, rounded once.

`merge` streams from directory to directory and holds one tensor at a time; `load` does the same in memory. Rows of the vocabulary are
taken from the last adapter that has them; products of LoRA factors add. Which base an adapter belongs to, and what must be folded
before it, is checked by digest; `force` turns what does not match into notes. A base whose vocabulary grew (by [PAD], say)
still is the base of the adapters from before: growing changes neither kernels nor old rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files, hub, templates, tree
from zhllama_jax.convert import carry, llama_hf, manifest, names, peft, safetensors_io, tokenizer_hf, vocabulary
from zhllama_jax.lora import merge as lora_merge
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


class Mismatch(ValueError):
    """Adapters that do not belong to the base, or not in this order; `force` folds them all the same."""


class Merged(NamedTuple):
    """What a merge wrote: the manifest of the new directory, and notes for the user."""

    manifest: dict[str, Any]
    notes: list[str]


class Loaded(NamedTuple):
    """A model with adapters folded in: its weights in memory, and its tokenizer."""

    checkpoint: llama_hf.Checkpoint
    tokenizer: processor.Tokenizer


def merge(
    model: str | Path,
    adapters: Sequence[str | Path],
    output: str | Path,
    *,
    dtype: str | None = None,
    force: bool = False,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    shard_bytes: int = safetensors_io.SHARD_BYTES,
    overwrite: bool = False,
) -> Merged:
    """Folds adapters into a model directory and writes the result as one.

    Args:
      model: the base model's directory.
      adapters: adapter directories, in the order in which they were trained.
      output: does not exist yet, unless `overwrite`.
      dtype: "float32", "float16" or "bfloat16"; None keeps the base's.
      force: fold although fingerprints or order do not match.
      template, boundary: how the model was tuned on instructions, where no manifest says it; see `manifest.told`.
      shard_bytes: a file of weights is closed before it would exceed this.
      overwrite: replace an existing directory of ours.

    Raises:
      FileNotFoundError, ValueError: see `llama_hf.load`, `peft.load` and `check`.
    """
    model = Path(model)
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model, *adapters])
    config = llama_hf.load_config(model)
    contents = manifest.read(model, "model")
    loaded = [peft.load(directory) for directory in adapters]
    notes = [note for adapter in loaded for note in adapter.notes]
    fingerprint = manifest.fingerprint(model) if any(adapter.base_fingerprint for adapter in loaded) or contents else None
    notes += check(config, loaded, fingerprint=fingerprint, base=model, force=force)
    prompt = manifest.told(_prompt(manifest.prompt(contents), loaded), template, boundary)
    history = _history(contents["history"] if contents else [], loaded, base=model, fingerprint=fingerprint)
    generation = llama_hf.load_generation(model)
    tokenizer = choose_tokenizer(model, loaded, config)
    carried = carry.find(model, prompt, num_pieces=tokenizer.vocab_size)
    with llama_hf.open_weights(model, config, digest=fingerprint is not None) as reader:
        dtype = dtype or _stored_dtype(reader, model)
        written = llama_hf.write(
            output,
            _stream(reader, config, loaded, dtype=llama_hf.parse_dtype(dtype), fingerprint=fingerprint, where=model),
            config=config,
            tokenizer=tokenizer,
            dtype=dtype,
            prompt=prompt,
            generation=llama_hf.with_sampling(generation),
            history=history,
            carried=carried.files,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
        )
        return Merged(written, notes + reader.notes + carried.notes)


def load(model: str | Path, adapters: Sequence[str | Path] = (), *, dtype: str | None = None, force: bool = False) -> Loaded:
    """A model with adapters folded in, in memory: the weights that `merge` would write, and the tokenizer.

    Where an adapter says which base it belongs to, the base's weights are digested as they are read.

    Args:
      model: the base model's directory.
      adapters: adapter directories, in the order in which they were trained.
      dtype: of all weights; None keeps the base's.
      force: fold although fingerprints or order do not match.

    Raises:
      FileNotFoundError, ValueError: see `llama_hf.load`, `peft.load` and `check`.
    """
    model = Path(model)
    if not adapters:
        tokenizer = vocabulary.load(model, llama_hf.load_config(model))
        return Loaded(llama_hf.load(model, dtype=dtype), tokenizer)
    loaded = [peft.load(directory) for directory in adapters]
    checkpoint = llama_hf.load(model, digest=any(adapter.base_fingerprint for adapter in loaded))
    fingerprint = checkpoint.fingerprint
    notes = [note for adapter in loaded for note in adapter.notes]
    notes += check(checkpoint.config, loaded, fingerprint=fingerprint, base=model, force=force)
    stored = tree.flatten(checkpoint.params)
    params = checkpoint.params
    for adapter in loaded:
        params = peft.place_rows(checkpoint.config, params, adapter)
    leaves = tree.flatten(params)
    for path, leaf in leaves.items():
        target = llama_hf.parse_dtype(dtype) if dtype else stored[path].dtype
        factors = _factors(loaded, path.removesuffix("/kernel"))
        if factors:
            leaf_LIO = np.empty(leaf.shape, target)
            for layer, kernel_IO in enumerate(leaf):
                sum_IO = kernel_IO.astype(np.float32)
                for delta_IO in _deltas(factors, layer):
                    sum_IO += delta_IO
                leaf_LIO[layer] = llama_hf.cast(path, sum_IO, target)
            leaf = leaf_LIO
        leaves[path] = llama_hf.cast(path, leaf, target)
    checkpoint = checkpoint._replace(
        params=tree.unflatten(leaves),
        prompt=_prompt(checkpoint.prompt, loaded),
        history=_history(checkpoint.history, loaded, base=model, fingerprint=fingerprint),
        notes=checkpoint.notes + notes,
    )
    tokenizer = choose_tokenizer(model, loaded, checkpoint.config)
    llama_hf.check_tokenizer(checkpoint.config, tokenizer)
    return Loaded(checkpoint, tokenizer)


def check(
    config: config_lib.LlamaConfig, adapters: Sequence[peft.Adapter], *, fingerprint: str | None, base: str | Path, force: bool = False
) -> list[str]:
    """Holds adapters against their base and against each other.

    Args:
      config: the base's shape.
      adapters: in the order in which they are to be folded.
      fingerprint: the base's; None where no adapter asks for one.
      base: the base's directory, for messages.
      force: turn wrong fingerprints and orders into notes.

    Returns:
      Notes for the user.

    Raises:
      Mismatch: an adapter belongs to another base, or others must come before it.
      ValueError: an adapter does not fit the model's shape, also with `force`.
    """
    doubts: list[str] = []
    notes: list[str] = []
    contents = manifest.read(base, "model")
    smaller = manifest.grown_from(contents) if contents and contents["fingerprint"] == fingerprint else []
    for adapter in sorted(adapters, key=_size, reverse=True):  # the largest first: who grows the model to its vocabulary does it once
        peft.check_fits(adapter, config, base)
    for number, adapter in enumerate(adapters):
        grown = adapter.base_fingerprint in smaller
        before = [other.digest for other in adapters[:number]]
        if adapter.digest in before:
            doubts.append(f"{adapter.directory} is given twice")
        if not grown and not _same_tokenizer(base, adapter):
            (notes if adapter.tokenizer_sha256 is None else doubts).append(f"{adapter.directory} has another tokenizer than {base}")
        if doubt := _shrinks(adapter, adapters[:number]):
            doubts.append(doubt)
        if adapter.base_fingerprint is None:
            named = f"names {adapter.base} as its base, without a digest to hold it against"
            notes.append(f"{adapter.directory} {named if adapter.base else 'does not say which base it belongs to'}")
            notes += [
                f"{adapter.directory} has {len(some.ids):,} rows of {name}, the model {config.vocab_size:,}: the others stay the base's"
                for name, some in adapter.rows.items()
                if len(some.ids) < config.vocab_size
            ]
            continue
        if grown:
            notes.append(f"{adapter.directory} was trained before {base} grew to {config.vocab_size:,} rows: the new ones stay as they are")
        elif adapter.base_fingerprint != fingerprint:
            other, this = adapter.base_fingerprint[:12], str(fingerprint)[:12]
            doubts.append(f"{adapter.directory} was trained on another model ({other}) than {base} ({this})")
        if adapter.requires != before:
            doubts.append(_misplaced(adapter, adapters[:number], adapters))
    if doubts and not force:
        raise Mismatch(f"{'; '.join(doubts)}. Give the base and all adapters in the order of training")
    return notes + doubts


def choose_tokenizer(model: str | Path, adapters: Sequence[peft.Adapter], config: config_lib.LlamaConfig) -> processor.Tokenizer:
    """The last adapter's tokenizer, or the base's; those of adapters from before the base's vocabulary grew are too short.

    Raises:
      FileNotFoundError, ValueError: see `Tokenizer.load`.
    """
    fitting = [adapter.directory for adapter in reversed(adapters) if (_vocabulary(adapter) or config.vocab_size) >= config.vocab_size]
    directories = [directory for directory in fitting if (directory / tokenizer_hf.MODEL).is_file()]
    return processor.Tokenizer.load(directories[0]) if directories else vocabulary.load(model, config)


def _shrinks(adapter: peft.Adapter, before: Sequence[peft.Adapter]) -> str:
    """That an adapter of a smaller vocabulary comes after one of a larger, which was trained after it; "" for none.

    Of released adapters, which name neither base nor order, the vocabulary is what tells their order.
    """
    size = _size(adapter)
    largest, former = max(((_size(other), other) for other in before), key=lambda item: item[0], default=(0, adapter))
    if not 0 < size < largest:
        return ""
    return (
        f"{adapter.directory} is for a vocabulary of {size:,} and comes after {former.directory}, for one of {largest:,}"
        f"{names.vocabulary_hint(size, largest)}: vocabularies grow in training, so it comes before"
    )


def _vocabulary(adapter: peft.Adapter) -> int:
    """Rows of an adapter's base, as its manifest says or its whole matrices show; 0 where nothing tells."""
    whole = [len(some.ids) for some in adapter.rows.values() if some.ids[-1] + 1 == len(some.ids)]
    return adapter.vocab_size or max(whole, default=0)


def _size(adapter: peft.Adapter) -> int:
    """The size of an adapter's vocabulary, if need be as the tokenizer in its directory shows; 0 where nothing tells."""
    path = adapter.directory / tokenizer_hf.MODEL
    return _vocabulary(adapter) or (processor.Tokenizer.load(path).vocab_size if path.is_file() else 0)


def _same_tokenizer(base: str | Path, adapter: peft.Adapter) -> bool:
    """Whether base and adapter have the same `tokenizer.model`, as far as they have one."""
    digests = {files.sha256(path) for path in (Path(base) / tokenizer_hf.MODEL, adapter.directory / tokenizer_hf.MODEL) if path.is_file()}
    return len(digests) < 2


def _stream(
    reader: safetensors_io.Reader,
    config: config_lib.LlamaConfig,
    adapters: Sequence[peft.Adapter],
    *,
    dtype: np.dtype,
    fingerprint: str | None,
    where: Path,
) -> Iterator[tuple[str, np.ndarray]]:
    """The folded tensors, one at a time; fails at the end if what was read is not the base of that fingerprint."""
    for tensor in names.tensors(config):
        value = reader.read(tensor.name)
        path = tensor.path.removeprefix("params/").removesuffix("/kernel")
        if tensor.form == "kernel" and (factors := _factors(adapters, path)):
            value = value.astype(np.float32)
            for delta_IO in _deltas(factors, tensor.layer):
                value += names.transposed(delta_IO)
        value = llama_hf.cast(tensor.name, value, dtype)
        if tensor.form == "rows":
            value = _with_rows(value, path, adapters)
        yield tensor.name, value
    if fingerprint is not None and manifest.fingerprint_by_reading(reader) != fingerprint:
        raise ValueError(f"{where}: the weights are not those that {manifest.FILE} records; `zhllama verify` says which differ")


def _with_rows(value_VD: np.ndarray, matrix: str, adapters: Sequence[peft.Adapter]) -> np.ndarray:
    for adapter in adapters:
        if matrix in adapter.rows:
            some = adapter.rows[matrix]
            value_VD = value_VD if value_VD.flags.writeable else value_VD.copy()
            value_VD[some.ids] = llama_hf.cast(matrix, some.values_VD, value_VD.dtype)
    return value_VD


def _factors(adapters: Sequence[peft.Adapter], path: str) -> list[Mapping[str, np.ndarray]]:
    """The adapters' factors of one module, `layers/self_attn/q_proj`."""
    found: list[Mapping[str, np.ndarray]] = []
    for adapter in adapters:
        leaves = tree.flatten(adapter.lora)
        if f"{path}/a" in leaves:
            found.append({name: leaves[f"{path}/{name}"] for name in ("a", "b", "scale")})
    return found


def _deltas(factors: Sequence[Mapping[str, np.ndarray]], layer: int | None) -> Iterator[np.ndarray]:
    """The changes [I, O] that adapters make to one layer's kernel, float32, in order."""
    assert layer is not None, "kernels are stacked"
    for factor in factors:
        a_LIR, b_LRO, scale_L = (factor[name][layer : layer + 1] for name in ("a", "b", "scale"))
        yield np.asarray(lora_merge.delta(a_LIR, b_LRO, scale_L))[0]


def _prompt(base: manifest.Prompt | None, adapters: Sequence[peft.Adapter]) -> manifest.Prompt | None:
    """The last prompt that anybody was trained with."""
    return next((adapter.prompt for adapter in reversed(adapters) if adapter.prompt), base)


def _history(
    former: Sequence[Mapping[str, Any]], adapters: Sequence[peft.Adapter], *, base: Path, fingerprint: str | None
) -> list[dict[str, Any]]:
    steps = [dict(step) for step in former] + [dict(step) for adapter in adapters for step in adapter.history]
    folded = [{"name": hub.id_of(adapter.directory) or adapter.directory.name, "digest": adapter.digest} for adapter in adapters]
    return [*steps, {"step": "merge", "base": hub.id_of(base) or base.name, "base_fingerprint": fingerprint, "adapters": folded}]


def _stored_dtype(reader: safetensors_io.Reader, where: Path) -> str:
    found = {entry.dtype for name, entry in reader.entries.items() if not names.IGNORED.fullmatch(name)}
    if len(found) > 1:
        raise ValueError(
            f"{where}: the weights are stored as {', '.join(sorted(found))}: say how to store the result, --dtype bfloat16 for one"
        )
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[found.pop()]


def _went_on(adapter: peft.Adapter, former: peft.Adapter) -> bool:
    """Whether an adapter took the former one's place, by continue or extend: it stands on the same ones and has its history and more."""
    length = len(former.history)
    return adapter.requires == former.requires and 0 < length < len(adapter.history) and adapter.history[:length] == former.history


def _misplaced(adapter: peft.Adapter, before: Sequence[peft.Adapter], given: Sequence[peft.Adapter]) -> str:
    """That the adapters given before one are not those that it was trained on, and what to do; by directories as far as they are given."""
    places = {other.digest: str(other.directory) for other in given}
    wanted = [places.get(digest, f"an adapter that is not given ({digest[:12]})") for digest in adapter.requires]
    text = f"{adapter.directory} was trained on top of {' and '.join(wanted) or 'the base alone'}, not of"
    text += f" {' and '.join(str(other.directory) for other in before) or 'the base alone'}"
    surplus = [other for other in before if other.digest not in adapter.requires]
    contained = [str(other.directory) for other in surplus if _went_on(adapter, other)]
    if contained:
        text += f": leave out {' and '.join(contained)}, whose training it went on with and which it holds"
    return text
