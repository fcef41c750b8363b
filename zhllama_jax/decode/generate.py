"""Lists of ids in, lists of ids out; knows no strings.

Everything that a user may vary from call to call is rounded up to a few static sizes (prompt length, number of prompts, number of
new tokens) or travels as an array (seeds, limits, stop ids, sampling values), so that new input rarely means a new compilation.
`generate` decodes each batch in one compiled program; `Session` holds the same batch and hands its tokens out as they come.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import loop
from zhllama_jax.decode import sampling as sampling_lib
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

MIN_BUCKET = 16
STOP_IDS_BUCKET = 8
MAX_PROBLEMS = 5


class Answer(NamedTuple):
    """What a prompt got.

    Attributes:
      ids: new ids, without the stop id.
      finish_reason: "stop" (a stop id or stop text), "length" (`max_new_tokens` reached), "context" (no room left for
        more); "" while it is not finished.
    """

    ids: list[int]
    finish_reason: str


class Batch(NamedTuple):
    """Prompts made ready for the compiled programs.

    Attributes:
      shape: what they are compiled for.
      prompts_BT: right-aligned prompts; rows after the last prompt repeat it with a limit of 0.
      length_B: their lengths.
      request: limits, seeds and rules.
      full: for each prompt, why it ends when it reaches its limit: "length" or "context".
    """

    shape: loop.Shape
    prompts_BT: np.ndarray
    length_B: np.ndarray
    request: loop.Request
    full: list[str]


def bucket(size: int, least: int = MIN_BUCKET) -> int:
    """The power of two that `size` is rounded up to, at least `least`."""
    return max(least, 1 << (size - 1).bit_length())


def check(config: model_config.LlamaConfig, prompts: Sequence[Sequence[int]], generation: config_lib.Generation) -> None:
    """Refuses prompts that the model cannot continue; the first `MAX_PROBLEMS` problems in one message, and how many more there are.

    Raises:
      ValueError: a prompt is empty, holds an id outside the vocabulary, or leaves no room for a new token in the context.
    """
    context = context_of(config, generation)
    problems = []
    for i, prompt in enumerate(prompts):
        outside = [id for id in prompt if not 0 <= id < config.vocab_size]
        if not prompt:
            problems.append(f"prompt {i} is empty: give it at least the begin-of-text id")
        elif outside:
            problems.append(f"prompt {i} holds id {outside[0]}, outside the model's vocabulary of {config.vocab_size}")
        elif len(prompt) >= context:
            problems.append(f"prompt {i} has {len(prompt)} tokens and leaves no room in the context of {context}: shorten it")
    outside = [id for id in generation.stop_ids or () if id >= config.vocab_size]
    if outside:
        problems.append(f"stop id {outside[0]} lies outside the model's vocabulary of {config.vocab_size}")
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS:,} more" if len(problems) > MAX_PROBLEMS else ""
        raise ValueError(f"{'; '.join(problems[:MAX_PROBLEMS])}{more}")


def context_of(config: model_config.LlamaConfig, generation: config_lib.Generation) -> int:
    """The most tokens that prompt and answer may take together."""
    return min(generation.context, config.context)


def make_batch(
    config: model_config.LlamaConfig,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: config_lib.Sampling,
    generation: config_lib.Generation,
    seeds: Sequence[int],
    options: llama.Options,
) -> Batch:
    """Pads prompts, and rows, to static sizes. The prompts have passed `check`; each has its seed."""
    rows, length = bucket(len(prompts), 1), bucket(max(map(len, prompts)))
    room = context_of(config, generation)
    limits = [min(generation.max_new_tokens, room - len(prompt)) for prompt in prompts]
    spare = rows - len(prompts)

    prompts_BT = np.zeros((rows, length), np.int32)
    for row, prompt in zip(prompts_BT, [*prompts, *[prompts[-1]] * spare], strict=True):
        row[length - len(prompt) :] = prompt
    stop_ids = generation.stop_ids if generation.stop_ids is not None else (config.eos_token_id,)
    stop_ids_E = np.full(-(-max(len(stop_ids), 1) // STOP_IDS_BUCKET) * STOP_IDS_BUCKET, -1, np.int32)
    stop_ids_E[: len(stop_ids)] = stop_ids

    rules = [sampling] * rows
    return Batch(
        shape=loop.Shape(
            config=config,
            options=options,
            new_tokens=bucket(max(limits)),
            num_candidates=sampling_lib.num_candidates(rules, config.vocab_size),
        ),
        prompts_BT=prompts_BT,
        length_B=np.asarray([len(prompt) for prompt in prompts] + [len(prompts[-1])] * spare, np.int32),
        request=loop.Request(
            controls=sampling_lib.controls(rules),
            seed_B=np.asarray([*seeds, *[0] * spare], np.uint32),
            limit_B=np.asarray([*limits, *[0] * spare], np.int32),
            stop_ids_E=stop_ids_E,
        ),
        full=["length" if limit == generation.max_new_tokens else "context" for limit in limits],
    )


def batches(
    config: model_config.LlamaConfig,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: config_lib.Sampling,
    generation: config_lib.Generation,
    options: llama.Options,
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of prompts of similar length, each with the indices of its prompts."""
    check(config, prompts, generation)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), generation.batch_size):
        chosen = order[start : start + generation.batch_size]
        yield (
            chosen,
            make_batch(
                config,
                [prompts[i] for i in chosen],
                sampling=sampling,
                generation=generation,
                seeds=[(generation.seed + i) % config_lib.SEEDS for i in chosen],
                options=options,
            ),
        )


def generate(
    config: model_config.LlamaConfig,
    weights: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    sampling: config_lib.Sampling,
    generation: config_lib.Generation,
    options: llama.Options,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """Continues prompts of ids; the answers stand in the order of the prompts. Stop texts of `generation` play no part here.

    Args:
      config: the model's shape.
      weights: its collections `params` and, where there is one, `lora`.
      prompts: ids of each prompt, begin-of-text id included.
      sampling: how tokens are drawn.
      generation: how many, from which seed, up to which ids.
      options: how the model computes; its dtype is the cache's too.
      progress: called after each batch with the number of prompts answered and of all prompts.

    Raises:
      ValueError: see `check`.
    """
    found: list[Answer] = [Answer([], "")] * len(prompts)
    done = 0
    for chosen, batch in batches(config, prompts, sampling=sampling, generation=generation, options=options):
        got = loop.run(batch.shape, weights, batch.prompts_BT, batch.length_B, batch.request)
        for i, answer in zip(chosen, _read(batch, got), strict=True):
            found[i] = answer
        done += len(chosen)
        if progress is not None:
            progress(done, len(prompts))
    return found


class Session:
    """One batch under way: the caller takes new tokens as they come, and may end a row before its time.

    The tokens are those of `generate`, however the steps are cut.
    """

    def __init__(self, weights: Mapping[str, Any], batch: Batch) -> None:
        """Runs the prompts; the first token of each can be taken at once."""
        self._weights = weights
        self._batch = batch
        self._state = loop.prefill(batch.shape, weights, batch.prompts_BT, batch.length_B, batch.request)
        self._answers = _read(batch, loop.answers(self._state))
        self._taken = [0] * len(batch.full)

    @property
    def answers(self) -> list[Answer]:
        """All ids so far of every prompt, taken or not, and how it ended."""
        return self._answers

    @property
    def finished(self) -> bool:
        """Whether every row has ended."""
        return all(answer.finish_reason for answer in self._answers)

    def take(self) -> list[list[int]]:
        """For each prompt the ids that were not taken before."""
        new = [answer.ids[start:] for answer, start in zip(self._answers, self._taken, strict=True)]
        self._taken = [len(answer.ids) for answer in self._answers]
        return new

    def advance(self, steps: int) -> None:
        """Draws up to `steps` more tokens a row; `steps` never causes a compilation."""
        batch = self._batch
        self._state = loop.advance(batch.shape, self._weights, self._state, batch.request, np.int32(steps))
        self._answers = _read(batch, loop.answers(self._state))

    def stop(self, row: int, length: int) -> None:
        """Ends a row as if a stop id had come after its first `length` ids."""
        self._state = loop.stop(self._state, row, length)
        self._answers[row] = Answer(self._answers[row].ids[:length], "stop")


def _read(batch: Batch, got: loop.Answers) -> list[Answer]:
    """The answers of the batch's prompts. Python lists, not views: the next step may overwrite the arrays."""
    outputs, lengths, stopped, active = (leaf.tolist() for leaf in jax.device_get(got))
    answers = []
    for row, full in enumerate(batch.full):
        reason = "stop" if stopped[row] else full
        answers.append(Answer(outputs[row][: lengths[row]], "" if active[row] else reason))
    return answers
