"""PEFT's `adapter_config.json` in and out.

As for a model's configuration, every key is used, known to leave the numbers alone, or held to the values under which it does; or nobody
knows it, and then the file is refused unless the caller allows unknown keys. PEFT writes all of its settings, those of later versions too:
an unknown one that is off (null, false, empty) says nothing and passes. What we write are PEFT's own keys only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import files
from zhllama_jax.convert import config_hf, names
from zhllama_jax.lora import config as lora_config_lib
from zhllama_jax.model import config as config_lib

FILE = "adapter_config.json"
MAX_BYTES = 16 << 20  # trainable_token_indices lists every row
_MAX_RANK = 8_192

# Keys that would change the numbers, with the values under which they do not.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "layers_pattern": (None, [], "", "layers", ["layers"]),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "enable_lora": (None,),
    # Other starts (pissa, olora, corda, loftq …) change the base's weights, so the factors do not belong to the base as it is.
    "init_lora_weights": (None, True, False, "gaussian", "eva"),
}
# fmt: off
_NEUTRAL = frozenset((
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "loftq_config", "lora_ga_config", "megatron_config", "megatron_core", "merge_weights", "modules_to_save", "peft_version",
    "pretraining_tp", "qalora_group_size", "revision", "runtime_config", "target_modules",
))
# fmt: on
_USED = ("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "trainable_token_indices", "layers_to_transform")
_MAX_ROWS = 4_000_000
_PINNED = re.compile(r"(.+)@([0-9a-f]{40})")
_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_]+(\\?\.[A-Za-z0-9_]+)*\$?")


class Settings(NamedTuple):
    """What of an adapter's configuration decides numbers.

    Attributes:
      rank, alpha, dropout, rslora: of the factors.
      rank_pattern, alpha_pattern: exceptions, by the end of a module's name, or by all of it with "^" in front.
      indices: rows by matrix ("embed_tokens", "lm_head") where not all were trained.
      tied: the head's rows are the embedding's, and stand in the file twice.
      saved: matrices whose rows must stand in the file, all or those of `indices`.
      targets: ends of the names of all modules that have factors; None where a pattern tells.
      layers: in these layers; () for whichever the names say.
      every_layer: kernels of a kind have factors in all layers, or in none.
      base: the base's directory or name; `owner/name@commit` for one of the hub; None where nobody said.
    """

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    indices: dict[str, list[int]]
    tied: bool
    saved: tuple[str, ...]
    targets: tuple[str, ...] | None
    layers: tuple[int, ...]
    every_layer: bool
    base: str | None

    @property
    def saved_whole(self) -> tuple[str, ...]:
        """Matrices that were trained whole. Others may stand in the file all the same, in the place of the base's: a resized vocabulary."""
        return tuple(name for name in self.saved if name not in self.indices)

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """(rank, scale) of one module, `model.layers.0.self_attn.q_proj`."""
        rank = _lookup(self.rank_pattern, module, self.rank)
        alpha = _lookup(self.alpha_pattern, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)

    def require_named(self, modules: Sequence[str], *, where: str) -> None:
        """Refuses factors of modules that are not targets, or in layers that are not: PEFT would pass over them.

        Raises:
          ValueError: with all of them.
        """
        ends = self.targets
        strange = {
            "target_modules": [] if ends is None else [module for module in modules if not any(is_named(module, end) for end in ends)],
            "layers_to_transform": [module for module in modules if self.layers and int(module.split(".")[2]) not in self.layers],
        }
        for key, unnamed in strange.items():
            if unnamed:
                raise ValueError(
                    f"{where} has factors of {names.listed(sorted(set(unnamed)))}, which {key} does not name: PEFT passes over them, so "
                    "name them there if they belong to the adapter, or save it again without them"
                )

    def lora_config(self, targets: tuple[str, ...]) -> lora_config_lib.LoraConfig:
        """The configuration of a new adapter like this one, exceptions left out."""
        return lora_config_lib.LoraConfig(self.rank, self.alpha, self.dropout, targets, self.rslora)


def read(path: str | Path, *, allow_unknown: bool = False) -> tuple[Settings, list[str]]:
    """The settings in an `adapter_config.json`, and notes about unknown keys.

    Args:
      path: the file.
      allow_unknown: pass over keys that nobody knows, with a note.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a key that changes the numbers and is not supported, one that is unknown, or a malformed value; all of them are listed.
    """
    raw = files.read_json(path, what="an adapter_config.json", max_bytes=MAX_BYTES)
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is not an adapter_config.json: it holds no object")
    problems = [
        f"{key} = {_brief(raw.get(key))} changes the numbers and is not supported (allowed: {', '.join(map(repr, allowed))})"
        for key, allowed in _ONLY.items()
        if (key in raw or key == "peft_type") and not any(type(raw.get(key)) is type(value) and raw[key] == value for value in allowed)
    ]
    rank, alpha = raw.get("r", 8), raw.get("lora_alpha", 8)
    dropout, rslora = raw.get("lora_dropout") or 0.0, raw.get("use_rslora") or False
    if not _is_rank(rank):
        problems.append(f"r must be a whole number from 1 to {_MAX_RANK}, got {_brief(rank)}")
    if not _is_real(alpha):
        problems.append(f"lora_alpha must be a number above 0, got {_brief(alpha)}")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        problems.append(f"lora_dropout must lie in [0, 1), got {_brief(dropout)}")
    if type(rslora) is not bool:
        problems.append(f"use_rslora must be true or false, got {_brief(rslora)}")
    ranks = _pattern(raw, "rank_pattern", _is_rank, problems)
    alphas = _pattern(raw, "alpha_pattern", _is_real, problems)
    indices = _indices(raw, problems)
    layers = _layers(raw, problems)
    saved = tuple(dict.fromkeys([*_matrices(raw.get("modules_to_save")), *indices]))
    unknown = [key[:40] for key in sorted(raw.keys() - _ONLY.keys() - _NEUTRAL - set(_USED)) if not _is_off(raw[key])]
    if unknown and not allow_unknown:
        problems.append(
            f"{_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown and may change the numbers; if you know that nothing does, "
            "write the adapter anew without it: `zhllama convert --to peft --allow_unknown_keys`"
        )
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    notes = [f"{path}: unknown keys are passed over, and not written again: {_listed(unknown)}"] if unknown else []
    settings = Settings(
        rank=rank,
        alpha=float(alpha),
        dropout=float(dropout),
        rslora=rslora,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        indices=indices,
        tied=raw.get("ensure_weight_tying") is True,
        saved=saved,
        targets=_targets(raw),
        layers=layers,
        every_layer=not layers and _names_kinds(raw),
        base=_base(raw),
    )
    return settings, notes


def to_json(
    config: config_lib.LlamaConfig,
    *,
    lora_config: lora_config_lib.LoraConfig | None,
    ranks: Mapping[str, int],
    scales: Mapping[str, Sequence[float]],
    rows: Mapping[str, np.ndarray],
    base: str,
) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter.

    Args:
      config: the base model's shape.
      lora_config: of the factors, None for none.
      ranks: rank by path of the module, `layers/self_attn/q_proj`.
      scales: scale in each layer, by path with `/scale`.
      rows: ids of the trained rows by matrix.
      base: the base's directory or name; `owner/name@commit` for one of the hub.
    """
    shape = lora_config or lora_config_lib.LoraConfig(rank=8, alpha=8.0, dropout=0.0)
    all_rows = [name for name, ids in rows.items() if len(ids) == config.vocab_size]
    some_rows = {name: ids.tolist() for name, ids in rows.items() if len(ids) < config.vocab_size}
    contents = _written(
        base,
        rank=shape.rank,
        alpha=shape.alpha,
        dropout=shape.dropout,
        rslora=shape.rslora,
        targets=[path.rsplit("/", 1)[-1] for path in ranks],
        whole=all_rows,
        some=some_rows,
        tied=config.tie_word_embeddings and bool(all_rows),
    )
    rank_pattern = {path.rsplit("/", 1)[-1]: rank for path, rank in ranks.items() if rank != shape.rank}
    alpha_pattern: dict[str, float] = {}
    for path, rank in ranks.items():
        root = math.sqrt(rank) if shape.rslora else rank
        expected = np.float32(shape.alpha / root)
        found = [np.float32(scale) for scale in scales[f"{path}/scale"]]
        module = path.rsplit("/", 1)[-1]
        if len(set(found)) == 1 and found[0] != expected:
            alpha_pattern[module] = _tidy(float(found[0]) * root)
        elif len(set(found)) > 1:
            where = path.removeprefix("layers/").replace("/", ".")
            alpha_pattern |= {f"layers.{layer}.{where}": _tidy(float(scale) * root) for layer, scale in enumerate(found)}
    contents |= {"rank_pattern": rank_pattern} if rank_pattern else {}
    contents |= {"alpha_pattern": alpha_pattern} if alpha_pattern else {}
    return contents


def again(settings: Settings, *, targets: Sequence[str], whole: Sequence[str], some: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter as it was read, in the keys of today.

    Args:
      settings: what was read.
      targets: the modules that have factors, by ends of their names.
      whole: matrices that were trained whole.
      some: ids of the rows, in their order, by other matrix of which some rows are there.
    """
    contents = _written(
        settings.base,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        rslora=settings.rslora,
        targets=targets,
        whole=whole,
        some=some,
        tied=settings.tied,
    )
    contents |= {"rank_pattern": settings.rank_pattern} if settings.rank_pattern else {}
    contents |= {"alpha_pattern": {name: _tidy(alpha) for name, alpha in settings.alpha_pattern.items()}} if settings.alpha_pattern else {}
    return contents


def _written(
    base: str | None,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    rslora: bool,
    targets: Sequence[str],
    whole: Sequence[str],
    some: Mapping[str, Sequence[int]],
    tied: bool,
) -> dict[str, Any]:
    """The keys of a configuration without exceptions."""
    pinned = _PINNED.fullmatch(base or "")
    name, commit = pinned.groups() if pinned else (base, None)
    contents: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": rank,
        "lora_alpha": _tidy(alpha),
        "lora_dropout": dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(targets),
        "modules_to_save": list(whole) or None,
    }
    contents |= {"use_rslora": True} if rslora else {}
    contents |= {"ensure_weight_tying": True} if tied else {}
    contents |= {"trainable_token_indices": dict(some)} if some else {}
    contents |= {"revision": commit} if commit else {}
    return contents


def _pattern(raw: Mapping[str, Any], key: str, is_valid: Any, problems: list[str]) -> dict[str, Any]:
    """A table of exceptions whose keys are plain ends of module names; regular expressions from a file are not run."""
    table = raw.get(key) or {}
    if not isinstance(table, dict) or not all(_PLAIN_PATTERN.fullmatch(name) and is_valid(value) for name, value in table.items()):
        problems.append(f"{key} must map ends of module names to numbers above 0, got {_brief(table)}")
        return {}
    return {name.removesuffix("$").replace("\\", ""): value for name, value in table.items()}


def _indices(raw: Mapping[str, Any], problems: list[str]) -> dict[str, list[int]]:
    value = raw.get("trainable_token_indices")
    table = {"embed_tokens": value} if isinstance(value, list) else value or {}
    known = isinstance(table, dict) and all(name.removeprefix("model.") in config_lib.MATRICES for name in table)
    if not known or not all(
        isinstance(ids, list) and ids and all(type(id_) is int and 0 <= id_ < _MAX_ROWS for id_ in ids) for ids in table.values()
    ):
        problems.append(f"trainable_token_indices must list rows of {' or '.join(config_lib.MATRICES)}, got {_brief(value)}")
        return {}
    return {name.removeprefix("model."): ids for name, ids in table.items()}


def _matrices(value: Any) -> list[str]:
    """The matrices of the vocabulary among the modules that are named, `model.embed_tokens` and the like."""
    ends = [name.rpartition(".")[2] for name in value if isinstance(name, str)] if isinstance(value, list) else []
    return [end for end in ends if end in config_lib.MATRICES]


def _targets(raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The plain names of a LLaMA's modules among `target_modules`; patterns, and what `exclude_modules` may take back, promise nothing."""
    value = raw.get("target_modules")
    if not isinstance(value, list) or raw.get("exclude_modules"):
        return None
    known = {*lora_config_lib.ATTENTION, *lora_config_lib.MLP, *config_lib.MATRICES}
    return tuple(name for name in value if isinstance(name, str) and name.rpartition(".")[2] in known)


def _names_kinds(raw: Mapping[str, Any]) -> bool:
    """Whether `target_modules` names kinds of kernels, and none of some layers only; patterns may do either."""
    value = raw.get("target_modules")
    if raw.get("exclude_modules"):
        return False
    return value in (None, "all-linear") or (isinstance(value, list) and not any(re.search(r"\d", str(name)) for name in value))


def _layers(raw: Mapping[str, Any], problems: list[str]) -> tuple[int, ...]:
    """`layers_to_transform`: one layer, several, or () for all."""
    value = raw.get("layers_to_transform")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(layer) is int and 0 <= layer < config_hf.MAX_LAYERS for layer in listed):
        problems.append(f"layers_to_transform must list layers, whole numbers below {config_hf.MAX_LAYERS:,}, got {_brief(value)}")
        return ()
    return tuple(dict.fromkeys(listed))


def _base(raw: Mapping[str, Any]) -> str | None:
    """The base's name, with its commit if it is pinned."""
    name, commit = raw.get("base_model_name_or_path"), raw.get("revision")
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1_000:
        return None
    return f"{name}@{commit}" if isinstance(commit, str) and _PINNED.fullmatch(f"{name}@{commit}") else name


def not_known(tensors: Sequence[str]) -> str:
    """What is wrong with an adapter that holds tensors which are neither factors of a LLaMA's kernels nor rows of its vocabulary."""
    matrices = [name for name in tensors if "lora_" in name and any(f"{matrix}." in name for matrix in config_lib.MATRICES)]
    way_out = "fold this adapter with PEFT (merge_and_unload) and give the model that results"
    if matrices:
        what = f"LoRA factors of the vocabulary's matrices are not supported ({names.listed(matrices)})"
        return f"{what}: {way_out}, or train the rows themselves (modules_to_save)"
    return f"tensors that are no LoRA factor and no rows of a LLaMA ({names.listed(list(tensors))}): {way_out}"


def is_named(module: str, name: str) -> bool:
    """PEFT's rule: `name` is the module's name or ends it after a dot."""
    return f".{module}".endswith(f".{name}")


def _lookup(table: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key that names the module."""
    return next((value for key, value in table.items() if (key[1:] == module if key.startswith("^") else is_named(module, key))), default)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_RANK


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e9


def _tidy(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:20]) + (f" and {len(keys) - 20:,} more" if len(keys) > 20 else "")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
