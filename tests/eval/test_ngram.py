"""The n-gram baseline: a proper distribution, exact small cases, and better with order."""

import math
import random

import numpy as np
import pytest

from zhllama_jax.eval import ngram


def _texts(seed: int, count: int) -> list[str]:
    """Texts of a small first-order world: after each letter two others are likely."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        letter, text = "a", ""
        for _ in range(rng.randint(5, 40)):
            letter = rng.choice("abcdef") if rng.random() < 0.1 else "abcdef"["abcdef".index(letter) * 2 % 6 - rng.randint(0, 1)]
            text += letter
        texts.append(text)
    return texts


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("history", ["", "a", "abc", "fzzf", "abcabcabcabc", "猫"])
def test_probabilities_sum_to_one_after_every_history(order: int, history: str) -> None:
    p = ngram.fit(_texts(0, 50), order=order).probabilities(history)
    assert p.shape == (7,)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-12)


def test_one_character_at_a_time_equals_the_whole_text() -> None:
    model = ngram.fit(_texts(0, 50), order=4)
    text = "abcfed" * 3
    bits = [-math.log2(model.probabilities(text[:i])["abcdef".index(text[i])]) for i in range(len(text))]
    np.testing.assert_allclose(model.bits_per_character([text]), np.mean(bits), rtol=1e-12)


def test_unigram_by_hand() -> None:
    # Counts a 2, b 1; too few counts of counts, so D = 0.5; uniform over a, b and the rest: 1/3.
    # p(a) = (2 - .5)/3 + (1/3)(1/3) = 11/18, p(b) = .5/3 + 1/9 = 5/18, p(rest) = 1/9.
    model = ngram.fit(["aab"], order=1)
    np.testing.assert_allclose(model.probabilities(""), [11 / 18, 5 / 18, 2 / 18])
    np.testing.assert_allclose(model.bits_per_character(["ab"]), -(math.log2(11 / 18) + math.log2(5 / 18)) / 2)


def test_bigram_by_hand() -> None:
    # Bigrams (start a), (a b); below them a and b have one distinct predecessor each: p(b) = .5/2 + (1/2)(1/3) = 5/12.
    # p(b | a) = (1 - .5)/1 + .5 * 5/12 = 17/24, and the same for p(a | start).
    np.testing.assert_allclose(ngram.fit(["ab"], order=2).bits_per_character(["ab"]), -math.log2(17 / 24))


def test_lower_orders_count_predecessors() -> None:
    # "o" comes often, yet only after "z"; "b" comes less often, after four different characters.
    model = ngram.fit(["zozozozozozo", "abcbdbeb"], order=2)
    after_unseen = dict(zip("abcdeoz", model.probabilities("!"), strict=False))
    assert after_unseen["b"] > after_unseen["o"]


def test_an_unknown_character_pays_for_its_class_and_its_name() -> None:
    model = ngram.fit(["aab"], order=1)
    np.testing.assert_allclose(model.bits_per_character(["猫"]), -math.log2(2 / 18) + math.log2(ngram.UNICODE_SCALARS - 2))


def test_higher_orders_pay_where_text_has_memory() -> None:
    train, held_out = _texts(0, 400), _texts(1, 100)
    unigram, bigram = (ngram.fit(train, order=order).bits_per_character(held_out) for order in (1, 2))
    assert bigram < 0.8 * unigram
    assert ngram.fit(train, order=5).bits_per_character(held_out) < 1.15 * bigram


def test_texts_do_not_run_into_each_other() -> None:
    assert ngram.fit(["ab", "ab"], order=2).bits_per_character(["ab"]) < 0.5
    model = ngram.fit(["ab", "ab"], order=3)
    assert model.bits_per_character(["ab", "ab"]) == model.bits_per_character(["ab"])


def test_an_alphabet_of_thousands_of_characters_fits_at_order_nine() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 8000)))
    model = ngram.fit([text], order=9)
    assert math.isclose(model.probabilities(text[:100]).sum(), 1.0, rel_tol=1e-9)
    assert model.probabilities(text[:100]).argmax() == 100


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="order is 0"):
        ngram.fit(["a"], order=0)
    with pytest.raises(ValueError, match=r"70,000 distinct characters, more than the 65,023"):
        ngram.fit(["".join(map(chr, range(0x10000, 0x10000 + 70_000)))])
    with pytest.raises(ValueError, match="texts are empty"):
        ngram.fit([""])
    with pytest.raises(ValueError, match="texts are empty"):
        ngram.fit(["a"]).bits_per_character([])
