"""Strings: ids of prompts in, text out, whole (`complete`) or as it comes (`stream`).

Text never ends inside a character, and nothing of a stop text or after it is ever shown: what could be the beginning of a stop text
waits until it is one, or cannot become one. Where an answer ends does not depend on how it was cut into pieces on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import generate
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

if TYPE_CHECKING:  # decoding ids needs no tokenizer library
    from zhllama_jax.tokenizer import processor

STEPS = 8


class Completion(NamedTuple):
    """What a prompt got: its text, the ids behind it (of a stop text, all that spell it), and "stop", "length" or "context"."""

    text: str
    ids: list[int]
    finish_reason: str


class Writer:
    """Turns one row's new ids into text that may be shown.

    Attributes:
      count: ids taken in.
      stopped: whether a stop text was completed; later ids are not looked at.
    """

    def __init__(self, tokenizer: processor.Tokenizer, *, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        """`after` are ids that the text continues; without any, the blank before its first word is left out."""
        self.count = 0
        self.stopped = False
        self._decoder = tokenizer.stream(after=after)
        self._stop = tuple(stop)
        self._held = ""

    def push(self, number: int) -> str:
        """The text that this id makes certain, often empty."""
        if self.stopped:
            return ""
        self.count += 1
        return self._release(self._decoder.push(number))

    def flush(self) -> str:
        """The rest, once no more ids come."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.flush()) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        end = stop_at(text, self._stop)
        self.stopped = end is not None
        if end is None:
            end = len(text) - held_back(text, self._stop)
        self._held = "" if self.stopped else text[end:]
        return text[:end]


def stop_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first, the longest one if several are; None without any.

    First complete, not first begun: that is what a reader of single characters can know, so pieces of any size agree.
    """
    found = [(start + len(word), start) for word in stop if (start := text.find(word)) >= 0]
    return min(found)[1] if found else None


def held_back(text: str, stop: Sequence[str]) -> int:
    """The length of the longest end of `text` that a stop text begins with."""
    longest = min(len(text), max(map(len, stop), default=0))
    return next((n for n in range(longest, 0, -1) if any(word.startswith(text[-n:]) for word in stop)), 0)


def complete(
    config: model_config.LlamaConfig,
    weights: Mapping[str, Any],
    tokenizer: processor.Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: config_lib.Sampling,
    generation: config_lib.Generation,
    options: llama.Options | None = None,
    continuation: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Answers prompts, in their order.

    Args:
      config: the model's shape.
      weights: its collections `params` and, where there is one, `lora`.
      tokenizer: the model's own.
      prompts: ids of each prompt, begin-of-text id included.
      sampling: how tokens are drawn.
      generation: how many, from which seed, up to which ids and texts.
      options: how the model computes; None means float32.
      continuation: whether the texts continue those of their prompts, so that a first word keeps the blank before it; otherwise
        they are texts of their own, like the answer to an instruction.
      progress: called after each batch with the number of prompts answered and of all prompts.

    Raises:
      ValueError: the tokenizer is not this model's, or see `generate.check`.
    """
    options = options or llama.Options()
    _check_fit(config, tokenizer)
    writers = [Writer(tokenizer, stop=generation.stop, after=prompt if continuation else ()) for prompt in prompts]
    if not generation.stop:
        answers = generate.generate(config, weights, prompts, sampling=sampling, generation=generation, options=options, progress=progress)
        texts = ["".join([*map(writer.push, answer.ids), writer.flush()]) for writer, answer in zip(writers, answers, strict=True)]
        return [Completion(text, *answer) for text, answer in zip(texts, answers, strict=True)]

    found = [Completion("", [], "")] * len(prompts)
    done = 0
    for chosen, batch in generate.batches(config, prompts, sampling=sampling, generation=generation, options=options):
        session = generate.Session(weights, batch)
        texts = [""] * len(chosen)
        for row, piece in _pieces(session, [writers[i] for i in chosen], STEPS):
            texts[row] += piece
        for i, text, answer in zip(chosen, texts, session.answers, strict=True):
            found[i] = Completion(text, *answer)
        done += len(chosen)
        if progress is not None:
            progress(done, len(prompts))
    return found


def stream(
    config: model_config.LlamaConfig,
    weights: Mapping[str, Any],
    tokenizer: processor.Tokenizer,
    prompt: Sequence[int],
    *,
    sampling: config_lib.Sampling,
    generation: config_lib.Generation,
    options: llama.Options | None = None,
    continuation: bool = False,
    steps: int = STEPS,
) -> Generator[str, None, Completion]:
    """Yields the answer to one prompt in pieces, and returns the whole; tokens and text are those of `complete`.

    Args and errors are those of `complete`; `steps` tokens are drawn between two pieces.
    """
    options = options or llama.Options()
    _check_fit(config, tokenizer)
    [(_, batch)] = generate.batches(config, [prompt], sampling=sampling, generation=generation, options=options)
    session = generate.Session(weights, batch)
    text = ""
    for _, piece in _pieces(session, [Writer(tokenizer, stop=generation.stop, after=prompt if continuation else ())], steps):
        text += piece
        yield piece
    return Completion(text, *session.answers[0])


def _pieces(session: generate.Session, writers: Sequence[Writer], steps: int) -> Iterator[tuple[int, str]]:
    """(row, new text) until every row has ended; rows whose stop text is complete are ended."""
    while True:
        for row, (writer, ids) in enumerate(zip(writers, session.take(), strict=True)):
            text = ""
            for number in ids:
                text += writer.push(number)
                if writer.stopped:
                    session.stop(row, writer.count)
                    break
            if text:
                yield row, text
        if session.finished:
            break
        session.advance(steps)
    for row, writer in enumerate(writers):
        if text := writer.flush():
            yield row, text


def _check_fit(config: model_config.LlamaConfig, tokenizer: processor.Tokenizer) -> None:
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} pieces but the model {config.vocab_size} rows of vocabulary: "
            "take the tokenizer that belongs to the model, or resize the model first"
        )
