"""A conversation by lines: answers on standard output, the rest on standard error."""

import dataclasses
import io
import sys
from pathlib import Path

import pytest

from zhllama_jax.cli import chat as chat_verb
from zhllama_jax.cli import program, ready
from zhllama_jax.data import chat
from zhllama_jax.decode import config as decode_config
from zhllama_jax.decode import stream


def talk(model: Path, text: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return program.run(["chat", "--model", str(model), "--max_new_tokens", "5", "--temperature", "0", *words])


def answer(model: Path, question: str, history: list[tuple[str, str]]) -> str:
    loaded = ready.load(model)
    sampling, generation = decode_config.resolve({"max_new_tokens": 5, "temperature": 0}, loaded.generation)
    ids = chat.render_prompt(loaded.tokenizer, question, history=history)
    [found] = stream.complete(loaded.config, loaded.weights, loaded.tokenizer, [ids], sampling=sampling, generation=generation)
    return found.text


def test_earlier_turns_are_part_of_the_prompt(
    tuned_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(tuned_model, "Hello\n\nAgain\n", monkeypatch) == 0
    first = answer(tuned_model, "Hello", [])
    second = answer(tuned_model, "Again", [("Hello", first)])
    assert capsys.readouterr() == (f"{first}\n{second}\n", "")


def test_clear_forgets_and_exit_ends(tuned_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(tuned_model, "Hello\n/clear\nAgain\n/exit\nnever\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == f"{answer(tuned_model, 'Hello', [])}\n{answer(tuned_model, 'Again', [])}\n"
    assert "forgotten" in err


def test_the_oldest_turn_goes_first_when_the_context_is_full(
    tuned_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(tuned_model, "one two three four\n" * 4, monkeypatch) == 0
    assert "the oldest turn no longer fits" in capsys.readouterr().err


def test_room_for_a_long_answer_takes_half_of_the_context_at_most(tuned_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With as many new tokens as the context holds, every second question would forget the one before."""
    loaded = ready.load(tuned_model)
    loaded = dataclasses.replace(loaded, config=loaded.config.replace(max_position_embeddings=1024))
    _, generation = decode_config.resolve({"max_new_tokens": 1024}, loaded.generation)
    history = [("a", "b")]
    ids = chat_verb._fit(loaded, "c", history, generation)
    assert history == [("a", "b")] and not capsys.readouterr().err
    assert ids == chat.render_prompt(loaded.tokenizer, "c", history=history)
    history = [("a", "b"), ("word " * 300, "b"), ("a", "b")]
    ids = chat_verb._fit(loaded, "c", history, generation)
    assert history == [("a", "b")] and ids is not None and len(ids) <= 512


def test_a_line_that_is_too_long_ends_nothing(
    tuned_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, no turn is forgotten for it, and the next question is answered."""
    assert talk(tuned_model, f"Hello\n{'long ' * 400}\nAgain\n", monkeypatch) == 0
    first = answer(tuned_model, "Hello", [])
    out, err = capsys.readouterr()
    assert out == f"{first}\n{answer(tuned_model, 'Again', [('Hello', first)])}\n"
    assert "leave no room in the context of 256" in err and "forgotten" not in err and "error" not in err


def test_a_base_model_is_refused(base_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(base_model, "Hello\n", monkeypatch) == 1
    assert "does not say how it was tuned on instructions" in capsys.readouterr().err
    assert talk(base_model, "Hello\n", monkeypatch, "--template", "alpaca") == 0


def test_a_model_of_conversations_is_asked_with_the_ends_of_answers(tuned_model: Path) -> None:
    loaded = ready.load(tuned_model)
    loaded = dataclasses.replace(loaded, turns="closed", config=loaded.config.replace(max_position_embeddings=1024))
    _, generation = decode_config.resolve({}, loaded.generation)
    ids = chat_verb._fit(loaded, "c", [("a", "b")], generation)
    assert ids == chat.render_prompt(loaded.tokenizer, "c", history=[("a", "b")], turns="closed")
    assert ids.count(loaded.tokenizer.eos_id) == 1


def test_an_unknown_command_is_not_sent_to_the_model(
    tuned_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(tuned_model, "/help\n/bye\n", monkeypatch) == 0
    assert capsys.readouterr() == ("", "".join(f"({word} is no command: there are /clear and /exit)\n" for word in ("/help", "/bye")))


def test_a_system_text_stands_before_every_turn(tuned_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, asked = ready.load(tuned_model), []

    def found(config: object, weights: object, tokenizer: object, ids: list[int], **how: object) -> list[str]:
        asked.append(loaded.tokenizer.decode(ids))
        return ["yes"]

    monkeypatch.setattr(stream, "stream", found)
    assert talk(tuned_model, "Hello\nAgain\n", monkeypatch, "--system", "Be brief.") == 0
    assert [text.startswith("Be brief.\n\n### Instruction:\nHello") for text in asked] == [True, True]
    assert "yes" in asked[1] and asked[1].count("Be brief.") == 1
    assert talk(tuned_model, "Hello\n", monkeypatch, "--system", "Be brief.", "--template", "none") == 1
