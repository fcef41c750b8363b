"""How well a model predicts text: bits per token, per byte and per character.

Bits per character compare across vocabularies; bits per token do not, since a larger vocabulary makes fewer, harder tokens.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.model import loss as loss_lib
from zhllama_jax.tokenizer import processor

CHUNK = 512
SHORTEST = 64
DEFAULT = llama.Options()


class Score(NamedTuple):
    """The cost of a text under a model.

    Attributes:
      nats: sum of -ln p over the scored tokens.
      tokens: scored tokens.
      characters: Unicode characters they spell.
      bytes: UTF-8 bytes they spell.
      documents: texts scored.
    """

    nats: float
    tokens: int
    characters: int
    bytes: int
    documents: int

    @property
    def bits_per_token(self) -> float:
        """Mean cost of a token."""
        return self.nats / math.log(2) / self.tokens

    @property
    def bits_per_character(self) -> float:
        """Mean cost of a character: THE figure across vocabularies."""
        return self.nats / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        """Mean cost of a UTF-8 byte."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per token; comparable only under one vocabulary."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    def figures(self) -> dict[str, float | int]:
        """Everything, for JSON."""
        return {
            **self._asdict(),
            "bits_per_token": self.bits_per_token,
            "bits_per_character": self.bits_per_character,
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
        }


class Passage(NamedTuple):
    """Ids and, for each, whether predicting it counts; the first id only conditions."""

    ids: Sequence[int]
    scored: Sequence[bool]


Window = tuple[Sequence[int], Sequence[int], list[bool]]
Progress = Callable[[int, int], None]


def score(
    config: config_lib.LlamaConfig,
    weights: Mapping[str, Any],
    tokenizer: processor.Tokenizer,
    texts: Iterable[str],
    *,
    length: int | None = None,
    batch: int = 8,
    options: llama.Options = DEFAULT,
    progress: Progress | None = None,
) -> Score:
    """Scores whole texts: each begins with BOS, and every token of it is predicted exactly once.

    A text longer than the context is read in windows that overlap by half, so that every token but those of the first window has
    at least half a window before it.

    Args:
      config: the model's shape.
      weights: its collections.
      tokenizer: must have exactly the model's vocabulary.
      texts: the texts; empty ones are passed over.
      length: window in tokens; None takes the model's context length.
      batch: windows per call.
      options: how to compute.
      progress: called with the number of windows done and of all windows.

    Raises:
      ValueError: the tokenizer does not fit the model, there is no text, or see `check_windows`.
    """
    fits(tokenizer, config)
    check_windows(length=length, batch=batch)
    length = min(length or config.max_position_embeddings, config.context)
    kept = [text for text in texts if text]
    if not kept:
        raise ValueError("there is no text to score")
    encoded = tokenizer.encode_batch(kept, bos=True)
    sequences = [Passage(ids, [False] + [True] * (len(ids) - 1)) for ids in encoded]
    nats = total_nats(config, weights, sequences, length=length, batch=batch, options=options, progress=progress)
    return Score(
        nats=nats,
        tokens=sum(len(ids) - 1 for ids in encoded),
        characters=sum(map(len, kept)),
        bytes=sum(len(text.encode("utf-8", "replace")) for text in kept),
        documents=len(kept),
    )


def total_nats(
    config: config_lib.LlamaConfig,
    weights: Mapping[str, Any],
    sequences: Sequence[Passage],
    *,
    length: int,
    batch: int = 8,
    options: llama.Options = DEFAULT,
    progress: Progress | None = None,
) -> float:
    """Sum of -ln p over all scored ids, in windows of `length` that overlap by half."""
    total, done = 0.0, 0
    windows = list(_windows(sequences, length))
    for number, arrays_BT in _batches(windows, batch, _longest_padded(config, length)):
        total += float(_nats(config, options, dict(weights), *arrays_BT))
        done += number
        if progress is not None:
            progress(done, len(windows))
    return total


def fits(tokenizer: processor.Tokenizer, config: config_lib.LlamaConfig) -> None:
    """Refuses a tokenizer whose vocabulary is not the model's: rows that no piece has would take a share of every probability."""
    if tokenizer.vocab_size != config.vocab_size:
        what_to_do = (
            "use the tokenizer of the model's own directory, or grow the model with `zhllama resize`"
            if tokenizer.vocab_size > config.vocab_size
            else "cut off the rows that no piece has (`convert.vocabulary.cut`)"
        )
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size:,} pieces but the model {config.vocab_size:,} rows: {what_to_do}")


def check_windows(*, length: int | None, batch: int) -> None:
    """Refuses windows that hold nothing to condition on: of one token, each would be predicted from the one before alone."""
    if length is not None and length < 2:
        raise ValueError(f"length must be at least 2 tokens, got {length}: half a window is what each token is read after")
    if batch < 1:
        raise ValueError(f"batch_size must be at least 1 window, got {batch}")


@functools.partial(jax.jit, static_argnames=("config", "options"))
def _nats(
    config: config_lib.LlamaConfig,
    options: llama.Options,
    weights: Mapping[str, Any],
    tokens_BT: arrays.Array,
    targets_BT: arrays.Array,
    mask_BT: arrays.Array,
) -> arrays.Array:
    x_BTD, _ = llama.hidden_states(config, weights, tokens_BT, options=options)
    return loss_lib.next_token(config, weights["params"], x_BTD, targets_BT, mask_BT.astype(jnp.float32), chunk=CHUNK)


def _windows(sequences: Sequence[Passage], length: int) -> Iterator[Window]:
    """Cuts every sequence into (inputs, targets, which targets count)."""
    stride = max(length // 2, 1)
    for ids, scored in sequences:
        start, counted = 0, 0  # targets below `counted` were scored by an earlier window
        while counted < len(ids) - 1:
            stop = min(start + length, len(ids) - 1)
            mask = [bool(scored[position + 1]) and position >= counted for position in range(start, stop)]
            yield ids[start:stop], ids[start + 1 : stop + 1], mask
            counted = stop
            start += stride


def _batches(windows: Iterable[Window], batch: int, longest: int) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Groups windows of similar length into arrays of few shapes, with their number; what is missing is padding that does not count."""
    waiting: dict[int, list[Window]] = {}
    for window in windows:
        width = _width(len(window[0]), longest)
        group = waiting.setdefault(width, [])
        group.append(window)
        if len(group) == batch:
            yield batch, _padded(waiting.pop(width), batch, width)
    for width, group in waiting.items():
        yield len(group), _padded(group, batch, width)


def _longest_padded(config: config_lib.LlamaConfig, length: int) -> int:
    """The longest row that may hold padding: with dynamic RoPE scaling, rows beyond the trained length turn by how long they are."""
    dynamic = config.rope_scaling is not None and config.rope_scaling.kind == "dynamic"
    return min(length, config.max_position_embeddings) if dynamic else length


def _width(tokens: int, longest: int) -> int:
    """The row that a window is padded to: a power of two, so that short texts are cheap and few shapes are compiled."""
    return max(min(max(1 << (tokens - 1).bit_length(), SHORTEST), longest), tokens)


def _padded(group: Sequence[Window], batch: int, width: int) -> tuple[np.ndarray, ...]:
    """(tokens, targets, mask) of one group of windows."""
    tokens_BT = np.zeros((batch, width), np.int32)
    targets_BT = np.zeros((batch, width), np.int32)
    mask_BT = np.zeros((batch, width), bool)
    for row, (inputs, targets, mask) in enumerate(group):
        tokens_BT[row, : len(inputs)] = inputs
        targets_BT[row, : len(targets)] = targets
        mask_BT[row, : len(mask)] = mask
    return tokens_BT, targets_BT, mask_BT
