"""Bits per character: every token once, equal to the plain sum, blind to padding and window size where it must be."""

import math

import jax
import numpy as np
import pytest

from zhllama_jax.eval import likelihood
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, rope_config


class Letters:
    """A tokenizer of one id a character, with BOS 1."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def encode_batch(self, texts, *, bos):
        return [[1] * bos + [3 + ord(letter) % (self.vocab_size - 3) for letter in text] for text in texts]


@pytest.fixture(scope="module")
def model():
    config = config_lib.named("micro", vocab_size=300, base_vocab_size=200, max_position_embeddings=16)
    return config, {"params": llama.init(config, jax.random.key(0))}


def plain_nats(config, weights, ids):
    logits = llama.logits(config, weights["params"], llama.hidden_states(config, weights, np.array([ids[:-1]], np.int32))[0])
    log_p = jax.nn.log_softmax(logits[0])
    return -sum(float(log_p[position, target]) for position, target in enumerate(ids[1:]))


def test_score_is_the_plain_sum_over_texts_that_fit(model):
    config, weights = model
    texts = ["short", "一些字", "fifteen letters"]
    tokenizer = Letters(config.vocab_size)
    expected = sum(plain_nats(config, weights, ids) for ids in tokenizer.encode_batch(texts, bos=True))
    for batch in (1, 2, 8):
        result = likelihood.score(config, weights, tokenizer, [*texts, ""], batch=batch)
        assert math.isclose(result.nats, expected, rel_tol=1e-5)
    assert (result.documents, result.characters, result.tokens) == (3, 23, 23)
    assert result.bytes == 5 + 9 + 15
    assert math.isclose(result.bits_per_character, expected / math.log(2) / 23, rel_tol=1e-5)


def test_windows_reach_as_far_as_the_scaling_and_padding_does_not_lengthen_a_text(model):
    """Under dynamic scaling a padded row of 32 would turn a text of 20 like one of 32."""
    config, weights = model
    config = config.replace(rope_scaling=rope_config.RopeScaling("dynamic", 2))
    texts = ["a text of twenty ids", "short"]
    expected = sum(plain_nats(config, weights, ids) for ids in Letters(config.vocab_size).encode_batch(texts, bos=True))
    result = likelihood.score(config, weights, Letters(config.vocab_size), texts, length=99)
    assert math.isclose(result.nats, expected, rel_tol=1e-5)
    assert not math.isclose(result.nats, likelihood.score(config, weights, Letters(config.vocab_size), texts).nats, rel_tol=1e-4)


def test_progress_counts_windows_up_to_all_of_them(model):
    config, weights = model
    seen = []
    tokenizer = Letters(config.vocab_size)
    likelihood.score(config, weights, tokenizer, ["a" * 50, "b", "c" * 20], batch=2, progress=lambda *counts: seen.append(counts))
    assert {total for _, total in seen} == {9}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1] == (9, 9) and len(seen) == 5


def test_windows_score_every_token_once_with_half_a_window_before_it():
    ids = list(range(100, 150))
    seen = []
    for inputs, targets, mask in likelihood._windows([likelihood.Passage(ids, [False] + [True] * 49)], 16):
        assert len(inputs) == len(targets) == len(mask) <= 16
        assert [id_ + 1 for id_ in inputs] == list(targets)
        counted = [target for target, counts in zip(targets, mask, strict=True) if counts]
        if seen:
            assert counted[0] - inputs[0] >= 8
        seen += counted
    assert seen == ids[1:]


def test_only_scored_ids_count(model):
    config, weights = model
    ids = [1, 5, 6, 7, 8]
    whole = likelihood.total_nats(config, weights, [likelihood.Passage(ids, [False, True, True, True, True])], length=8)
    first = likelihood.total_nats(config, weights, [likelihood.Passage(ids, [False, True, True, False, False])], length=8)
    rest = likelihood.total_nats(config, weights, [likelihood.Passage(ids, [False, False, False, True, True])], length=8)
    assert 0 < first < whole
    assert math.isclose(first + rest, whole, rel_tol=1e-6)


def test_a_tokenizer_that_does_not_fit_is_refused(model):
    config, weights = model
    with pytest.raises(ValueError, match="299 pieces but the model 300 rows"):
        likelihood.score(config, weights, Letters(299), ["text"])
