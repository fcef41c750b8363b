"""The stored-nowhere order is a bijection of every size, and mixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhllama_jax.data import shuffle


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), key=st.lists(st.integers(-(2**70), 2**70), max_size=4))
def test_is_a_bijection_whatever_size_and_key(size: int, key: list[int]) -> None:
    assert sorted(shuffle.permute(np.arange(size), size, key=tuple(key))) == list(range(size))


def test_a_place_has_the_same_item_alone_and_among_others() -> None:
    together = shuffle.permute(np.arange(100), 100, key=(3, 1))
    alone = [int(shuffle.permute(np.array([place]), 100, key=(3, 1))[0]) for place in range(100)]
    assert together.tolist() == alone


def test_every_part_of_the_key_matters() -> None:
    orders = {tuple(shuffle.permute(np.arange(50), 50, key=key)) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0), (-1, 0)]}
    assert len(orders) == 6


def test_all_orders_of_four_items_are_about_equally_frequent() -> None:
    """24 orders in 4,800 keys: 200 each, standard deviation 14."""
    orders, counts = np.unique([shuffle.permute(np.arange(4), 4, key=(seed,)) for seed in range(4800)], axis=0, return_counts=True)
    assert len(orders) == 24
    assert all(130 < count < 270 for count in counts)


def test_neighbours_are_torn_apart() -> None:
    order = shuffle.permute(np.arange(50_000), 50_000, key=(7,))
    assert abs(np.corrcoef(order, np.arange(50_000))[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.001


def test_large_sizes_cost_nothing() -> None:
    places = np.array([0, 1, 2**61 - 1])
    items = shuffle.permute(places, 2**61, key=(1,))
    assert len(set(items)) == 3 and items.min() >= 0 and items.max() < 2**61


@pytest.mark.parametrize(("place", "size"), [(5, 5), (-1, 5), (0, 0), (0, 2**62)])
def test_refuses_what_is_outside(place: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"range|size"):
        shuffle.permute(np.array([place]), size, key=(0,))
