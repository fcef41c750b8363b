"""Every source's rows come in their own order without a gap, in proportion, and stop where they must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhllama_jax.data import config, mixture


def shares(*weights: float, epochs: tuple[float | None, ...] | None = None) -> list[config.Share]:
    return [config.Share(weight, limit) for weight, limit in zip(weights, epochs or (None,) * len(weights), strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.001, 1000), min_size=1, max_size=6),
    data=st.data(),
)
def test_each_source_is_gone_through_without_gaps(weights: list[float], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 700), min_size=len(weights), max_size=len(weights)))
    epochs = data.draw(st.lists(st.one_of(st.none(), st.floats(0.1, 4)), min_size=len(weights), max_size=len(weights)))
    mixed = mixture.Mixture(sizes, shares(*weights, epochs=tuple(epochs)))
    total = mixed.num_rows
    drawn = mixed.draw(np.arange(5000 if total is None else min(total, 5000)))
    for source, (size, limit) in enumerate(zip(sizes, epochs, strict=True)):
        ordinals = drawn.ordinal_N[drawn.source_N == source]
        assert ordinals.tolist() == list(range(len(ordinals)))
        if limit is not None:
            assert len(ordinals) <= max(1, int(size * limit))
    if all(limit is not None for limit in epochs):
        assert total == sum(max(1, int(size * limit)) for size, limit in zip(sizes, epochs, strict=True) if limit is not None)


def test_worked_example() -> None:
    mixed = mixture.Mixture([100, 8], shares(3, 1, epochs=(None, 1)))
    sources = mixed.draw(np.arange(200)).source_N
    assert sources[:32].sum() == 8
    assert all(sources[start : start + 4].sum() == 1 for start in range(0, 28, 4))
    assert not sources[32:].any()
    assert mixed.num_rows is None


@pytest.mark.parametrize("weights", [(1.0,), (1, 1), (9, 1), (0.5, 0.3, 0.2), (1, 2, 3, 4), (999, 1), (1, 1, 1)])
def test_every_stretch_holds_the_proportions(weights: tuple[float, ...]) -> None:
    drawn = mixture.Mixture([10] * len(weights), shares(*weights)).draw(np.arange(7000))
    wanted = np.array(weights) / sum(weights)
    for start, stop in [(0, 1000), (0, 7000), (123, 223), (5000, 5032), (1990, 2010)]:
        counts = np.bincount(drawn.source_N[start:stop], minlength=len(weights))
        assert np.abs(counts - wanted * (stop - start)).max() <= 1 + len(weights) + 0.001 * (stop - start) / 2


def test_tiny_weights_still_take_part() -> None:
    drawn = mixture.Mixture([5, 5, 5], shares(1e-9, 1e-9, 1)).draw(np.arange(1000))
    assert np.bincount(drawn.source_N).tolist() == [1, 1, 998]


def test_a_row_is_the_same_alone_and_among_others() -> None:
    mixed = mixture.Mixture([50, 7, 3], shares(2, 1, 1, epochs=(None, 2, 1)))
    together = mixed.draw(np.arange(300))
    alone = [mixed.draw(np.array([number])) for number in range(300)]
    assert [int(one.source_N[0]) for one in alone] == together.source_N.tolist()
    assert [int(one.ordinal_N[0]) for one in alone] == together.ordinal_N.tolist()


def test_far_rows_cost_nothing() -> None:
    drawn = mixture.Mixture([10**12, 10**9], shares(3, 1)).draw(np.array([4 * 10**14]))
    assert drawn.ordinal_N[0] in (3 * 10**14, 10**14)


def test_the_end_is_an_error() -> None:
    mixed = mixture.Mixture([5, 5], shares(1, 1, epochs=(1, 2)))
    assert mixed.num_rows == 15
    with pytest.raises(ValueError, match=r"row 15: max_epochs ends the data after 15 rows"):
        mixed.draw(np.array([14, 15]))


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [([], 0, "0 shares for 0 sources"), ([1], 2, "2 shares for 1"), ([1, 0, 0], 3, "source 1, 2 of the mixture has no rows")],
)
def test_sources_are_checked(sizes: list[int], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture.Mixture(sizes, [config.Share()] * count)


def unweighted(*epochs: float | None) -> list[config.Share]:
    return [config.Share(max_epochs=limit) for limit in epochs]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_without_weights_an_epoch_reads_every_row_once(sizes: list[int]) -> None:
    """Also a source of one row beside one of many, which no weight in thousandths would give its due."""
    mixed, total = mixture.Mixture(sizes, unweighted(*[None] * len(sizes))), sum(sizes)
    for epoch in range(2):
        drawn = mixed.draw(np.arange(epoch * total, (epoch + 1) * total))
        for source, size in enumerate(sizes):
            assert drawn.ordinal_N[drawn.source_N == source].tolist() == list(range(epoch * size, (epoch + 1) * size))
    half = np.bincount(mixed.draw(np.arange(total // 2)).source_N, minlength=len(sizes))
    assert np.abs(half - np.array(sizes) / 2).max() <= len(sizes) + 1, "spread evenly"


def test_worked_example_without_weights() -> None:
    assert mixture.Mixture([2, 4], unweighted(None, None)).draw(np.arange(6)).source_N.tolist() == [1, 0, 1, 1, 0, 1]
    far = mixture.Mixture([10**9, 3], unweighted(None, None)).draw(np.array([5 * (10**9 + 3) - 1]))
    assert far.ordinal_N[0] in (5 * 10**9 - 1, 14)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_counts_are_those_of_the_rows(data: st.DataObject, sizes: list[int]) -> None:
    limits = data.draw(st.lists(st.one_of(st.none(), st.floats(0.1, 4)), min_size=len(sizes), max_size=len(sizes)))
    weights = data.draw(st.one_of(st.none(), st.lists(st.floats(0.1, 9), min_size=len(sizes), max_size=len(sizes))))
    given_shares = unweighted(*limits) if weights is None else shares(*weights, epochs=tuple(limits))
    mixed = mixture.Mixture(sizes, given_shares)
    total = min(mixed.num_rows or 1500, 1500)
    sources = mixed.draw(np.arange(total)).source_N
    for rows in {0, 1, total // 3, total}:
        assert mixed.counts(rows).tolist() == np.bincount(sources[:rows], minlength=len(sizes)).tolist()
    if mixed.num_rows == total and None not in limits:
        spent = [max(1, int(size * limit)) for size, limit in zip(sizes, limits, strict=True)]
        assert mixed.counts(total).tolist() == spent, "each source as often as it may be, whatever the others do"


def test_weights_are_for_all_sources_or_none() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 sources have a share\.weight: give one to each, or to none"):
        mixture.Mixture([3, 4], [config.Share(2.0), config.Share()])
