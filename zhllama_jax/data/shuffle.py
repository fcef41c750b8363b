"""A shuffled order that need not be stored: `permute` says which item stands at a place.

A balanced Feistel network over the bits of the index is a bijection whatever its round function
is; walking on while the result lies outside `range(size)` makes it one of any size (Black and
Rogaway, 2002, "Ciphers with Arbitrary Finite Domains", section 2.3). One look-up costs a few
integer operations and no memory, for a corpus of any size.
"""

import numpy as np

ROUNDS = 6


def permute(places_N: np.ndarray, size: int, *, key: tuple[int, ...]) -> np.ndarray:
    """The items [N] at the given places of the order that `key` names; a bijection of `range(size)`.

    Args:
      places_N: integers in `range(size)`.
      size: number of items, at least 1 and below 2**62.
      key: integers, such as (seed, source, epoch); another key is another order.
    """
    places_N = np.asarray(places_N)
    if not 1 <= size < 1 << 62:
        raise ValueError(f"size {size}: an order has 1 to 2**62 - 1 items")
    if places_N.size and not (places_N.min() >= 0 and places_N.max() < size):
        raise ValueError(f"a place lies outside of range({size})")
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    items_N = _network(places_N.astype(np.uint64), half, keys)
    outside_N = items_N >= size
    while outside_N.any():
        items_N[outside_N] = _network(items_N[outside_N], half, keys)
        outside_N = items_N >= size
    return items_N.astype(np.int64)


def _network(values_N: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    """A Feistel permutation of the integers of `2 * half` bits."""
    low = np.uint64((1 << half) - 1)
    left_N, right_N = values_N >> np.uint64(half), values_N & low
    for key in keys:
        left_N, right_N = right_N, left_N ^ (_mix(right_N + key) & low)
    return (left_N << np.uint64(half)) | right_N


def _round_keys(key: tuple[int, ...]) -> list[np.uint64]:
    """One 64-bit key a round, each depending on every integer of `key`."""
    state = np.zeros(1, np.uint64)
    for part in key:
        state = _mix(state + np.uint64(part % (1 << 64)))
    return [_mix(state + np.uint64(number + 1))[0] for number in range(ROUNDS)]


def _mix(values_N: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each bit depends on each bit. Arithmetic is modulo 2**64."""
    values_N = values_N + np.uint64(0x9E3779B97F4A7C15)
    values_N = (values_N ^ (values_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_N = (values_N ^ (values_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values_N ^ (values_N >> np.uint64(31))
