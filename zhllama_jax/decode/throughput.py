"""How fast a model writes: tokens per second, and characters per second, in which different vocabularies can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import generate
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

if TYPE_CHECKING:  # decoding ids needs no tokenizer library
    from zhllama_jax.tokenizer import processor


class Throughput(NamedTuple):
    """Measured speed.

    Attributes:
      tokens_per_second: new tokens of all rows over the time of prefill and decoding, compilation not included.
      characters_per_token: of the given text under the given tokenizer.
    """

    tokens_per_second: float
    characters_per_token: float

    @property
    def characters_per_second(self) -> float:
        """Characters of such text that the model writes in a second."""
        return self.tokens_per_second * self.characters_per_token


def measure(
    config: model_config.LlamaConfig,
    weights: Mapping[str, Any],
    tokenizer: processor.Tokenizer,
    text: str,
    *,
    sampling: config_lib.Sampling | None = None,
    prompt_tokens: int = 16,
    new_tokens: int = 64,
    rows: int = 1,
    repeats: int = 3,
    options: llama.Options | None = None,
) -> Throughput:
    """The median speed of `repeats` runs, after one that compiles.

    What a model writes does not change the time of a token, so the time is that of `new_tokens` tokens drawn without a stop, and
    the characters are those of `text`: a weak model is not made to look fast or slow by what it happens to write.

    Args:
      config: the model's shape.
      weights: its collections.
      tokenizer: the model's own.
      text: text of the kind that counts; its beginning is the prompt.
      sampling: how tokens are drawn; None means the paper's values.
      prompt_tokens: length of the prompt, begin-of-text id included; a shorter text is repeated.
      new_tokens: tokens drawn in each row.
      rows: prompts decoded together.
      repeats: runs that are timed.
      options: how the model computes; None means float32.

    Raises:
      ValueError: the text is empty, or the tokens do not fit into the model's context.
    """
    ids = tokenizer.encode(text)
    if not ids:
        raise ValueError("speed is measured on a text, and this one is empty")
    if prompt_tokens + new_tokens > config.context:
        raise ValueError(f"{prompt_tokens} prompt tokens and {new_tokens} new ones do not fit the model's context of {config.context}")
    prompt = [tokenizer.bos_id, *(ids * -(-prompt_tokens // len(ids)))][:prompt_tokens]
    generation = config_lib.Generation(max_new_tokens=new_tokens, context=prompt_tokens + new_tokens, stop_ids=(), batch_size=rows)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        generate.generate(
            config,
            weights,
            [prompt] * rows,
            sampling=sampling or config_lib.Sampling(),
            generation=generation,
            options=options or llama.Options(),
        )
        seconds.append(time.perf_counter() - start)
    return Throughput(rows * new_tokens / statistics.median(seconds[1:]), len(text) / len(ids))
