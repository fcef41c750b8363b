"""Instruction rows and conversations out of files, in the forms that people hold them in.

    alpaca      {"instruction": …, "input": …, "output": …, "system": …, "history": [[question, answer], …]}
    sharegpt    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …], "system": …}
    messages    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]}

Files are `.json` lists or hold one object a line (`.jsonl`, often also named `.json`), packed (.gz, .zst) or not. The form is
seen by its keys, row by row; `columns` names others. Keys that are not named here are not read. The same conversation gives the same
example whatever form carries it.

A conversation is questions and answers in turn, an answer last, none empty, a system text first or nowhere. What is not so (and calls
of tools, which are not learnt) stops the reading with one sentence that names the first `MAX_PROBLEMS` rows of a file, or, with
`on_error: skip`, is counted by kind: "malformed", "unknown_role", "tool_call", "out_of_order", "empty_turn", "no_answer", "no_system".
An empty `output` of Alpaca's form is no fault: such rows are left out, and counted, when they are rendered.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from zhllama_jax import lines, templates
from zhllama_jax.data import chat, clean, config, documents, pack
from zhllama_jax.tokenizer import processor

Form = Literal["alpaca", "sharegpt", "messages"]
Use = Literal["train", "held_out", "dropped_held_out"]

SUFFIXES = (".json", ".jsonl")
MAX_PROBLEMS = 5

TEXTS = 'texts without questions are read from .jsonl files with one {"text": …} a line, and from .txt files'
"""Where lists of texts belong."""

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_OF_TOOLS = ("tool", "function", "tool_call", "tool_calls", "tool_response", "function_call", "observation")


class Found(NamedTuple):
    """A row and where it stood.

    Attributes:
      example: the row.
      source: the file.
      line: its line, from 1, or, in a `.json` list, its number, from 0.
      form: what it was written in.
    """

    example: chat.SftExample
    source: str
    line: int
    form: Form


@dataclasses.dataclass
class Tally(documents.Tally):
    """Counts of what was read.

    Attributes:
      forms: rows of each form, by the file's name; faults and repairs are not among them.
    """

    forms: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)


def read(data: config.SftData, paths: Sequence[str | Path], *, tally: Tally | None = None) -> Iterator[Found]:
    """Yields the rows of files in order.

    Args:
      data: says the keys, the template (which must have a place for system texts) and what becomes of faults.
      paths: files, directories or glob patterns.
      tally: counts rows, repairs and what was left out.

    Raises:
      FileNotFoundError: an entry of `paths` names nothing.
      ValueError: a file has another form, or, when strict, rows of it have faults.
    """
    tally = Tally() if tally is None else tally
    for path in documents.expand(paths, suffixes=SUFFIXES):
        forms = tally.forms.setdefault(path.name, Counter())
        problems: dict[str, list[int]] = {}
        rows = _Rows(path)
        for line, row in rows.read(data.on_error, tally):
            try:
                example, form = parse(row, data.columns)
                if example.system and not templates.named(data.template).head:
                    raise Fault("no_system", templates.no_system(data.template))
            except Fault as fault:
                if data.on_error == "skip":
                    tally.note(fault.kind, str(path), line)
                    continue
                problems.setdefault(str(fault), []).append(line)
                if sum(map(len, problems.values())) == MAX_PROBLEMS:
                    break
                continue
            if not problems:
                example, repairs = _repaired(example)
                for kind in repairs:
                    tally.note(kind, str(path), line)
                forms[form] += 1
                yield Found(example, str(path), line, form)
        if problems:
            told = [f"{rows.place(numbers)}: {reason}" for reason, numbers in problems.items()]
            raise ValueError(f"{'; '.join(told)} {documents.SKIP}")


def opening(example: chat.SftExample) -> str:
    """What a conversation is known by, its first question: conversations that begin alike are held out, or learnt from, together."""
    return example.turns[0][0]


def is_held_out(example: chat.SftExample, data: config.SftData) -> bool:
    """Whether a row of `data.files` belongs to validation, by the hash of its first question."""
    return documents.is_held_out(opening(example), data.held_out, data.salt)


def uses(data: config.SftData, others: Sequence[config.SftData] = ()) -> Callable[[chat.SftExample], Use]:
    """Tells of a row of `data.files` if it is trained on, held out by the hash, or dropped.

    Dropped is what begins like a row of the validation files, or like one that `others`, instructions used together with these, hold out.

    Raises:
      FileNotFoundError, ValueError: see `read`, of the validation files and of the others' files.
    """
    holding = dict.fromkeys([*([data] if data.validation_files else []), *config.holding_more(data, others)])
    apart = {_digest(found.example) for each in holding for found in held_out(each)}

    def use(example: chat.SftExample) -> Use:
        if data.held_out and is_held_out(example, data):
            return "held_out"
        return "dropped_held_out" if apart and _digest(example) in apart else "train"

    return use


def _digest(example: chat.SftExample) -> bytes:
    """A digest of what a conversation begins with, for sets of many."""
    return hashlib.blake2b(opening(example).encode(), digest_size=16).digest()


def held_out(data: config.SftData, *, tally: Tally | None = None) -> Iterator[Found]:
    """The held-out rows, in order: those of the validation files, or those that the hash chooses.

    Raises:
      FileNotFoundError, ValueError: see `read`.
    """
    for found in read(data, data.validation_files or data.files, tally=tally):
        if data.validation_files or is_held_out(found.example, data):
            yield found


def render(tokenizer: processor.Tokenizer, example: chat.SftExample, data: config.SftData) -> pack.Example | None:
    """A row's ids and mask as `data` wants them; None where nothing is left to learn (see `chat.render_example`)."""
    # The original's `max_seq_length` counts all tokens of an example; a row here also holds the last one predicted.
    room = data.length if data.boundary == "faithful" else data.length + 1
    return chat.render_example(tokenizer, example, template=data.template, boundary=data.boundary, max_tokens=room, overlong=data.overlong)


class Learnt(NamedTuple):
    """What an example teaches of its row.

    Attributes:
      turns: answers that are learnt.
      turns_cut: answers at the end that did not fit.
      cut: whether the only answer was shortened.
      characters: of the answers that are learnt.
    """

    turns: int
    turns_cut: int
    cut: bool
    characters: int


def learnt(tokenizer: processor.Tokenizer, row: chat.SftExample, example: pack.Example) -> Learnt:
    """What the rendered `example` of a row teaches."""
    cut = example.tokens[-1] != tokenizer.eos_id
    turns = 1 if cut else sum(learns and token == tokenizer.eos_id for token, learns in zip(*example, strict=True))
    answers = [tokenizer.decode(example.tokens[example.loss_mask.index(1) :])] if cut else [answer for _, answer in row.turns]
    return Learnt(turns, len(row.turns) - turns, cut, sum(map(len, answers[:turns])))


class Fault(ValueError):
    """What is wrong with a row.

    Attributes:
      kind: the word it is counted under.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def parse(row: Any, columns: config.Columns) -> tuple[chat.SftExample, Form]:
    """The example that a row holds, as it was written, and the form it was written in.

    Raises:
      Fault: it holds none.
    """
    if not isinstance(row, dict):
        text = f"; {TEXTS}" if isinstance(row, str) else ""
        raise Fault("malformed", f"expected an object with instruction, input and output, or with conversations or messages{text}")
    if row.get("tools") not in (None, "", "[]", []):
        raise Fault("tool_call", "the row offers tools: calls of tools are not learnt")
    system = row.get(columns.system)
    if not isinstance(system, str | None):
        raise Fault("malformed", f"{columns.system} must hold a string")
    key = _conversation(row, columns)
    if key is not None:
        return _dialogue(row[key], key, system or "")
    missing = [name for name in (columns.prompt, columns.response) if name not in row]
    if missing:
        there = ", ".join(map(repr, row)) or "no keys"
        remedy = TEXTS if list(row) == ["text"] else "let `columns` say which key holds what"
        raise Fault("malformed", f"no {' and no '.join(missing)} (the row has {there}): {remedy}")
    strange = [name for name in (columns.prompt, columns.response) if not isinstance(row[name], str)]
    strange += [columns.query] if not isinstance(row.get(columns.query), str | None) else []
    if strange:
        raise Fault("malformed", f"{' and '.join(strange)} must hold a string")
    history = _history(row.get(columns.history), columns.history)
    question = chat.join_input(row[columns.prompt], row.get(columns.query) or "")
    if not question.strip():
        raise Fault("empty_turn", f"turn {len(history) + 1} asks nothing: {columns.prompt} and {columns.query} are empty")
    return chat.SftExample(row[columns.prompt], row.get(columns.query) or "", row[columns.response], history, system or ""), "alpaca"


class _Rows:
    """The rows of a `.json` list, numbered from 0, or of a file with one object a line, from 1."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listed = lines.is_list(path)

    def place(self, numbers: Sequence[int]) -> str:
        """Where rows stand."""
        named = ", ".join(map(str, numbers))
        return f"{self._path}: row{'s' * (len(numbers) > 1)} {named}" if self._listed else f"{self._path}:{named}"

    def read(self, on_error: config.OnError, tally: Tally) -> Iterator[tuple[int, Any]]:
        """(number, row) of each."""
        if not self._listed:
            yield from documents.objects(self._path, on_error=on_error, tally=tally)
            return
        yield from enumerate(lines.listed(self._path))


def _conversation(row: dict[str, Any], columns: config.Columns) -> str | None:
    """The key of a row's conversation; None where it is of Alpaca's form."""
    if columns.messages is not None:
        return columns.messages if columns.messages in row else None
    keys = [key for key in ("conversations", "messages") if row.get(key) is not None]
    if keys and columns.prompt in row and columns.response in row:
        if (columns.prompt, columns.response) != (config.Columns.prompt, config.Columns.response):
            return None
        keys.append(columns.prompt)
    if len(keys) > 1:
        raise Fault("malformed", f"{' and '.join(keys)} both stand in the row: let `columns` say which one is meant")
    return keys[0] if keys else None


def _history(value: Any, key: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a row's history."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn) for turn in value
    ):
        raise Fault("malformed", f"{key} must hold a list of [instruction, answer] pairs")
    empty = [number for number, turn in enumerate(value, start=1) if not all(part.strip() for part in turn)]
    if empty:
        raise Fault("empty_turn", f"turn {empty[0]} (in {key}) asks or answers nothing")
    return tuple((question, answer) for question, answer in value)


def _dialogue(value: Any, key: str, system: str) -> tuple[chat.SftExample, Form]:
    """A list of turns as an example; `system` is what stands beside the list."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise Fault("malformed", f"{key} must hold a list of turns, each an object")
    form: Form = "sharegpt" if "from" in value[0] else "messages"
    said: list[tuple[str, str]] = [_turn(turn, number, key) for number, turn in enumerate(value, start=1)]
    first = 0
    if said[0][0] == "system":
        if system and system != said[0][1]:
            raise Fault("malformed", f"a system text stands in {key} and another one beside it")
        system, first = said[0][1], 1
    for number, (role, text) in enumerate(said[first:], start=first + 1):
        wanted = "assistant" if (number - first) % 2 == 0 else "user"
        if role != wanted:
            raise Fault("out_of_order", f"turn {number} of {key} is the {role}'s where the {wanted}'s must stand")
        if not text.strip():
            raise Fault("empty_turn", f"turn {number} of {key}, the {role}'s, is empty")
    if len(said) == first:
        raise Fault("no_answer", f"{key} holds nothing but a system text")
    if said[-1][0] == "user":
        raise Fault("no_answer", f"{key} ends with a question of the user's: the answer is missing")
    texts = [text for _, text in said[first:]]
    pairs = tuple(zip(texts[::2], texts[1::2], strict=True))
    return chat.SftExample(pairs[-1][0], "", pairs[-1][1], pairs[:-1], system), form


def _turn(turn: dict[str, Any], number: int, key: str) -> tuple[str, str]:
    """(role, text) of a turn."""
    name = turn.get("from", turn.get("role"))
    if name in _OF_TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        raise Fault("tool_call", f"turn {number} of {key} calls a tool or answers as one: calls of tools are not learnt")
    if not isinstance(name, str) or name not in _ROLES:
        allowed = "user or human, assistant or gpt, system"
        raise Fault("unknown_role", f"turn {number} of {key} has the role {name!r}, expected {allowed} under role or from")
    text = turn.get("value", turn.get("content"))
    if not isinstance(text, str):
        raise Fault("malformed", f"turn {number} of {key} must hold a string under content or value")
    return _ROLES[name], text


def _repaired(example: chat.SftExample) -> tuple[chat.SftExample, list[str]]:
    """An example with its texts repaired, and the kinds of repairs, each once."""
    kinds: dict[str, None] = {}

    def repaired(text: str) -> str:
        result = clean.repair(text)
        kinds.update(dict.fromkeys(result.repairs))
        return result.text

    history = tuple((repaired(question), repaired(answer)) for question, answer in example.history)
    instruction, extra, output, system = map(repaired, (example.instruction, example.input, example.output, example.system))
    return chat.SftExample(instruction, extra, output, history, system), list(kinds)
