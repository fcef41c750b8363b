"""An interpolated n-gram model of characters: the baseline that a language model has to beat.

Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, section 3): with c(h, x) the count of character x after history h,
c(h) their sum and D(c) the discount of a count,

    p(x | h) = (c(h, x) - D(c(h, x)) + sum_y D(c(h, y)) p(x | h')) / c(h),        h' = h without its oldest character,

down to the empty history, below which stands the uniform distribution over the A characters of the training text plus one class for
all others. Below the highest order, c counts the distinct characters that were seen BEFORE (h, x), not how often. Counts of one, two
and more have the paper's three discounts, estimated from the counts of counts of each order (0.5 where a text is too small for the
estimate). On the demo world this is 3 % better than Witten-Bell, so it is the baseline that flatters less.

A character of the class of all others pays for its name too: the class's probability is shared evenly by the Unicode scalar values
that are not in the alphabet (1,112,064 - A of them, about 20 bits). So p sums to one over all of Unicode, after every history, and the
bits per character of any text are finite and comparable with those of a model that spells rare characters in bytes.

The start of a text is a history of its own (order - 1 start marks). The end of a text is not predicted and costs nothing: a language
model that also pays for its end token is compared with a baseline that has it slightly easier.

Counting is sorting: an n-gram is a string of bytes, two for each character, none of them zero, so that NumPy compares and sorts whole
n-grams whatever the size of the alphabet, and one history's followers lie together.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

UNICODE_SCALARS = 0x110000 - 0x800
DIGIT = 255
"""Values of one byte of a key: all but zero, which NumPy drops from the end of a string."""


@dataclass(frozen=True)
class _Order:
    """One order: sorted n-gram keys with their discounted counts, sorted history keys with c(h) and the sum of discounts after h."""

    grams: np.ndarray
    discounted: np.ndarray
    histories: np.ndarray
    totals: np.ndarray
    freed: np.ndarray


@dataclass(frozen=True)
class NGram:
    """A fitted model; make one with `fit`. `alphabet` holds the sorted code points of the training text."""

    order: int
    alphabet: np.ndarray
    counts: tuple[_Order, ...]

    def probabilities(self, history: str) -> np.ndarray:
        """Returns p over the alphabet, in its order, then p of the class of all other characters, after `history` from a text's start."""
        size = len(self.alphabet) + 1
        ids = _with_start(_ids(self.alphabet, history), self.order, size)
        grams = np.empty((size, self.order), np.int64)
        grams[:, : self.order - 1] = ids[len(ids) - self.order + 1 :]
        grams[:, -1] = np.arange(size)
        return self._interpolate(grams)

    def bits_per_character(self, texts: Iterable[str]) -> float:
        """Returns the mean of -log2 p over all characters of `texts`, each from its start.

        Raises:
          ValueError: there is no character.
        """
        size = len(self.alphabet) + 1
        bits = characters = 0.0
        for grams in _windows(self.alphabet, texts, self.order):
            # The same n-gram returns often: each is priced once.
            keys, counts = np.unique(_keys(grams), return_counts=True)
            distinct = _unkey(keys)
            bits -= float(np.dot(np.log2(self._interpolate(distinct)), counts))
            unknown = int(counts[distinct[:, -1] == size - 1].sum())
            bits += unknown * math.log2(UNICODE_SCALARS - len(self.alphabet))
            characters += len(grams)
        if not characters:
            raise ValueError("bits per character need at least one character, but the texts are empty")
        return bits / characters

    def _interpolate(self, grams: np.ndarray) -> np.ndarray:
        """Returns p(last column | the columns before) of each row of `grams` [rows, order]."""
        p = np.full(len(grams), 1.0 / (len(self.alphabet) + 1))
        for n, counts in enumerate(self.counts, start=1):
            discounted = _look_up(counts.grams, counts.discounted, _keys(grams[:, self.order - n :]))
            history_keys = _keys(grams[:, self.order - n : -1])
            total = _look_up(counts.histories, counts.totals, history_keys)
            freed = _look_up(counts.histories, counts.freed, history_keys)
            # After a history that was never seen, the shorter one decides alone.
            p = np.where(total > 0, (discounted + freed * p) / np.maximum(total, 1), p)
        return p


def fit(texts: Sequence[str], *, order: int = 5) -> NGram:
    """Counts the character n-grams of `texts`, each with its own start.

    Raises:
      ValueError: `order` is below 1, there is no character, or there are more distinct ones than two bytes name.
    """
    if order < 1:
        raise ValueError(f"order is {order}, but the lowest n-gram model is order 1")
    alphabet = np.unique(_code_points("".join(texts)))
    if not len(alphabet):
        raise ValueError("an n-gram model needs at least one character of text, but the texts are empty")
    if len(alphabet) + 2 > DIGIT**2:
        raise ValueError(f"the texts have {len(alphabet):,} distinct characters, more than the {DIGIT**2 - 2:,} that an n-gram can name")
    grams = np.concatenate(list(_windows(alphabet, texts, order)))
    longer, counts = np.unique(_keys(grams), return_counts=True)
    orders = [_discounted(longer, counts)]
    for _ in range(order - 1):
        # Cutting the oldest character off the distinct longer n-grams leaves one copy per distinct predecessor.
        longer, predecessors = np.unique(_keys(_unkey(longer)[:, 1:]), return_counts=True)
        orders.insert(0, _discounted(longer, predecessors))
    return NGram(order, alphabet, tuple(orders))


def _discounted(grams: np.ndarray, counts: np.ndarray) -> _Order:
    """Discounts the counts of sorted n-grams and sums them by history."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    histories, starts = np.unique(_keys(_unkey(grams)[:, :-1]), return_index=True)
    return _Order(grams, counts - discounts, histories, np.add.reduceat(counts, starts), np.add.reduceat(discounts, starts))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Estimates the discounts of counts 0, 1, 2 and 3 or more (Chen and Goodman 1999, equation 26)."""
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    # A discount of zero would leave histories without any mass for what they have not shown yet.
    two, three = max(y, 2 - 3 * y * n3 / n2), max(y, 3 - 4 * y * n4 / n3)
    return np.array([0.0, y, two, three])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)


def _ids(alphabet: np.ndarray, text: str) -> np.ndarray:
    """Maps characters to places in the alphabet; len(alphabet) is the class of all others."""
    points = _code_points(text)
    places = np.minimum(np.searchsorted(alphabet, points), len(alphabet) - 1)
    return np.where(alphabet[places] == points, places, len(alphabet))


def _with_start(ids: np.ndarray, order: int, start: int) -> np.ndarray:
    return np.concatenate([np.full(order - 1, start, np.int64), ids])


def _windows(alphabet: np.ndarray, texts: Iterable[str], order: int) -> Iterable[np.ndarray]:
    """Yields the n-grams [characters, order] of many texts at a time, none across two texts."""
    batch: list[np.ndarray] = []
    length = 0
    for text in texts:
        ids = _ids(alphabet, text)
        if len(ids):
            padded = _with_start(ids, order, len(alphabet) + 1)
            batch.append(np.lib.stride_tricks.sliding_window_view(padded, order))
            length += len(ids)
        if length >= 1 << 22:
            yield np.concatenate(batch)
            batch, length = [], 0
    if batch:
        yield np.concatenate(batch)


def _keys(grams: np.ndarray) -> np.ndarray:
    """Writes each row as one string of bytes, two digits a character; a mark in front lets the empty history be a key too."""
    digits = np.empty((len(grams), 1 + 2 * grams.shape[1]), np.uint8)
    digits[:, 0] = 1
    digits[:, 1::2] = grams // DIGIT + 1
    digits[:, 2::2] = grams % DIGIT + 1
    return digits.view(f"S{digits.shape[1]}")[:, 0]


def _unkey(keys: np.ndarray) -> np.ndarray:
    """Undoes `_keys`."""
    digits = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), -1).astype(np.int64) - 1
    return digits[:, 1::2] * DIGIT + digits[:, 2::2]


def _look_up(sorted_keys: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns the value of each key, 0 where it is not present."""
    places = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[places] == keys, values[places], 0)
