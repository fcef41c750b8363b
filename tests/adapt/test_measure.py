"""Answers cost what their own tokens cost, an exam is graded as it is written, and greedy means greedy."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zhllama_jax.adapt import measure
from zhllama_jax.convert import manifest
from zhllama_jax.data import chat
from zhllama_jax.eval import answers, likelihood
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

OPTIONS = llama.Options()
ALPACA = manifest.Prompt("alpaca")
ROWS = [
    chat.SftExample("Count.", "", "one two three"),
    chat.SftExample("Say it.", "the river", "the river runs to the sea 河"),
]


@pytest.fixture(scope="module")
def subject(english_pieces: Path) -> measure.Subject:
    tokenizer = processor.Tokenizer.load(english_pieces)
    config = config_lib.named("micro", vocab_size=tokenizer.vocab_size, max_position_embeddings=256)
    return measure.Subject(config, {"params": llama.init(config, jax.random.key(0))}, tokenizer)


def log_probabilities(subject: measure.Subject, ids: list[int]) -> np.ndarray:
    """ln p [T, V] of what follows each id; padded at the end to one length, which changes nothing before it."""
    padded = np.zeros((1, 256), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(_forward(subject.config, dict(subject.weights), padded))[: len(ids)]


@functools.partial(jax.jit, static_argnums=0)
def _forward(config: config_lib.LlamaConfig, weights: Any, tokens_BT: Any) -> Any:
    x_BTD, _ = llama.hidden_states(config, weights, tokens_BT)
    return jax.nn.log_softmax(llama.logits(config, weights["params"], x_BTD)[0])


def test_answers_are_scored_and_prompts_only_condition(subject: measure.Subject) -> None:
    nats = 0.0
    for row in ROWS:
        example = chat.render_example(subject.tokenizer, row)
        assert example is not None
        log_p_TV = log_probabilities(subject, list(example.tokens))
        start = len(chat.render_prompt(subject.tokenizer, row.instruction, row.input))
        nats -= sum(float(log_p_TV[position - 1, example.tokens[position]]) for position in range(start, len(example.tokens)))
    found = measure.answer_bits_per_character(subject, ROWS, prompt=ALPACA, length=256, options=OPTIONS)
    characters = sum(len(row.output) for row in ROWS)
    assert (found["rows"], found["characters"]) == (2, characters)
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, rel=1e-5)


def test_rows_longer_than_a_window_are_scored_whole(subject: measure.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a vocabulary that spells longer is measured on the same answers."""
    scored: list[likelihood.Passage] = []
    monkeypatch.setattr(likelihood, "total_nats", lambda config, weights, passages, **rest: scored.extend(passages) or 1.0)
    found = measure.answer_bits_per_character(subject, ROWS, prompt=ALPACA, length=8, options=OPTIONS)
    assert (found["rows"], found["characters"]) == (2, sum(len(row.output) for row in ROWS))
    for row, passage in zip(ROWS, scored, strict=True):
        answer = [id_ for id_, counts in zip(passage.ids, passage.scored, strict=True) if counts]
        assert answer[-1] == subject.tokenizer.eos_id
        assert subject.tokenizer.decode(answer) == row.output


def test_rows_without_an_answer_are_passed_over_or_refused(subject: measure.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "total_nats", lambda *given, **rest: 1.0)
    mute = chat.SftExample("Say nothing.", "", "")
    found = measure.answer_bits_per_character(subject, [mute, ROWS[0]], prompt=ALPACA, length=64, options=OPTIONS)
    assert (found["rows"], found["characters"]) == (1, len(ROWS[0].output))
    with pytest.raises(ValueError, match="every held-out instruction has an empty answer"):
        measure.answer_bits_per_character(subject, [mute], prompt=ALPACA, length=64, options=OPTIONS)


def test_answers_are_greedy_and_in_order(subject: measure.Subject) -> None:
    """Against the plain loop, each question by itself."""
    questions = [("Count.", ""), ("Say it.", "the river runs"), ("Go on and on.", "")]
    found = measure.ask(subject, questions, prompt=ALPACA, max_new_tokens=3, options=OPTIONS)
    for (instruction, text), answer in zip(questions, found, strict=True):
        ids = chat.render_prompt(subject.tokenizer, instruction, text)
        start = len(ids)
        while len(ids) < start + 3 and (len(ids) == start or ids[-1] != subject.tokenizer.eos_id):
            ids.append(int(log_probabilities(subject, ids)[-1].argmax()))
        assert answer == subject.tokenizer.decode(ids[start:]).strip()


def test_an_exam_counts_by_task_and_keeps_the_first_wrong_answers(subject: measure.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [answers.Question(f"Say {number}.", "", str(number), "even" if number % 2 == 0 else "odd") for number in range(60)]
    asked: dict[str, Any] = {}

    def ask(subject: measure.Subject, questions: list[tuple[str, str]], **rest: Any) -> list[str]:
        asked.update(rest, questions=questions)
        return [f" {number}\n" if number % 2 == 0 else "even" for number in range(60)]

    monkeypatch.setattr(measure, "ask", ask)
    found = measure.exam(subject, questions, prompt=ALPACA, max_new_tokens=7, options=OPTIONS)
    assert (asked["prompt"], asked["max_new_tokens"], asked["questions"][3]) == (ALPACA, 7, ("Say 3.", ""))
    assert (found["right"], found["exact"], found["most_frequent"]) == (30, 0.5, 1 / 60)
    assert found["by_task"] == {"even": (30, 30), "odd": (0, 30)}
    assert [one["wanted"] for one in found["wrong"]] == [str(number) for number in range(1, 41, 2)]
    assert found["wrong"][0] == {"instruction": "Say 1.", "input": "", "wanted": "1", "given": "even"}


def test_each_text_is_scored_by_itself(subject: measure.Subject) -> None:
    texts = {"one": ["the river runs"], "two": ["to the sea", "河"]}
    found = measure.bits_per_character(subject, texts, length=64, options=OPTIONS)
    assert {name: (score["documents"], score["characters"]) for name, score in found.items()} == {"one": (1, 14), "two": (2, 11)}
    alone = measure.bits_per_character(subject, {"two": texts["two"]}, length=64, options=OPTIONS)
    assert alone["two"] == found["two"]
