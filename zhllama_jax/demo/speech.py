"""What exercises need of a language: its questions, its way to join a list, its yes and no."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zhllama_jax.demo.lexicon import Word


@dataclass(frozen=True)
class Speech:
    """One language as the exercises see it.

    Attributes:
      language: its English name.
      questions: wordings by task and what is asked; a task that is missing cannot be asked in this language.
      openings: what may stand before a question about a fact.
      endings: what may close one; the first is the plain one.
      name: the word's name.
      amount: the answer to how many things there are.
      row: a list of words, joined.
      yes: the answer to whether a list has a thing.
      no: the other answer.
      full_stop: what closes a sentence that is given to read.
      exercise: how a document sets an exercise: {instruction}, {given}, {output}.
      given: how the input stands in an exercise that has one: {input}.
      heading: what stands before the exercises of a document.
      joint: what stands between the parts of a document.
    """

    language: str
    questions: Mapping[str, tuple[str, ...]]
    openings: tuple[str, ...]
    endings: tuple[str, ...]
    name: Callable[[Word], str]
    amount: Callable[[Word], str]
    row: Callable[[Sequence[Word]], str]
    yes: str
    no: str
    full_stop: str
    exercise: str
    given: str
    heading: str
    joint: str
