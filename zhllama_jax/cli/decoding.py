"""The flags of decoding, which `generate` and `chat` share."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zhllama_jax.cli import terminal

if TYPE_CHECKING:
    from zhllama_jax.decode import config as decode_config


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How to draw, how much, and where to stop.

    A value that is not given comes from the model directory's generation_config.json, or else is the paper's.

    Attributes:
      temperature: 0 is greedy; the paper's is 0.2.
      top_k: keeps this many likeliest tokens, 0 keeps all; the paper's is 40.
      top_p: keeps the likeliest tokens up to this probability, 1 keeps all; the paper's is 0.9.
      min_p: keeps tokens with this share of the likeliest one's probability; 0 keeps all.
      repetition_penalty: 1 is off; the paper's is 1.3, 1.1 in its later revision.
      max_new_tokens: the most that an answer gets; the paper's is 512.
      context: the most that prompt and answer take together; the paper's is 2,048.
      stop: texts that end an answer.
      seed: of the draws; each further prompt or turn takes the next number.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    context: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int = 0

    def check(self, longest: int) -> None:
        """Says where a context was asked for that the model does not have; `longest` is the model's own."""
        if self.context is not None and self.context > longest:
            terminal.say(f"zhllama: note: the model's context is {longest:,} tokens, so --context {self.context} takes no more")

    def resolve(self, directory: Mapping[str, Any], *, source: str) -> "tuple[decode_config.Sampling, decode_config.Generation]":
        """The values to decode with: flag, then the content of the directory's generation config (`source` names it), then the paper."""
        from zhllama_jax.decode import config as decode_config

        return decode_config.resolve(dataclasses.asdict(self), directory, source=source)


@dataclasses.dataclass(frozen=True)
class OfSeveral(Decoding):
    """How several prompts are decoded.

    Attributes:
      batch_size: prompts decoded together.
    """

    batch_size: int = 8
