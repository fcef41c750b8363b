"""Draws: determined by seed and stream, and never on the other side of the split."""

import pytest

from zhllama_jax.demo import lexicon
from zhllama_jax.demo.draw import Draw


def _both(seed: int = 0) -> tuple[Draw, Draw]:
    return Draw(seed, held_out=False, stream="s"), Draw(seed, held_out=True, stream="s")


def test_the_sides_part_all_combinations_whatever_their_order() -> None:
    train, held_out = _both()
    pairs = [(left, right) for left in lexicon.ANIMALS for right in lexicon.PLACES]
    assert all(train.accepts(pair) != held_out.accepts(pair) for pair in pairs)
    assert all(train.accepts(pair) == train.accepts(pair[::-1]) for pair in pairs)
    share = sum(map(held_out.accepts, pairs)) / len(pairs)
    assert 0.06 < share < 0.2  # one in eight


def test_every_part_occurs_on_the_side_of_training() -> None:
    train, _ = _both()
    for word in lexicon.PEOPLE:
        assert any(train.accepts((word, other)) for other in lexicon.PLACES)


@pytest.mark.parametrize("side", [0, 1], ids=["train", "held out"])
def test_drawn_combinations_and_sets_lie_on_their_side(side: int) -> None:
    draw = _both()[side]
    for _ in range(50):
        assert draw.accepts(draw.combination(lexicon.PEOPLE, lexicon.DAYS, lexicon.PLACES))
        words = draw.subset(lexicon.ITEMS, 3)
        assert len(set(words)) == 3
        assert draw.accepts(words)


@pytest.mark.parametrize(("size", "expected"), [(2, 1), (7, 1), (16, 2), (96, 12), (103, 12)])
def test_a_pool_is_split_in_exact_shares(size: int, expected: int) -> None:
    for seed in range(5):
        train, held_out = (draw.side("pool", range(size)) for draw in _both(seed))
        assert len(held_out) == expected
        assert sorted([*train, *held_out]) == list(range(size))
    assert len({tuple(_both(seed)[1].side("pool", range(96))) for seed in range(5)}) == 5


def test_same_seed_and_stream_same_draws() -> None:
    def draws(seed: int, stream: str) -> list[int]:
        draw = Draw(seed, held_out=False, stream=stream)
        return [draw.between(0, 1_000_000) for _ in range(5)]

    assert draws(0, "a") == draws(0, "a")
    assert draws(0, "a") != draws(1, "a")
    assert draws(0, "a") != draws(0, "b")


def test_a_deal_gives_every_element_once_before_any_comes_again() -> None:
    draw = _both()[0]
    rounds = [[draw.deal("days", lexicon.DAYS) for _ in lexicon.DAYS] for _ in range(3)]
    assert all(set(dealt) == set(lexicon.DAYS) for dealt in rounds)


def test_between_includes_both_ends() -> None:
    draw = _both()[0]
    assert {draw.between(2, 4) for _ in range(100)} == {2, 3, 4}
