"""Instructions and answers as token ids, the same in training and in use.

A prompt is a template's `head` (or a system text in its place), then per turn `opening`, instruction,
`closing`, answer, `between`. The instruction of a row with an input is instruction, newline, input.

A conversation is learnt in one go: every answer with an EOS behind it, each from all that stands before it.

    <s>…### Instruction:\n一加一\n\n### Response: 二 </s>\n\n### Instruction:\n再加一\n\n### Response: 三 </s>
    loss 0 ……………………………………………………………  1 1     0 …………………………………………………………………………  1 1

So a model that has learnt conversations is asked with EOS behind the earlier answers (turns "closed", which its
directory records), one that has learnt single answers without, as the original's were ("open"). Behind EOS a text of
its own begins, with the blank that LLaMA's tokenizer puts before every text, as transformers and llama.cpp have it.

How prompt and answer meet (`boundary`) must be the same when the model is trained and when it is asked:

joined (the default)
    Prompt and answer read as one text would: the blank that ends the prompt belongs to the answer,
    as blanks do in LLaMA's pieces. The prompt is tokenised without it, the answer with it::

        prompt  "…### Response:"     [1, 13866, …, 13291, 29901]          loss 0
        answer  " 减少污染…"          [29871, 32800, 34377, …]             loss 1, on all of them
        EOS                          [2]                                  loss 1

    The piece 29871 (a blank alone) is the first thing the model learns to say; before "Hello" it
    is part of the piece ▁Hello, and would have been a piece of its own had the prompt kept it. So
    the ids of the prompt are a prefix of those of the example whatever the answer is, and, no
    piece of LLaMA's or of a SentencePiece vocabulary holding text before a blank, the ids are
    those of the text as a whole.

faithful
    As the original Chinese-LLaMA-Alpaca scripts: the prompt keeps its blank and the answer is
    tokenised alone, which puts a blank of its own in front: …29901, 29871 | 29871, 32800, ….

Answers are decoded without regard to the prompt (`tokenizer.decode(ids)`), which drops that first
blank; continuations under the template "none" with it (`decode(ids, after=prompt)`).
Nothing in an instruction or answer can become a control id (`Tokenizer.encode` sees to that).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from zhllama_jax import templates
from zhllama_jax.data import pack
from zhllama_jax.tokenizer import processor


@dataclasses.dataclass(frozen=True)
class SftExample:
    """One row of an instruction file; `history` holds earlier (instruction, answer) turns, inputs joined already."""

    instruction: str
    input: str
    output: str
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""

    @property
    def question(self) -> str:
        """Instruction and input, joined by a newline."""
        return join_input(self.instruction, self.input)

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """All (question, answer) turns, the last one included."""
        return (*self.history, (self.question, self.output))


def join_input(instruction: str, input: str) -> str:
    """Instruction and input, joined by a newline; the instruction alone where there is no input."""
    return f"{instruction}\n{input}" if input else instruction


def render_prompt(
    tokenizer: processor.Tokenizer,
    instruction: str,
    input: str = "",
    *,
    template: str = "alpaca",
    boundary: templates.Boundary = "joined",
    turns: templates.Turns = "open",
    history: Sequence[tuple[str, str]] = (),
    system: str = "",
) -> list[int]:
    """The ids, from BOS on, that a model continues with its answer.

    Closed prompts, and open ones that are joined, are rendered turn by turn: the ids of a conversation are a prefix of those of the
    same conversation with one turn more. Faithful open ones are tokenised as one text.

    Args:
      tokenizer: the model's.
      instruction: the last turn's.
      input: appended to it after a newline.
      template: a name in `templates.TEMPLATES`.
      boundary: "joined" or "faithful"; see the module.
      turns: whether EOS stands behind the answers of `history` ("closed") or not ("open", as in the original).
      history: earlier (instruction, answer) turns, inputs joined already.
      system: takes the place of the template's head.

    Raises:
      ValueError: no such template, or one without a place for `system`.
    """
    form, head = templates.named(template), templates.head(template, system)
    question = join_input(instruction, input)
    if boundary == "faithful" and turns == "open":
        text = "".join(form.opening + asked + form.closing + answer + form.between for asked, answer in history)
        return tokenizer.encode(head + text + form.opening + question + form.closing, bos=True)
    ids = [tokenizer.bos_id]
    for number, (asked, answer) in enumerate(history):
        ids += _question(tokenizer, form, asked, boundary, head=head, turns=turns, first=number == 0)
        ids += _answer(tokenizer, form, answer, boundary)
        ids += [tokenizer.eos_id] if turns == "closed" else []
    return ids + _question(tokenizer, form, question, boundary, head=head, turns=turns, first=not history)


def render_example(
    tokenizer: processor.Tokenizer,
    example: SftExample,
    *,
    template: str = "alpaca",
    boundary: templates.Boundary = "joined",
    max_tokens: int | None = None,
    overlong: Literal["cut", "drop"] = "cut",
) -> pack.Example | None:
    """All turns as ids, with the loss on every answer and the EOS behind it.

    Of a conversation that is too long the last turns are left out, whole, as many as must be, so that what is learnt stands behind
    all that it answers to. Where not even the first turn fits, `overlong` says what becomes of it.

    Args:
      tokenizer: the model's.
      example: the row.
      template: a name in `templates.TEMPLATES`.
      boundary: "joined" or "faithful"; see the module.
      max_tokens: the longest example, EOS included; None for no limit.
      overlong: "cut" cuts the first answer at its end, which then has no EOS (the text does not end there); "drop" gives None.

    Returns:
      The example, or None where no answer would be left to learn: the first prompt fills `max_tokens`, or the last answer is empty.

    Raises:
      ValueError: no such template, or one without a place for the row's system text.
    """
    form, head = templates.named(template), templates.head(template, example.system)
    if not example.output:
        return None
    tokens: list[int] = []
    loss_mask: list[int] = []
    for number, (question, answer) in enumerate(example.turns):
        prompt = [] if number else [tokenizer.bos_id]
        prompt += _question(tokenizer, form, question, boundary, head=head, turns="closed", first=number == 0)
        learnt = [*_answer(tokenizer, form, answer, boundary), tokenizer.eos_id]
        if max_tokens is not None and len(tokens) + len(prompt) + len(learnt) > max_tokens:
            if number:
                break
            if overlong == "drop" or len(prompt) >= max_tokens:
                return None
            learnt = learnt[: max_tokens - len(prompt)]
            return pack.Example([*prompt, *learnt], [0] * len(prompt) + [1] * len(learnt))
        tokens += [*prompt, *learnt]
        loss_mask += [0] * len(prompt) + [1] * len(learnt)
    return pack.Example(tokens, loss_mask)


def _question(
    tokenizer: processor.Tokenizer,
    form: templates.Template,
    question: str,
    boundary: templates.Boundary,
    *,
    head: str,
    turns: templates.Turns,
    first: bool,
) -> list[int]:
    """The ids of a turn up to its answer: behind BOS or EOS a text of its own, behind an open answer the continuation of one."""
    closing = form.closing if boundary == "faithful" else form.closing.rstrip(" ")
    text = (head if first else form.between) + form.opening + question + closing
    return tokenizer.encode(text) if first or turns == "closed" else _continuation(tokenizer, text)


def _answer(tokenizer: processor.Tokenizer, form: templates.Template, answer: str, boundary: templates.Boundary) -> list[int]:
    """The ids of an answer: after a joined prompt with the blank that ends the template's closing in front, else by itself."""
    if boundary == "faithful":
        return tokenizer.encode(answer)
    blank = form.closing[len(form.closing.rstrip(" ")) :]
    return _continuation(tokenizer, blank + answer)


def _continuation(tokenizer: processor.Tokenizer, text: str) -> list[int]:
    """The ids of `text` as it reads behind other text, without the blank that is put before the first word of a text.

    That is, behind a newline, which LLaMA spells as a byte and merges with nothing. A vocabulary that does merge it with
    what follows gets `text` tokenised by itself.
    """
    newline = tokenizer.encode("\n")
    ids = tokenizer.encode("\n" + text)
    return ids[len(newline) :] if ids[: len(newline)] == newline else tokenizer.encode(text)
