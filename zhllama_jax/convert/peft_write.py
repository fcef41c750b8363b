"""An adapter directory as it is written: tensors under PEFT's names, its configuration, tokenizer, a page about it, and the manifest.

Where the tensors come from, from memory or from another file, is the affair of `peft`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files, tree
from zhllama_jax.convert import card, llama_hf, manifest, names, peft_config, peft_tensors, safetensors_io, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

_ONE_FILE = 1 << 62
_MAX_CONTEXT = 1 << 26


class Planned(NamedTuple):
    """A tensor to be written: its name, dtype as in `safetensors_io.DTYPES`, shape, and what makes it when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


class Around(NamedTuple):
    """What surrounds the tensors of an adapter.

    Attributes:
      settings: its `adapter_config.json`.
      facts: what its manifest says beside digests.
      tokenizer: the one that it was trained with, if it is known.
      context: the base's length in tokens.
      prompt: how instructions were put to it.
      base: the base's name for humans, if it is known.
      vocab_size: rows that the base must have, if it is known.
    """

    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    tokenizer: processor.Tokenizer | None
    context: int
    prompt: manifest.Prompt | None
    base: str | None
    vocab_size: int | None


def factors(config: config_lib.LlamaConfig, lora: Mapping[str, Any]) -> Iterator[Planned]:
    """The factors of a tree in our layout, layer by layer, float32."""
    leaves = tree.flatten(lora)
    for tensor in names.tensors(config):
        path = tensor.path.removeprefix("params/").removesuffix("/kernel")
        if tensor.layer is None or f"{path}/a" not in leaves:
            continue
        module = peft_tensors.PREFIX + tensor.name.removesuffix(".weight")
        for side in "AB":
            leaf = leaves[f"{path}/{side.lower()}"]
            yield Planned(f"{module}.lora_{side}.weight", "F32", leaf.shape[:0:-1], _transposed(leaf, tensor.layer))


def rows(found: Mapping[str, peft_tensors.Rows]) -> Iterator[Planned]:
    """Rows of the vocabulary, in their dtype."""
    for matrix, some in found.items():
        module = peft_tensors.PREFIX + names.matrix(matrix).removesuffix(".weight")
        name = f"{module}.weight" if some.whole else f"{module}.token_adapter.trainable_tokens_delta"
        yield Planned(name, some.dtype, (len(some.ids), some.width), some.read)


def write(
    directory: str | Path,
    planned: Sequence[Planned],
    around: Around,
    *,
    certify: Callable[[Path], Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes an adapter directory; with `certify` its certificate stands in it, or nothing is written.

    Returns:
      The manifest; its "fingerprint" is the adapter's digest.
    """
    plan = {each.name: (each.dtype, each.shape) for each in planned}
    tensors: Iterable[tuple[str, np.ndarray]] = ((each.name, each.make()) for each in planned)
    page = card.adapter(
        Path(directory).name,
        base=around.base,
        contents=_contents(planned, around.settings),
        loads_in_peft=any(".lora_" in each.name for each in planned),
        vocab_size=around.vocab_size,
        history=around.facts["history"],
        former=len(around.facts["requires"]),
        grows=around.tokenizer is not None,
        certain=around.facts["base"]["fingerprint"] is not None,
    )
    with files.new_directory(directory, ours=manifest.adapter_files, overwrite=overwrite) as folder:
        written = safetensors_io.write(folder, plan, tensors, stem="adapter_model", shard_bytes=_ONE_FILE)
        files.write_json(folder / peft_config.FILE, around.settings)
        if around.tokenizer is not None:
            tokenizer_hf.write(folder, around.tokenizer, max_length=around.context, prompt=around.prompt)
        files.atomic_write(folder / "README.md", page)
        if certify is not None:
            files.write_json(folder / llama_hf.CERTIFICATE, certify(folder))
        return manifest.write(folder, kind="adapter", written=written, facts=around.facts)


def context(directory: Path) -> int:
    """The length in tokens that the tokenizer of an adapter's directory names; LLaMA's where it names none."""
    path = directory / tokenizer_hf.CONFIG
    found = files.read_json(path, what="a tokenizer_config.json") if path.is_file() else {}
    length = found.get("model_max_length") if isinstance(found, dict) else None
    return length if type(length) is int and 0 < length <= _MAX_CONTEXT else config_lib.LlamaConfig.max_position_embeddings


def _transposed(leaf: Any, layer: int) -> Callable[[], np.ndarray]:
    return lambda: names.transposed(np.asarray(leaf[layer], np.float32))


def _contents(planned: Sequence[Planned], settings: Mapping[str, Any]) -> str:
    """A sentence about what an adapter holds."""
    targets = list(dict.fromkeys(each.name.split(".")[-3] for each in planned if ".lora_" in each.name))
    parts = [f"LoRA factors of rank {settings['r']} for {', '.join(targets)}"] if targets else []
    parts += [f"{each.shape[0]:,} rows of {_matrix(each.name)}" for each in planned if ".lora_" not in each.name]
    stored = dict(zip(llama_hf.DTYPES.values(), llama_hf.DTYPES, strict=True))
    return f"It holds {' and '.join(parts)}, in {' and '.join(dict.fromkeys(stored[each.dtype] for each in planned))}."


def _matrix(name: str) -> str:
    return next(matrix for matrix in config_lib.MATRICES if f".{matrix}." in name)
