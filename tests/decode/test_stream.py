"""Tests of text: stop texts that never leak, whole characters, and the same text whole and in pieces."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import jax
import pytest

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import stream
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

SAMPLING = config_lib.Sampling(temperature=1.0, top_k=0, top_p=1.0)
GENERATION = config_lib.Generation(max_new_tokens=32, stop_ids=(), seed=4)


@pytest.fixture(scope="module")
def tokenizer(english_pieces: Path) -> processor.Tokenizer:
    """A few hundred pieces, 256 of them bytes."""
    return processor.Tokenizer.load(english_pieces)


@pytest.fixture(scope="module")
def model(tokenizer: processor.Tokenizer) -> tuple[model_config.LlamaConfig, dict[str, Any]]:
    """A random model of that vocabulary, which writes letters and raw bytes in no order."""
    config = model_config.named("micro", vocab_size=tokenizer.vocab_size, max_position_embeddings=64)
    return config, {"params": llama.init(config, jax.random.key(0))}


class Letters:
    """A tokenizer of the 26 letters, for tests of stop texts alone."""

    def stream(self, *, after: object) -> "Letters":
        """A decoder is a tokenizer here."""
        return self

    def push(self, number: int) -> str:
        """The letter."""
        return chr(ord("a") + number)

    def flush(self) -> str:
        """Letters never wait."""
        return ""


def write(text: str, stop: list[str]) -> tuple[list[str], stream.Writer]:
    writer = stream.Writer(Letters(), stop=stop)  # type: ignore[arg-type]
    return [*(writer.push(ord(letter) - ord("a")) for letter in text), writer.flush()], writer


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello", [], "hello"),
        ("hello", ["x"], "hello"),
        ("hello", ["l"], "he"),
        ("hello", ["lo", "ll"], "he"),
        ("hello", ["lop"], "hello"),
        ("aaab", ["aab"], "a"),
        ("xabcd", ["abcd", "bc"], "xa"),
        ("xabc", ["abc", "bc"], "x"),
        ("abab", ["abab", "b"], "a"),
    ],
)
def test_a_stop_text_ends_the_text_before_it(text: str, stop: list[str], expected: str) -> None:
    pieces, writer = write(text, stop)
    assert "".join(pieces) == expected
    assert writer.stopped == (expected != text)
    if writer.stopped:
        assert writer.push(3) == writer.flush() == ""


def test_only_what_may_begin_a_stop_text_waits() -> None:
    assert write("abcxyzab", ["abcd", "zq"])[0] == ["", "", "", "abcx", "y", "", "z", "", "ab"]


def test_where_a_text_ends_does_not_depend_on_the_pieces() -> None:
    """Random texts over two letters, where stop texts overlap all the time, against a search at every letter."""
    rng = random.Random(0)
    for _ in range(2_000):
        text = "".join(rng.choices("ab", k=rng.randint(0, 12)))
        stop = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        ends = [(n, -len(word)) for n in range(len(text) + 1) for word in stop if text[:n].endswith(word)]
        expected = text[: sum(min(ends))] if ends else text

        pieces, shown = [], ""
        rest = text
        while rest:
            n = rng.randint(1, 4)
            pieces.append(rest[:n])
            rest = rest[n:]
        writer = stream.Writer(Letters(), stop=stop)  # type: ignore[arg-type]
        for piece in pieces:
            shown += "" if writer.stopped else writer._release(piece)
            assert expected.startswith(shown)
        assert shown + writer.flush() == expected
        assert "".join(write(text, stop)[0]) == expected


def test_pieces_join_to_the_whole_text(tokenizer: processor.Tokenizer, model: tuple[model_config.LlamaConfig, dict[str, Any]]) -> None:
    prompts = [tokenizer.encode("The dog", bos=True), tokenizer.encode("敏捷的狐狸", bos=True)]
    arguments: dict[str, Any] = {"sampling": SAMPLING, "generation": GENERATION}
    for continuation in (False, True):
        whole = stream.complete(*model, tokenizer, prompts, continuation=continuation, **arguments)
        for prompt, completion in zip(prompts, whole, strict=True):
            assert len(completion.ids) == 32
            assert completion.finish_reason == "length"
            assert completion.text == tokenizer.decode(completion.ids, after=prompt if continuation else ())
        for steps in (1, 7, 50):
            pieces = stream.stream(*model, tokenizer, prompts[0], continuation=continuation, steps=steps, **arguments)
            shown = []
            while True:
                try:
                    shown.append(next(pieces))
                except StopIteration as end:
                    assert end.value == whole[0]
                    break
            assert "".join(shown) == whole[0].text
            assert all(shown)


@pytest.mark.parametrize("stop", [(), ("never written",)])
def test_progress_counts_prompts(
    tokenizer: processor.Tokenizer, model: tuple[model_config.LlamaConfig, dict[str, Any]], stop: tuple[str, ...]
) -> None:
    seen: list[tuple[int, int]] = []
    generation = dataclasses.replace(GENERATION, max_new_tokens=2, batch_size=2, stop=stop)
    prompts = [tokenizer.encode(text, bos=True) for text in ("The dog", "A", "Rivers run to")]
    stream.complete(
        *model, tokenizer, prompts, sampling=SAMPLING, generation=generation, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 3), (3, 3)]


def test_text_after_a_stop_text_is_never_shown(
    tokenizer: processor.Tokenizer, model: tuple[model_config.LlamaConfig, dict[str, Any]]
) -> None:
    prompts = [tokenizer.encode(text, bos=True) for text in ("The dog", "A", "Rivers run to")]
    free = stream.complete(*model, tokenizer, prompts, sampling=SAMPLING, generation=GENERATION)
    stop = (free[0].text[9:12], free[1].text[20:22])
    generation = dataclasses.replace(GENERATION, stop=stop)
    got = stream.complete(*model, tokenizer, prompts, sampling=SAMPLING, generation=generation)
    for before, after in zip(free, got, strict=True):
        cut = stream.stop_at(before.text, stop)
        assert after.text == before.text[:cut]
        assert after.finish_reason == ("length" if cut is None else "stop")
        assert after.ids == before.ids[: len(after.ids)]
        if cut is not None:
            assert stream.stop_at(tokenizer.decode(after.ids), stop) == cut, "the ids spell the stop text"
            before_last = "".join(map(tokenizer.stream().push, after.ids[:-1]))
            assert stream.stop_at(before_last, stop) is None, "and nothing after it"
    assert got[0].finish_reason == got[1].finish_reason == "stop"
    pieces = list(stream.stream(*model, tokenizer, prompts[0], sampling=SAMPLING, generation=generation, steps=3))
    assert "".join(pieces) == got[0].text


def test_a_tokenizer_of_another_model_is_refused(
    tokenizer: processor.Tokenizer, model: tuple[model_config.LlamaConfig, dict[str, Any]]
) -> None:
    config, weights = model
    other = config.replace(vocab_size=config.vocab_size + 1, base_vocab_size=config.vocab_size)
    with pytest.raises(ValueError, match=f"the tokenizer has {tokenizer.vocab_size} pieces but the model {other.vocab_size} rows"):
        stream.complete(other, weights, tokenizer, [[1]], sampling=SAMPLING, generation=GENERATION)
    with pytest.raises(ValueError, match="the tokenizer has"):
        next(stream.stream(other, weights, tokenizer, [1], sampling=SAMPLING, generation=GENERATION))
