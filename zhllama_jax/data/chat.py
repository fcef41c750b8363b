"""Instructions and answers as token ids, the same in training and in use.

A prompt is a template's `head`, then per turn `opening`, instruction, `closing`, answer, `between`. The
instruction of a row with an input is instruction, newline, input.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from zhllama_jax import files, lines, templates
from zhllama_jax.data import clean, pack
from zhllama_jax.tokenizer import processor

SUFFIXES = (".json", ".jsonl")
MAX_JSON_BYTES = 4 << 30
MAX_PROBLEMS = 5


@dataclasses.dataclass(frozen=True)
class SftExample:
    """One row of an instruction file; `history` holds earlier (instruction, answer) turns."""

    instruction: str
    input: str
    output: str
    history: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        """Instruction and input, joined by a newline."""
        return join_input(self.instruction, self.input)


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
    history: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The ids, from BOS on, that a model continues with its answer.

    Joined prompts are rendered turn by turn: the ids of a conversation are a prefix of those of the
    same conversation with one turn more (answers stand without EOS, as in the original). Faithful
    ones are tokenised as one text.

    Args:
      tokenizer: the model's.
      instruction: the last turn's.
      input: appended to it after a newline.
      template: a name in `templates.TEMPLATES`.
      boundary: "joined" or "faithful"; see the module.
      history: earlier (instruction, answer) turns, inputs joined already.
    """
    form = templates.named(template)
    questions = [*(question for question, _ in history), join_input(instruction, input)]
    if boundary == "faithful":
        text = form.head
        for question, answer in history:
            text += form.opening + question + form.closing + answer + form.between
        return tokenizer.encode(text + form.opening + questions[-1] + form.closing, bos=True)
    closing = form.closing.rstrip(" ")
    ids = tokenizer.encode(form.head + form.opening + questions[0] + closing, bos=True)
    for (_, answer), question in zip(history, questions[1:], strict=True):
        ids += _answer(tokenizer, form, answer)
        ids += _continuation(tokenizer, form.between + form.opening + question + closing)
    return ids


def render_example(
    tokenizer: processor.Tokenizer,
    example: SftExample,
    *,
    template: str = "alpaca",
    boundary: templates.Boundary = "joined",
    max_tokens: int | None = None,
    overlong: Literal["cut", "drop"] = "cut",
) -> pack.Example | None:
    """Prompt, answer and EOS as ids, with the loss on answer and EOS.

    Args:
      tokenizer: the model's.
      example: the row; earlier turns are read, the last answer is learnt.
      template: a name in `templates.TEMPLATES`.
      boundary: "joined" or "faithful"; see the module.
      max_tokens: the longest example, EOS included; None for no limit.
      overlong: "cut" cuts a longer answer at its end, which then has no EOS (the text does not end there); "drop" gives None.

    Returns:
      The example, or None where no answer would be left to learn: the prompt fills `max_tokens`, or the answer is empty.
    """
    prompt = render_prompt(tokenizer, example.question, template=template, boundary=boundary, history=example.history)
    if not example.output:
        return None
    answer = tokenizer.encode(example.output) if boundary == "faithful" else _answer(tokenizer, templates.named(template), example.output)
    tokens = [*prompt, *answer, tokenizer.eos_id]
    if max_tokens is not None and len(tokens) > max_tokens:
        if overlong == "drop" or len(prompt) >= max_tokens:
            return None
        tokens = tokens[:max_tokens]
    return pack.Example(tokens, [0] * len(prompt) + [1] * (len(tokens) - len(prompt)))


def read_sft(path: str | Path, *, repairs: Counter[str] | None = None) -> Iterator[SftExample]:
    """Yields the rows of an Alpaca file: a `.json` list, or `.jsonl` with one object a line.

    A row holds strings under `instruction` and `output`, may hold one under `input` (or null) and a
    list of [instruction, answer] pairs under `history`; other keys are not read.

    Args:
      path: the file.
      repairs: counts the rows whose text was repaired, by kind (see `clean.repair`).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file or rows of it have another form; the message names the first `MAX_PROBLEMS` of them.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: instruction rows come as .json (a list) or .jsonl (one object a line)")
    rows: Iterator[tuple[str, Any]]
    if path.suffix.lower() == ".jsonl":
        rows = ((f"{path}:{number}", row) for number, row in lines.objects(path))
    else:
        value = files.read_json(path, what="a list of instruction rows", max_bytes=MAX_JSON_BYTES)
        if not isinstance(value, list):
            raise ValueError(f"{path}: expected a list of rows with instruction, input and output")
        rows = ((f"{path}: row {number}", row) for number, row in enumerate(value))
    problems: list[str] = []
    for where, row in rows:
        wrong = _row_problems(row)
        if wrong:
            problems.append(f"{where}: {wrong}")
            if len(problems) == MAX_PROBLEMS:
                break
        elif not problems:
            yield _example(row, Counter() if repairs is None else repairs)
    if problems:
        raise ValueError("; ".join(problems))


def _answer(tokenizer: processor.Tokenizer, form: templates.Template, answer: str) -> list[int]:
    """The ids of an answer after a joined prompt, the blank that ends the template's closing in front."""
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


def _row_problems(row: Any) -> str:
    """What is wrong with a row, or nothing."""
    if not isinstance(row, dict):
        return "expected an object with instruction, input and output"
    missing = [key for key in ("instruction", "output") if key not in row]
    if missing:
        return f"no {' and no '.join(missing)} (the row has {', '.join(map(repr, row)) or 'no keys'})"
    strange = [key for key in ("instruction", "output") if not isinstance(row[key], str)]
    strange += ["input"] if not isinstance(row.get("input"), str | None) else []
    if strange:
        return f"{' and '.join(strange)} must hold a string"
    turns = row.get("history")
    if turns is None:
        return ""
    if not isinstance(turns, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn) for turn in turns
    ):
        return "history must hold a list of [instruction, answer] pairs"
    return ""


def _example(row: dict[str, Any], repairs: Counter[str]) -> SftExample:
    """A row without problems as an example, its texts repaired; each kind of repair counts once a row."""
    kinds: set[str] = set()

    def repaired(text: str) -> str:
        result = clean.repair(text)
        kinds.update(result.repairs)
        return result.text

    history = tuple((repaired(question), repaired(answer)) for question, answer in row.get("history") or ())
    example = SftExample(repaired(row["instruction"]), repaired(row.get("input") or ""), repaired(row["output"]), history)
    repairs.update(kinds)
    return example
