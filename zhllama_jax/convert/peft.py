"""Adapter directories in PEFT's layout: LoRA factors, and rows of the vocabulary that were trained.

    adapter_model.safetensors        float32
      base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    [r, in]       our a, transposed
      base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    [out, r]      our b, transposed
      base_model.model.model.embed_tokens.weight                        [V, D]        all rows: modules_to_save
      base_model.model.lm_head.token_adapter.trainable_tokens_delta     [n, D]        some rows: trainable_token_indices

Despite its name the last one holds the rows themselves; PEFT puts them in the place of the base's. `adapter_config.json` holds what PEFT
knows; `zhllama.json` beside it says which base the adapter belongs to and what must be folded before it. Rows without any LoRA
factor are written the same way; PEFT cannot load that alone, and the directory's README says so.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import arrays, files, tree
from zhllama_jax.convert import card, manifest, names, peft_config, safetensors_io, tokenizer_hf
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_ALL_ROWS = re.compile(r"(?P<module>(?:model\.)?(?:embed_tokens|lm_head))(?:\.modules_to_save(?:\.default)?)?\.weight")
_SOME_ROWS = re.compile(r"(?P<module>(?:model\.)?(?:embed_tokens|lm_head))\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_ONE_FILE = 1 << 62


class Rows(NamedTuple):
    """Trained rows of one vocabulary matrix.

    Attributes:
      ids: [n] which rows, ascending.
      values_VD: [n, D] float32, the rows themselves.
    """

    ids: np.ndarray
    values_VD: np.ndarray


class Adapter(NamedTuple):
    """An adapter directory in memory.

    Attributes:
      lora: factors in our layout, `{"layers": {"self_attn": {"q_proj": {"a", "b", "scale"}}}}`, NumPy float32; {} for rows alone.
      rows: trained rows by matrix, "embed_tokens" and "lm_head"; {} without any.
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
      parts_tied: whole rows of the embedding alone, which part it from a head that was tied to it (PEFT without `ensure_weight_tying`).
    """

    lora: arrays.Tree
    rows: dict[str, Rows]
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
    parts_tied: bool


def save(
    directory: str | Path,
    *,
    config: config_lib.LlamaConfig,
    lora: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    lora_config: lora_config_lib.LoraConfig | None,
    base: str | Path,
    base_fingerprint: str,
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
      base_fingerprint: see `manifest.fingerprint`.
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
    factors = list(_factor_names(config, lora))
    scales = {path: np.asarray(leaf, np.float32).tolist() for path, leaf in tree.flatten(lora).items() if path.endswith("/scale")}
    ids = {name: some.ids for name, some in trained.items()}
    settings = peft_config.to_json(config, lora_config=lora_config, ranks=_ranks(lora), scales=scales, rows=ids, base=str(base))
    plan: dict[str, tuple[str, tuple[int, ...]]] = {name: ("F32", shape) for name, shape, _ in factors}
    plan |= {_rows_name(config, name, some): ("F32", some.values_VD.shape) for name, some in trained.items()}
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
    page = card.adapter(
        Path(directory).name,
        base=str(base),
        contents=_contents(lora_config, _targets(lora), trained),
        loads_in_peft=bool(lora),
        vocab_size=config.vocab_size,
        history=history,
        former=len(requires),
    )
    with files.new_directory(directory, ours=manifest.adapter_files, overwrite=overwrite) as folder:
        written = safetensors_io.write(folder, plan, _tensors(config, lora, factors, trained), stem="adapter_model", shard_bytes=_ONE_FILE)
        files.write_json(folder / CONFIG, settings)
        tokenizer_hf.write(folder, tokenizer, max_length=config.max_position_embeddings, prompt=prompt)
        files.atomic_write(folder / "README.md", page)
        return manifest.write(folder, kind="adapter", written=written, facts=facts)


def load(directory: str | Path) -> Adapter:
    """Reads an adapter directory, ours or PEFT's.

    Raises:
      FileNotFoundError: something is not there.
      ValueError: a setting that changes the numbers and is not supported, by name; tensors that do not belong there or are
        missing; weights that are not those of the manifest.
    """
    directory = Path(directory)
    files.expect_folder(directory, "an adapter directory")
    settings, notes = peft_config.read(directory / CONFIG)
    if not (directory / WEIGHTS).is_file():
        stale = "; adapter_model.bin is a PyTorch file: load and save the adapter once with PEFT"
        raise FileNotFoundError(f"{directory} has no {WEIGHTS}{stale if (directory / 'adapter_model.bin').is_file() else ''}")
    contents = manifest.read(directory, "adapter")
    with safetensors_io.Reader([directory / WEIGHTS]) as reader:
        manifest.hold(directory, "adapter", reader, beside=(tokenizer_hf.MODEL,), digest=True)
        lora, rows = _parse(reader, settings, where=str(directory))
    scales = {path: leaf.tolist() for path, leaf in tree.flatten(lora).items() if path.endswith("/scale")}
    digest = manifest.fingerprint_of(reader.described, {"scales": scales})
    if contents is not None and digest != contents["fingerprint"]:
        raise ValueError(f"{directory}: weights or scales are not those that {manifest.FILE} records; they were changed after training")
    facts = _facts(contents, directory)
    return Adapter(
        lora=lora,
        rows=rows,
        lora_config=settings.lora_config(_targets(lora)) if lora else None,
        digest=digest,
        base=settings.base,
        base_fingerprint=facts["base"].get("fingerprint"),
        requires=facts["requires"],
        vocab_size=facts["vocab_size"],
        tokenizer_sha256=facts["tokenizer_sha256"],
        prompt=manifest.prompt(contents),
        history=facts["history"],
        directory=directory,
        notes=notes,
        parts_tied="embed_tokens" in set(settings.saved) - settings.indices.keys() and not settings.tied,
    )


def _facts(contents: Mapping[str, Any] | None, directory: Path) -> dict[str, Any]:
    """What a manifest says about an adapter's surroundings; nothing where there is none."""
    if contents is None:
        return {"base": {}, "requires": [], "vocab_size": None, "tokenizer_sha256": None, "history": []}
    kinds: dict[str, type] = {"base": dict, "requires": list, "vocab_size": int, "tokenizer_sha256": str, "history": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(contents.get(key), kind)]
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
        elif some.values_VD.shape[1] != config.hidden_size:
            problems.append(f"its rows of {name} are {some.values_VD.shape[1]} wide, the model's {config.hidden_size}")
    if adapter.parts_tied and config.tie_word_embeddings:
        problems.append("it trained the rows of embed_tokens apart from the head, which the model ties to them")
    largest = max([*(int(some.ids[-1]) + 1 for some in adapter.rows.values()), adapter.vocab_size or 0])
    if largest > config.vocab_size:
        problems.append(
            f"it is for a vocabulary of {largest:,}, the model has {config.vocab_size:,} rows"
            f"{names.vocabulary_hint(largest, config.vocab_size)}: {tokenizer_hf.how_to_grow(adapter.directory, base)}"
        )
    if problems:
        raise ValueError(f"{adapter.directory} does not fit the model: {'; '.join(problems)}")


def place_rows(config: config_lib.LlamaConfig, params: Mapping[str, Any], adapter: Adapter) -> arrays.Tree:
    """The params with the adapter's rows in the place of the model's; blocks that change become float32 NumPy arrays."""
    check_fits(adapter, config)
    result = dict(params)
    for name, some in adapter.rows.items():
        result[name] = dict(params[name])
        for block in config.blocks:
            inside = block.holds(some.ids)
            if inside.any():
                block_VD = np.array(params[name][block.name], np.float32)
                block_VD[some.ids[inside] - block.first] = some.values_VD[inside]
                result[name][block.name] = block_VD
    return result


def _trained_rows(config: config_lib.LlamaConfig, blocks: Mapping[str, Any]) -> Rows:
    parts = []
    for block in config.blocks:
        if block.name in blocks:
            ids = np.arange(block.first, block.first + block.rows)
            parts.append((ids, np.asarray(blocks[block.name], np.float32)[: block.rows]))
    assert len(parts) == len(blocks), f"blocks {sorted(blocks)} of a model with {config.extension_rows} extension rows"
    return Rows(np.concatenate([ids for ids, _ in parts]), np.concatenate([values for _, values in parts]))


def _factor_names(config: config_lib.LlamaConfig, lora: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], tuple[str, int]]]:
    """(tensor's name, shape, (our path, layer)) of every factor, layer by layer."""
    leaves = tree.flatten(lora)
    for tensor in names.tensors(config):
        path = tensor.path.removeprefix("params/").removesuffix("/kernel")
        if tensor.layer is None or f"{path}/a" not in leaves:
            continue
        module = _PREFIX + tensor.name.removesuffix(".weight")
        for side, leaf in (("A", "a"), ("B", "b")):
            yield f"{module}.lora_{side}.weight", leaves[f"{path}/{leaf}"].shape[:0:-1], (f"{path}/{leaf}", tensor.layer)


def _rows_name(config: config_lib.LlamaConfig, matrix: str, some: Rows) -> str:
    module = _PREFIX + names.matrix(matrix).removesuffix(".weight")
    return f"{module}.weight" if len(some.ids) == config.vocab_size else f"{module}.token_adapter.trainable_tokens_delta"


def _tensors(
    config: config_lib.LlamaConfig, lora: Mapping[str, Any], factors: list[tuple[str, Any, tuple[str, int]]], trained: Mapping[str, Rows]
) -> Iterator[tuple[str, np.ndarray]]:
    leaves = tree.flatten(lora)
    for name, _, (path, layer) in factors:
        yield name, names.transposed(np.asarray(leaves[path][layer], np.float32))
    for matrix, some in trained.items():
        yield _rows_name(config, matrix, some), some.values_VD


def _ranks(lora: Mapping[str, Any]) -> dict[str, int]:
    return {path.removesuffix("/a"): leaf.shape[-1] for path, leaf in tree.flatten(lora).items() if path.endswith("/a")}


def _targets(lora: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path.split("/")[-2] for path in tree.flatten(lora) if path.endswith("/a")))


def _contents(lora_config: lora_config_lib.LoraConfig | None, targets: Sequence[str], trained: Mapping[str, Rows]) -> str:
    parts = [f"LoRA factors of rank {lora_config.rank} for {', '.join(targets)}"] if lora_config else []
    parts += [f"{len(some.ids):,} rows of {name}" for name, some in trained.items()]
    return f"It holds {' and '.join(parts)}, in float32."


def _parse(reader: safetensors_io.Reader, settings: peft_config.Settings, *, where: str) -> tuple[arrays.Tree, dict[str, Rows]]:
    """The tensors of an adapter in our layout, every one accounted for."""
    factors: dict[str, dict[tuple[int, str], str]] = {}
    rows: dict[str, Rows] = {}
    unknown = []
    for name in reader.entries:
        short = name.removeprefix(_PREFIX)
        if (match := _FACTOR.fullmatch(short)) and (found := names.find(f"{match['module']}.weight")) and found[2] == "kernel":
            path, layer, _ = found
            assert layer is not None, "kernels are stacked"
            factors.setdefault(path.removeprefix("params/").removesuffix("/kernel"), {})[layer, match["side"]] = name
        elif match := _ALL_ROWS.fullmatch(short):
            values_VD = _float32(reader, name)
            rows[match["module"].removeprefix("model.")] = Rows(np.arange(len(values_VD)), values_VD)
        elif match := _SOME_ROWS.fullmatch(short):
            matrix = match["module"].removeprefix("model.")
            rows[matrix] = _indexed(settings.indices.get(matrix), _float32(reader, name), f"{where}: {name}")
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{where}: {peft_config.not_known(unknown)}")
    if not factors and not rows:
        raise ValueError(f"{where}: the adapter is empty")
    _check_whole(factors, rows, settings, where)
    if (
        settings.tied
        and set(rows) == set(config_lib.MATRICES)
        and np.array_equal(rows["embed_tokens"].values_VD, rows["lm_head"].values_VD)
    ):
        del rows["lm_head"]
    leaves: dict[str, np.ndarray] = {}
    for path, found_names in factors.items():
        leaves.update(_stack(reader, settings, path, found_names, where))
    return tree.unflatten(leaves), rows


def _check_whole(factors: Mapping[str, Any], rows: Mapping[str, Rows], settings: peft_config.Settings, where: str) -> None:
    """Refuses a file that lacks what the configuration says was trained, or has more: the model would be another one.

    Raises:
      ValueError: with all that is missing, or too much.
    """
    missing = [f"rows of {name}" for name in settings.saved if name not in rows]
    if settings.tied and "embed_tokens" in rows and "rows of lm_head" in missing:
        missing.remove("rows of lm_head")  # a tied head may stand in the file once
    modules = [_module(path, layer) for path, found in factors.items() for layer, _ in found]
    missing += [
        f"factors of {name}" for name in settings.targets or () if not any(peft_config.is_named(module, name) for module in modules)
    ]
    if missing:
        raise ValueError(f"{where}: {CONFIG} names {', '.join(missing)}, but {WEIGHTS} has none: save the adapter again, whole")
    settings.require_named(modules, where=where)


def _module(path: str, layer: int) -> str:
    """PEFT's name of a module, `model.layers.0.self_attn.q_proj`."""
    return path.replace("layers/", f"model.layers.{layer}.").replace("/", ".")


def _stack(
    reader: safetensors_io.Reader, settings: peft_config.Settings, path: str, found: Mapping[tuple[int, str], str], where: str
) -> dict[str, np.ndarray]:
    """a [L, I, R], b [L, R, O] and scale [L] of one module in all layers; smaller ranks are filled with zeros, which stay zeros."""
    layers = range(1 + max(layer for layer, _ in found))
    missing = [f"layer {layer} lora_{side}" for layer in layers for side in "AB" if (layer, side) not in found]
    if missing:
        raise ValueError(f"{where}: {path} lacks {names.listed(missing)}; an adapter has factors in all layers, or is not supported")
    pairs = [(_float32(reader, found[layer, "A"]), _float32(reader, found[layer, "B"])) for layer in layers]
    scale_L = np.empty(len(layers), np.float32)
    for layer, (a_RI, b_OR) in enumerate(pairs):
        module = _module(path, layer)
        rank, scale_L[layer] = settings.rank_and_scale(module)
        if a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != rank or b_OR.shape[1] != rank:
            raise ValueError(f"{where}: {module} has factors {list(a_RI.shape)} and {list(b_OR.shape)}, {CONFIG} says rank {rank}")
    if len({(a_RI.shape[1], b_OR.shape[0]) for a_RI, b_OR in pairs}) > 1:
        raise ValueError(f"{where}: the factors of {path} differ in shape between layers")
    rank = max(a_RI.shape[0] for a_RI, _ in pairs)
    a_LIR = np.stack([np.pad(a_RI.T, ((0, 0), (0, rank - a_RI.shape[0]))) for a_RI, _ in pairs])
    b_LRO = np.stack([np.pad(b_OR.T, ((0, rank - b_OR.shape[1]), (0, 0))) for _, b_OR in pairs])
    return {f"{path}/a": a_LIR, f"{path}/b": b_LRO, f"{path}/scale": scale_L}


def _indexed(ids: Sequence[int] | None, values_VD: np.ndarray, where: str) -> Rows:
    if ids is None or len(ids) != len(values_VD):
        raise ValueError(f"{where} has {len(values_VD):,} rows, trainable_token_indices names {0 if ids is None else len(ids):,}")
    order = np.argsort(ids, kind="stable")
    sorted_ids = np.asarray(ids)[order]
    if (np.diff(sorted_ids) == 0).any():
        raise ValueError(f"{where}: trainable_token_indices names a row twice")
    return Rows(sorted_ids, values_VD[order])


def _float32(reader: safetensors_io.Reader, name: str) -> np.ndarray:
    value = reader.read(name).astype(np.float32, copy=False)
    if value.ndim != 2:
        raise ValueError(f"{reader.file(name)}: {name} must be a matrix, got shape {list(value.shape)}")
    return value
