"""RoPE in a Hugging Face `config.json`, in and out.

transformers 4 spells it `rope_theta` and `rope_scaling` (with the kind under "type" at first, then "rope_type"), transformers 5
`rope_parameters`. Both are read, and must agree where both are there, since each version reads its own; both are written.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")

_PLAIN = "default"
_ORIGINAL = "original_max_position_embeddings"
_NAMES = ("rope_type", "type")

# Parameters that stand in such objects and change the numbers of a kind that knows them; another kind does not pass over them.
_CHANGING = {name for parameters in rope_config.PARAMETERS.values() for name in parameters}
_CHANGING |= {"short_factor", "long_factor", "short_mscale", "long_mscale", "mrope_section", "mrope_interleaved", "partial_rotary_factor"}


class Found(NamedTuple):
    """What a configuration says about RoPE.

    Attributes:
      theta: the base, not yet checked.
      scaling: how the frequencies are stretched; None: not.
      problems: why it cannot be used, as sentences.
      notes: what is odd and harmless.
      unknown: dotted names of parameters that nobody knows.
    """

    theta: Any
    scaling: rope_config.RopeScaling | None
    problems: list[str]
    notes: list[str]
    unknown: list[str]


def read(raw: Mapping[str, Any]) -> Found:
    """RoPE from a whole `config.json`, in either spelling."""
    problems: list[str] = []
    notes: list[str] = []
    unknown: list[str] = []
    bases = {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
    scalings: dict[str, rope_config.RopeScaling | None] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = raw.get(key)
        if value is None or value == {}:
            continue
        if not isinstance(value, dict):
            problems.append(f"{key} must be an object or null, got {_brief(value)}")
            continue
        if value.get("rope_theta") is not None:
            bases[f"{key}.rope_theta"] = value["rope_theta"]
        kind = _kind(key, value, problems)
        if kind is None:
            continue
        parameters = _parameters(key, kind, value, raw, problems, notes, unknown)
        if kind == _PLAIN:
            scalings[key] = None
            continue
        try:
            scalings[key] = rope_config.RopeScaling(kind, **parameters)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if any(base != next(iter(bases.values())) for base in bases.values()):
        both = ", ".join(f"{key} {_brief(base)}" for key, base in bases.items())
        problems.append(f"{both}: versions of transformers would disagree about the model; make them equal")
    if len(set(scalings.values())) > 1:
        problems.append("rope_scaling and rope_parameters differ: versions of transformers would disagree about the model; make them equal")
    scaling = next(iter(scalings.values()), None)
    if scaling is not None and not problems:
        notes += _doubts(scaling, raw)
    return Found(next(iter(bases.values()), config_lib.LlamaConfig.rope_theta), scaling, problems, notes, unknown)


def to_json(config: config_lib.LlamaConfig) -> dict[str, Any]:
    """The keys of `config.json` about RoPE, for transformers 4 and 5 alike; without defaults that versions fill in differently."""
    scaling = config.rope_scaling
    new: dict[str, Any] = {"rope_type": _PLAIN, "rope_theta": config.rope_theta}
    if scaling is None:
        return {"rope_theta": config.rope_theta, "rope_scaling": None, "rope_parameters": new}
    # Up to transformers 4.42 there were these two kinds only, in an object of exactly two keys; later versions still read that.
    old = {"type" if scaling.kind in ("linear", "dynamic") else "rope_type": scaling.kind, **scaling.parameters}
    if scaling.kind == "yarn" and scaling.original_max_position_embeddings == config.max_position_embeddings:
        del old[_ORIGINAL]  # left out, it means this in every version; written out, some versions 4 would take the factor for 1
    new |= {"rope_type": scaling.kind, **scaling.parameters}
    return {"rope_theta": config.rope_theta, "rope_scaling": old, "rope_parameters": new}


def _kind(key: str, value: Mapping[str, Any], problems: list[str]) -> str | None:
    """The kind that an object asks for, or None and a problem."""
    named = {name: value[name] for name in _NAMES if value.get(name) is not None}
    kind = next(iter(named.values()), _PLAIN)
    if any(other != kind for other in named.values()):
        both = " and ".join(f"{name} {_brief(other)}" for name, other in named.items())
        problems.append(f"{key} has {both}: make them equal")
    elif not isinstance(kind, str) or kind not in (_PLAIN, *rope_config.KINDS):
        allowed = ", ".join((_PLAIN, *rope_config.KINDS))
        problems.append(f"{key} asks for RoPE of type {_brief(kind)}, which is not supported (allowed: {allowed})")
    else:
        return kind
    return None


def _parameters(
    key: str, kind: str, value: Mapping[str, Any], raw: Mapping[str, Any], problems: list[str], notes: list[str], unknown: list[str]
) -> dict[str, Any]:
    """The parameters of a `RopeScaling`; what does not belong there becomes a problem, a note or an unknown name."""
    given = {name: item for name, item in value.items() if name not in (*_NAMES, "rope_theta") and item is not None}
    if type(given.get("partial_rotary_factor")) in (int, float) and given["partial_rotary_factor"] == 1:
        del given["partial_rotary_factor"]
    known = rope_config.PARAMETERS.get(kind, {})
    if kind in ("linear", "dynamic") and _ORIGINAL in given:
        notes.append(f"{key}.{_ORIGINAL} has no effect on RoPE of type {kind}, here as in transformers")
        del given[_ORIGINAL]
    odd = sorted(given.keys() - known.keys())
    changing = [name for name in odd if name in _CHANGING]
    if changing:
        problems.append(f"{key} has {', '.join(changing)}, which RoPE of type {kind} does not know")
    unknown += [f"{key}.{name}" for name in odd if name not in _CHANGING]
    parameters = {name: item for name, item in given.items() if name in known}
    if _ORIGINAL in known:
        _complete(key, kind, parameters, value, raw, problems)
    if kind != _PLAIN:
        parameters.setdefault("factor", None)
    return parameters


def _complete(
    key: str, kind: str, parameters: dict[str, Any], value: Mapping[str, Any], raw: Mapping[str, Any], problems: list[str]
) -> None:
    """Fills in what transformers 5 takes from the rest of the configuration: the original length, and yarn's factor where it is null."""
    outside = raw.get(_ORIGINAL)
    if outside is not None and parameters.setdefault(_ORIGINAL, outside) != outside:
        both = f"{key}.{_ORIGINAL} {_brief(parameters[_ORIGINAL])}, {_ORIGINAL} {_brief(outside)}"
        problems.append(f"{both}: versions of transformers would disagree about the model; make them equal")
    longest = raw.get("max_position_embeddings")
    longest = config_lib.LlamaConfig.max_position_embeddings if longest is None else longest
    original = parameters.setdefault(_ORIGINAL, longest)
    if kind == "yarn" and "factor" in value and value["factor"] is None and type(longest) is type(original) is int and original > 0:
        parameters["factor"] = longest / original


def _doubts(scaling: rope_config.RopeScaling, raw: Mapping[str, Any]) -> list[str]:
    """A yarn whose lengths do not fit its factor: some versions 4 of transformers reckon with the lengths, 5 with the factor."""
    longest, original = raw.get("max_position_embeddings"), scaling.original_max_position_embeddings
    if scaling.kind != "yarn" or type(longest) is not int or original is None or longest in (original, original * scaling.factor):
        return []
    return [
        f"RoPE of type yarn has the factor {scaling.factor:g}, but max_position_embeddings {longest} is {longest / original:g} times "
        f"{_ORIGINAL} {original}: the factor counts, as in transformers 5; some versions 4 take the lengths"
    ]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
