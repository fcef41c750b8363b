"""How RoPE is stretched beyond the length that a model was trained for, under Hugging Face's names. No JAX here: `config` imports it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# Which parameters each kind has, with their defaults; None: must be given, follows from the model, or takes no part if left out.
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"factor": None},
    "dynamic": {"factor": None},
    "llama3": {"factor": None, "original_max_position_embeddings": None, "low_freq_factor": None, "high_freq_factor": None},
    "yarn": {
        "factor": None,
        "original_max_position_embeddings": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": None,
        "mscale": None,
        "mscale_all_dim": None,
        "truncate": True,
    },
}
KINDS = tuple(PARAMETERS)

_REQUIRED = ("factor", "low_freq_factor", "high_freq_factor")
_LEAST = {"factor": 1.0, "mscale": 0.0, "mscale_all_dim": 0.0}  # all others: _SMALL
_SMALL, _LARGE = 1e-6, 1e6
_LONGEST = 1 << 26


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """What is done to the rotary frequencies so that a model reads longer texts; hashable.

    linear (Chen et al., 2023, arXiv 2306.15595) divides every frequency by the factor. dynamic ("NTK-aware") raises the base for texts
    longer than the trained length, the more the longer they are. llama3 (Grattafiori et al., 2024, arXiv 2407.21783) and yarn (Peng et
    al., 2023, arXiv 2309.00071) divide the low frequencies and leave the high ones; yarn also sharpens attention.

    Attributes:
      kind: one of `KINDS`.
      factor: by how much the context grows, 1 or more.
      original_max_position_embeddings: llama3, yarn: the length trained for before the stretching. None takes the model's
        `max_position_embeddings`. The others reckon from `max_position_embeddings` itself.
      low_freq_factor: llama3: frequencies with fewer turns than this over the original length are divided by the factor.
      high_freq_factor: llama3: those with more turns than this stay; between the two the division fades out.
      beta_fast: yarn: frequencies with more turns than this over the original length stay (32 if left out).
      beta_slow: yarn: those with fewer turns than this are divided by the factor (1 if left out).
      attention_factor: yarn: cosine and sine are multiplied by it; None follows from the factor and the two `mscale`.
      mscale: yarn: weight of log(factor) in the numerator of the attention factor; counts only beside `mscale_all_dim`.
      mscale_all_dim: yarn: the same in the denominator.
      truncate: yarn: whether the ends of the ramp are rounded outwards to whole dimensions (they are if left out).
    """

    kind: str
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of RoPE scaling must be one of {', '.join(KINDS)}, got {_brief(self.kind)}")
        for name, default in PARAMETERS[self.kind].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        problems = [problem for field in dataclasses.fields(self)[1:] if (problem := self._problem(field.name))]
        if not problems:
            problems = self._contradictions()
        if problems:
            raise ValueError(f"RoPE scaling of kind {self.kind}: {'; '.join(problems)}")

    def _problem(self, name: str) -> str:
        """What is wrong with one parameter; numbers become floats on the way."""
        value = getattr(self, name)
        if name not in PARAMETERS[self.kind]:
            return "" if value is None else f"it has no {name}, got {_brief(value)}"
        if value is None:
            return f"{name} is missing" if name in _REQUIRED else ""
        if name == "truncate":
            return "" if isinstance(value, bool) else f"truncate must be true or false, got {_brief(value)}"
        if name == "original_max_position_embeddings":
            allowed = type(value) is int and 1 <= value <= _LONGEST
            return "" if allowed else f"{name} must be a whole number from 1 to {_LONGEST:,}, got {_brief(value)}"
        least = _LEAST.get(name, _SMALL)
        if type(value) not in (int, float) or not least <= value <= _LARGE:
            return f"{name} must be a number from {least:g} to {_LARGE:g}, got {_brief(value)}"
        object.__setattr__(self, name, float(value))
        return ""

    def _contradictions(self) -> list[str]:
        found = []
        if self.low_freq_factor and self.high_freq_factor and self.low_freq_factor >= self.high_freq_factor:
            found.append(f"low_freq_factor {self.low_freq_factor:g} must be below high_freq_factor {self.high_freq_factor:g}")
        if self.beta_slow and self.beta_fast and self.beta_slow > self.beta_fast:
            found.append(f"beta_slow {self.beta_slow:g} must not be above beta_fast {self.beta_fast:g}")
        return found

    @property
    def parameters(self) -> dict[str, Any]:
        """What is set, by name, without the kind."""
        return {name: value for name in PARAMETERS[self.kind] if (value := getattr(self, name)) is not None}

    @property
    def attention_scale(self) -> float:
        """What cosine and sine are multiplied by: 1 for all kinds but yarn."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _sharper(self.factor, self.mscale) / _sharper(self.factor, self.mscale_all_dim)
        return _sharper(self.factor, 1.0)

    def of(self, max_position_embeddings: int) -> "RopeScaling":
        """This scaling in a model of that context length: what follows from the length is filled in."""
        if "original_max_position_embeddings" not in PARAMETERS[self.kind] or self.original_max_position_embeddings is not None:
            return self
        return dataclasses.replace(self, original_max_position_embeddings=max_position_embeddings)

    def context(self, max_position_embeddings: int) -> int:
        """The longest text that the stretched frequencies are meant for, in tokens.

        linear and dynamic stretch `max_position_embeddings` itself; with llama3 and yarn it is the stretched length already, but for
        models whose file was given the scaling alone.
        """
        if self.kind in ("linear", "dynamic"):
            return int(max_position_embeddings * self.factor)
        original = self.original_max_position_embeddings or max_position_embeddings
        return max(max_position_embeddings, int(original * self.factor)) if self.kind == "yarn" else max_position_embeddings


def _sharper(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
