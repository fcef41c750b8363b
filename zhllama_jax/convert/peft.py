"""Adapter directories in PEFT's layout: LoRA factors, and rows of the vocabulary that were trained.

    adapter_model.safetensors        float32
      base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    [r, in]       our a, transposed
      base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    [out, r]      our b, transposed
      base_model.model.model.embed_tokens.weight                        [V, D]        all rows: modules_to_save
      base_model.model.lm_head.token_adapter.trainable_tokens_delta     [n, D]        some rows: trainable_token_indices

Despite its name the last one holds the rows themselves; PEFT puts them in the place of the base's. `adapter_config.json` holds what PEFT
knows; `zhllama.json` beside it says which base the adapter belongs to and what must be folded before it. Rows without any LoRA
factor are written the same way; PEFT cannot load that alone, and the directory's README says so. That is what is written; `peft_tensors`
says in which other layouts adapters are read, and `rewrite` brings them into this one.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import arrays, files, tree
from zhllama_jax.convert import llama_hf, manifest, names, peft_config, peft_tensors, peft_write, source, tokenizer_hf
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

WEIGHTS = peft_tensors.WEIGHTS
CONFIG = peft_config.FILE


class Adapter(NamedTuple):
    """An adapter directory in memory.

    Attributes:
      lora: factors in our layout, `{"layers": {"self_attn": {"q_proj": {"a", "b", "scale"}}}}`, NumPy float32; {} for rows alone.
      rows: trained rows by matrix, "embed_tokens" and "lm_head", read from the file when they are asked for; {} without any.
      lora_config: rank, alpha, dropout and targets of the factors; None for rows alone.
      digest: identifies the adapter: a digest of its tensors and scales.
      base: the name or directory of the model that it was trained on, "" where nobody said.
      base_fingerprint: of that model; None where nobody said.
      requires: digests of the adapters that must be folded before it, in order.
      vocab_size: rows that its base has; None where nobody said.
      tokenizer_sha256: of the tokenizer that it was trained with; None where nobody said.
      prompt: how instructions were put to it; None for a stage without instructions.
      history: the steps that made it.
      directory: where it was read.
      notes: what is odd and harmless, as sentences.
      settings: its configuration.
      modules: PEFT's names of the kernels that have factors, where the others of their kind may have none (see `fitted`); None where all
        have.
    """

    lora: arrays.Tree
    rows: dict[str, peft_tensors.Rows]
    lora_config: lora_config_lib.LoraConfig | None
    digest: str
    base: str
    base_fingerprint: str | None
    requires: list[str]
    vocab_size: int | None
    tokenizer_sha256: str | None
    prompt: manifest.Prompt | None
    history: list[dict[str, Any]]
    directory: Path
    notes: list[str]
    settings: peft_config.Settings
    modules: tuple[str, ...] | None = None

    @property
    def parts_tied(self) -> bool:
        """Whole rows of the embedding alone, which part it from a head that was tied to it (PEFT without `ensure_weight_tying`)."""
        return "embed_tokens" in self.settings.saved_whole and not self.settings.tied


def save(
    directory: str | Path,
    *,
    config: config_lib.LlamaConfig,
    lora: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    lora_config: lora_config_lib.LoraConfig | None,
    base: str | Path,
    base_fingerprint: str | None,
    requires: Sequence[str] = (),
    tokenizer: processor.Tokenizer,
    prompt: manifest.Prompt | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes an adapter directory.

    Args:
      directory: does not exist yet, unless `overwrite`.
      config: the base model's shape.
      lora: factors in our layout, {} for none.
      rows: trained blocks by matrix, as in `params`: `{"lm_head": {"extension": [V1p, D]}}`; both blocks for all rows; {} for none.
      lora_config: of the factors; None for none. Where a scale differs from its (an `extend`ed adapter), the patterns say so.
      base: the base model's directory or name, for humans.
      base_fingerprint: of the base's weights; None if nobody knows.
      requires: digests of the adapters that must be folded before this one, in order.
      tokenizer: the one that it was trained with.
      prompt: how instructions were put to it.
      history: the steps that made it, JSON objects.
      overwrite: replace an existing directory of ours.

    Returns:
      The manifest; its "fingerprint" is the adapter's digest.

    Raises:
      ValueError: the directory exists, or there is nothing to write.
    """
    trained = {name: _trained_rows(config, blocks) for name, blocks in rows.items() if blocks}
    if config.tie_word_embeddings and "embed_tokens" in trained and len(trained["embed_tokens"].ids) == config.vocab_size:
        trained["lm_head"] = trained["embed_tokens"]  # PEFT cuts the tie when it saves whole matrices, so it needs both
    if not lora and not trained:
        raise ValueError("an adapter without LoRA factors and without rows: nothing was trained")
    ids = {name: some.ids for name, some in trained.items()}
    scales = _scales(lora)
    facts = {
        "scales": scales,
        "base": {"name": str(base), "fingerprint": base_fingerprint},
        "requires": list(requires),
        "vocab_size": config.vocab_size,
        "base_vocab_size": config.base_rows,
        "tokenizer_sha256": tokenizer.sha256,
        "prompt": prompt._asdict() if prompt else None,
        "history": list(history),
    }
    around = peft_write.Around(
        settings=peft_config.to_json(config, lora_config=lora_config, ranks=_ranks(lora), scales=scales, rows=ids, base=str(base)),
        facts=facts,
        tokenizer=tokenizer,
        context=config.context,
        prompt=prompt,
        base=str(base),
        vocab_size=config.vocab_size,
    )
    planned = [*peft_write.factors(config, lora), *peft_write.rows(trained)]
    return peft_write.write(directory, planned, around, overwrite=overwrite)


def load(directory: str | Path, *, allow_unknown: bool = False) -> Adapter:
    """Reads an adapter directory, ours or PEFT's; see `peft_tensors` for its layouts.

    Args:
      directory: the folder.
      allow_unknown: pass over keys of its configuration that nobody knows.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: a setting that changes the numbers and is not supported, by name; tensors that do not belong there or are
        missing; weights that are not those of the manifest.
    """
    directory = Path(directory)
    files.expect_folder(directory, "an adapter directory")
    if (directory / llama_hf.CONFIG).is_file() and not (directory / CONFIG).is_file():
        raise ValueError(f"{directory} is a model, not an adapter: an adapter's folder has an {CONFIG}")
    settings, notes = peft_config.read(directory / CONFIG, allow_unknown=allow_unknown)
    path = peft_tensors.find(directory)
    contents = manifest.read(directory, "adapter")
    with manifest.hold(directory, "adapter", peft_tensors.open_file(path), beside=(tokenizer_hf.MODEL,), digest=True) as reader:
        found = peft_tensors.parse(reader, settings, path=path)
    digest = manifest.fingerprint_of(reader.described, {"scales": _scales(found.lora)})
    if contents is not None and digest != contents["fingerprint"]:
        raise ValueError(f"{directory}: weights or scales are not those that {manifest.FILE} records; they were changed after training")
    facts = _facts(contents, directory)
    return Adapter(
        lora=found.lora,
        rows=found.rows,
        lora_config=settings.lora_config(_targets(found.lora)) if found.lora else None,
        digest=digest,
        base=settings.base or "",
        base_fingerprint=facts["base"].get("fingerprint"),
        requires=facts["requires"],
        vocab_size=facts["vocab_size"],
        tokenizer_sha256=facts["tokenizer_sha256"],
        prompt=manifest.prompt(contents),
        history=facts["history"],
        directory=directory,
        notes=notes + reader.notes,
        settings=settings,
        modules=found.modules,
    )


def rewrite(
    directory: str | Path, output: str | Path, *, overwrite: bool = False, allow_unknown: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Writes an adapter of any layout in ours, number for number and in the dtypes in which it is stored, and certifies it.

    What a manifest knows of base, order, prompt and history goes along, and so does the tokenizer.

    Args:
      directory: the adapter.
      output: directory to write.
      overwrite: replace an existing directory of ours.
      allow_unknown: see `load`; what is written no longer has those keys.

    Returns:
      The manifest, and notes for the user.

    Raises:
      FileNotFoundError, ValueError: see `load`, or the output may not be written.
    """
    directory = Path(directory)
    files.free_directory(output, ours=manifest.adapter_files, overwrite=overwrite, inputs=[directory])
    adapter = load(directory, allow_unknown=allow_unknown)
    trained, whole = dict(adapter.rows), adapter.settings.saved_whole
    if adapter.settings.tied and "embed_tokens" in whole:
        whole, trained = config_lib.MATRICES, {matrix: trained["embed_tokens"] for matrix in config_lib.MATRICES}
    settings = peft_config.again(
        adapter.settings,
        targets=adapter.modules or _targets(adapter.lora),
        whole=whole,
        some={matrix: some.ids.tolist() for matrix, some in trained.items() if not some.whole},
    )
    tokenizer = processor.Tokenizer.load(directory / tokenizer_hf.MODEL) if (directory / tokenizer_hf.MODEL).is_file() else None
    path = peft_tensors.find(directory)
    facts = {
        "scales": _scales(adapter.lora),
        "base": {"name": adapter.settings.base, "fingerprint": adapter.base_fingerprint},
        "requires": adapter.requires,
        "vocab_size": adapter.vocab_size,
        "base_vocab_size": (manifest.read(directory, "adapter") or {}).get("base_vocab_size"),
        "tokenizer_sha256": adapter.tokenizer_sha256,
        "prompt": adapter.prompt._asdict() if adapter.prompt else None,
        "history": [*adapter.history, {"step": "convert", "from": path.name, "to": WEIGHTS}],
    }
    around = peft_write.Around(
        settings=settings,
        facts=facts,
        tokenizer=tokenizer,
        context=peft_write.context(directory),
        prompt=adapter.prompt,
        base=adapter.settings.base,
        vocab_size=adapter.vocab_size or max((len(some.ids) for some in trained.values() if some.whole), default=None),
    )
    with peft_tensors.open_file(path) as reader:
        planned = [
            peft_write.Planned(name, reader.entries[former].dtype, reader.entries[former].shape, functools.partial(reader.read, former))
            for name, former in peft_tensors.canonical(reader.entries, str(directory)).items()
        ]
        planned += peft_write.rows(trained)
        written = peft_write.write(output, planned, around, certify=lambda folder: _certificate(adapter, folder), overwrite=overwrite)
    return written, adapter.notes


def _facts(contents: Mapping[str, Any] | None, directory: Path) -> dict[str, Any]:
    """What a manifest says about an adapter's surroundings; nothing where there is none."""
    if contents is None:
        return {"base": {}, "requires": [], "vocab_size": None, "tokenizer_sha256": None, "history": []}
    kinds: dict[str, tuple[type, ...]] = {
        "base": (dict,),
        "requires": (list,),
        "vocab_size": (int, type(None)),
        "tokenizer_sha256": (str, type(None)),
        "history": (list,),
    }
    wrong = [key for key, kind in kinds.items() if key not in contents or not isinstance(contents[key], kind)]
    if wrong:
        raise ValueError(f"{directory / manifest.FILE} is damaged: {', '.join(wrong)} missing or malformed")
    return {key: contents[key] for key in kinds}


def check_fits(adapter: Adapter, config: config_lib.LlamaConfig, base: str | Path | None = None) -> None:
    """Refuses an adapter that does not fit a model's shape; `base`, its directory, tells how it may grow.

    Raises:
      ValueError: with everything that does not fit.
    """
    params = llama.abstract(config)
    problems = adapters.problems(params, adapter.lora)
    for name, some in adapter.rows.items():
        if name not in params:
            problems.append(f"it holds rows of {name}, which the model ties to embed_tokens")
        elif some.width != config.hidden_size:
            problems.append(f"its rows of {name} are {some.width} wide, the model's {config.hidden_size}")
    if adapter.parts_tied and config.tie_word_embeddings:
        problems.append(
            "it trained the rows of embed_tokens apart from the head, which the model ties to them: merge it in PEFT (merge_and_unload) "
            "and convert the result"
        )
    whole = {name: len(some.ids) for name, some in adapter.rows.items() if some.whole}
    if len(set(whole.values())) > 1:
        problems.append(
            f"its matrices are of two vocabularies: {' and '.join(f'{name} has {size:,} rows' for name, size in whole.items())}"
        )
    largest = max([*(int(some.ids[-1]) + 1 for some in adapter.rows.values()), adapter.vocab_size or 0])
    if largest > config.vocab_size:
        own = source.load_tokenizer(base) if base else None
        problems.append(
            f"it is for a vocabulary of {largest:,}, the model has {config.vocab_size:,} rows"
            f"{names.vocabulary_hint(largest, config.vocab_size)}: {tokenizer_hf.how_to_grow(adapter.directory, base, own)}"
        )
    if problems:
        raise ValueError(f"{adapter.directory} does not fit the model: {'; '.join(problems)}")


def place_rows(config: config_lib.LlamaConfig, params: Mapping[str, Any], adapter: Adapter) -> arrays.Tree:
    """The params with the adapter's rows in the place of the model's; blocks that change become float32 NumPy arrays."""
    check_fits(adapter, config)
    result = dict(params)
    for name, some in adapter.rows.items():
        result[name], values_VD = dict(params[name]), some.values_VD
        for block in config.blocks:
            inside = block.holds(some.ids)
            if inside.any():
                block_VD = np.array(params[name][block.name], np.float32)
                block_VD[some.ids[inside] - block.first] = values_VD[inside]
                result[name][block.name] = block_VD
    return result


def fitted(adapter: Adapter, config: config_lib.LlamaConfig) -> Adapter:
    """An adapter of some layers only with zeros in those layers of a model that it leaves alone; any other as it is."""
    if adapter.modules is None:
        return adapter
    leaves = tree.flatten(adapter.lora)
    for path, leaf in leaves.items():
        more = [(0, max(0, config.num_hidden_layers - len(leaf))), *[(0, 0)] * (leaf.ndim - 1)]
        leaves[path] = np.pad(leaf, more, "edge" if path.endswith("/scale") else "constant")
    return adapter._replace(lora=tree.unflatten(leaves))


def _trained_rows(config: config_lib.LlamaConfig, blocks: Mapping[str, Any]) -> peft_tensors.Rows:
    """Rows in memory, of one block or of both."""
    present = [block for block in config.blocks if block.name in blocks]
    assert len(present) == len(blocks), f"blocks {sorted(blocks)} of a model with {config.extension_rows} extension rows"
    ids = np.concatenate([np.arange(block.first, block.first + block.rows) for block in present])

    def read() -> np.ndarray:
        return np.concatenate([np.asarray(blocks[block.name], np.float32)[: block.rows] for block in present])

    return peft_tensors.Rows(ids, config.hidden_size, len(ids) == config.vocab_size, "F32", read)


def _certificate(adapter: Adapter, folder: Path) -> dict[str, Any]:
    """Holds what was written against the adapter that was read.

    Raises:
      ValueError: with what differs.
    """
    written = load(folder)
    meant, found = tree.flatten(adapter.lora), tree.flatten(written.lora)
    same = {path: path in found and np.array_equal(leaf, found[path]) for path, leaf in meant.items()}
    same |= {name: name in written.rows and _same_rows(some, written.rows[name]) for name, some in adapter.rows.items()}
    other = [name for name, equal in same.items() if not equal] + [name for name in found if name not in meant]
    if other or adapter.rows.keys() != written.rows.keys():
        raise ValueError(f"{names.listed(other or sorted(written.rows))} was written with other numbers than were meant: nothing was kept")
    return {"input": adapter.directory.name, "output": "peft", "digest": adapter.digest, "compared": len(same), "equal": len(same)}


def _same_rows(left: peft_tensors.Rows, right: peft_tensors.Rows) -> bool:
    return np.array_equal(left.ids, right.ids) and np.array_equal(left.values_VD, right.values_VD)


def _ranks(lora: Mapping[str, Any]) -> dict[str, int]:
    return {path.removesuffix("/a"): leaf.shape[-1] for path, leaf in tree.flatten(lora).items() if path.endswith("/a")}


def _scales(lora: Mapping[str, Any]) -> dict[str, list[float]]:
    """The scale of each module in each layer, which the digest knows too."""
    return {path: np.asarray(leaf, np.float32).tolist() for path, leaf in tree.flatten(lora).items() if path.endswith("/scale")}


def _targets(lora: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path.split("/")[-2] for path in tree.flatten(lora) if path.endswith("/a")))
