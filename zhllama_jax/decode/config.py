"""What may be chosen about decoding, and which source of a value wins. No JAX here: the command line reads it at start.

The defaults are the paper's (Cui et al., 2023, arXiv 2304.08177, section 5): temperature 0.2, top-k 40, top-p 0.9, repetition
penalty 1.3 (1.1 in its later revision), a context of 2,048 tokens, at most 512 new ones.
"""

import dataclasses
import sys
import warnings
from collections.abc import Mapping
from typing import Any

SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; applied in this order, which is Hugging Face's.

    Attributes:
      repetition_penalty: divides positive and multiplies negative logits of the ids that the row has seen, prompt included
        (Keskar et al., 2019, arXiv 1909.05858). 1 does nothing.
      temperature: divides the logits. 0 is greedy: always the likeliest token, and the three filters below play no part.
      top_k: keeps this many likeliest tokens. 0 keeps all.
      top_p: keeps the likeliest tokens up to the one that brings their probability to this much (Holtzman et al., 2020). 1 keeps all.
      min_p: keeps tokens with at least this share of the likeliest one's probability. 0 keeps all.
    """

    temperature: float = 0.2
    top_k: int = 40
    top_p: float = 0.9
    repetition_penalty: float = 1.3
    min_p: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if not _number(self.temperature) or self.temperature < 0:
            problems.append(f"temperature must be 0 (greedy) or above, got {self.temperature!r}")
        if not _whole(self.top_k) or self.top_k < 0:
            problems.append(f"top_k must be a whole number, 0 (off) or above, got {self.top_k!r}")
        if not _number(self.top_p) or not 0 < self.top_p <= 1:
            problems.append(f"top_p must be above 0 and at most 1 (off), got {self.top_p!r}")
        if not _number(self.repetition_penalty) or self.repetition_penalty <= 0:
            problems.append(f"repetition_penalty must be above 0 (1 is off), got {self.repetition_penalty!r}")
        if not _number(self.min_p) or not 0 <= self.min_p <= 1:
            problems.append(f"min_p must lie between 0 (off) and 1, got {self.min_p!r}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn at random."""
        return self.temperature == 0


@dataclasses.dataclass(frozen=True)
class Generation:
    """How long to go on, and where to stop.

    Attributes:
      max_new_tokens: the most that a prompt gets.
      context: the most tokens that prompt and answer take together; the model's own (`LlamaConfig.context`) limits them too.
      seed: prompt i of a call draws with seed + i (modulo 2³²), so each can be had again alone, whatever stood beside it.
      stop: texts that end an answer; they and what follows are cut off.
      stop_ids: ids that end an answer; None means the model's `eos_token_id`, () means none.
      batch_size: prompts decoded together.
    """

    max_new_tokens: int = 512
    context: int = 2048
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a whole number above 0, got {getattr(self, name)!r}"
            for name in ("max_new_tokens", "context", "batch_size")
            if not _whole(getattr(self, name)) or getattr(self, name) < 1
        ]
        if not _whole(self.seed) or not 0 <= self.seed < SEEDS:
            problems.append(f"seed must be a whole number from 0 to {SEEDS - 1}, got {self.seed!r}")
        stop: Any = self.stop
        if isinstance(stop, str):
            problems.append(f"stop must be a list of texts, got the single text {stop!r}")
        elif "" in stop:
            problems.append("stop holds an empty text, which would end every answer at once")
        if any(not _whole(id) or id < 0 for id in self.stop_ids or ()):
            problems.append(f"stop_ids must be whole numbers, 0 or above, got {self.stop_ids!r}")
        if problems:
            raise ValueError("; ".join(problems))
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.stop_ids is not None:
            object.__setattr__(self, "stop_ids", tuple(self.stop_ids))


# Keys of a generation_config.json that change what transformers draws and that we do not do, with the value that is neutral.
_NOT_DONE: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
}


def resolve(
    flags: Mapping[str, Any], directory: Mapping[str, Any] | None = None, *, source: str = "generation_config.json"
) -> tuple[Sampling, Generation]:
    """The values to decode with: a flag beats the model directory's generation config, which beats the paper.

    Args:
      flags: fields of `Sampling` and `Generation` as the user gave them; None means not given.
      directory: the content of the directory's generation_config.json, in Hugging Face's keys. `do_sample: false` there means
        greedy, unless a flag gives a temperature. `eos_token_id` (one or several) becomes `stop_ids`.
      source: the name of that file, for messages.

    Raises:
      ValueError: a flag is unknown, or a value is out of range; the message names the source of the value.

    Warns:
      UserWarning: the directory asks for a way of decoding that does not exist here, such as beams; it is left out.
    """
    written = dict(directory or {})
    ignored = [f"{key} = {written[key]!r}" for key, neutral in _NOT_DONE.items() if written.get(key, neutral) not in (None, neutral)]
    if ignored:
        warnings.warn(f"{source} asks for decoding that is not available here and is left out: {', '.join(ignored)}", stacklevel=2)

    how = {field.name for field in dataclasses.fields(Sampling)}
    how_long = {field.name for field in dataclasses.fields(Generation)}
    unknown = sorted(set(flags) - how - how_long)
    if unknown:
        raise ValueError(f"unknown decoding option: {', '.join(unknown)}; there are {', '.join(sorted(how | how_long))}")

    of_directory = {key: written[key] for key in (*how, "max_new_tokens") if written.get(key) is not None}
    if written.get("do_sample") is False:
        of_directory["temperature"] = 0
    if written.get("eos_token_id") is not None:
        ids = written["eos_token_id"]
        of_directory["stop_ids"] = tuple(ids) if isinstance(ids, list | tuple) else (ids,)
    of_user = {key: value for key, value in flags.items() if value is not None}

    def only(names: set[str], given: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in given.items() if key in names}

    try:
        sampling, generation = Sampling(**only(how, of_directory)), Generation(**only(how_long, of_directory))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return dataclasses.replace(sampling, **only(how, of_user)), dataclasses.replace(generation, **only(how_long, of_user))


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max  # also of whole numbers that no float can be


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
