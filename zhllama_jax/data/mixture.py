"""Which source a row of the run comes from, and which of its rows: a pure function of the row's number.

Sources share the run in fixed proportions, evenly spread (no draw of lots: every stretch of the
run holds them in proportion, to within a row or so): by their weights, or, where they have none, by
their rows, exactly, so that one pass over all of them reads each row once. A source may be limited
to a number of epochs; when it is spent the others go on in their proportions, and when all are, the
run has no more rows. No position is kept anywhere: a run that starts in the middle asks for the middle.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from zhllama_jax.data import config

PERIOD = 1000
"""Rows in which the proportions come out exactly; weights are rounded to thousandths."""


class Drawn(NamedTuple):
    """For each row of the run: its source, and which row of that source's endless sequence it is."""

    source_N: np.ndarray
    ordinal_N: np.ndarray


class _Pattern(Protocol):
    """A finite order of sources that a phase repeats.

    Attributes:
      quota_S: rows of each source [S] in one pattern.
      size: rows of the pattern, P.
    """

    quota_S: np.ndarray
    size: int

    def at(self, place_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source at each place [N], and how many places before it have the same source."""

    def before(self, place: int) -> np.ndarray:
        """Rows of each source [S] in the first `place` places."""

    def until(self, rank: int, source: int) -> int:
        """Places up to and with the source's row number `rank`, from 0."""


class _ByWeights:
    """Each source spread evenly over `PERIOD` places: its row j stands at (j + ½) / quota, ties to the lower source."""

    def __init__(self, weights_S: np.ndarray) -> None:
        self.quota_S = _quotas(weights_S)
        self.size = PERIOD
        source_P = np.repeat(np.arange(len(self.quota_S)), self.quota_S)
        rank_P = np.concatenate([np.arange(quota) for quota in self.quota_S])
        order_P = np.argsort((rank_P + 0.5) / self.quota_S[source_P], kind="stable")
        self._source_P, self._rank_P = source_P[order_P], rank_P[order_P]

    def at(self, place_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._source_P[place_N], self._rank_P[place_N]

    def before(self, place: int) -> np.ndarray:
        return np.bincount(self._source_P[:place], minlength=len(self.quota_S))

    def until(self, rank: int, source: int) -> int:
        return int(np.flatnonzero(self._source_P == source)[rank]) + 1


class _ByRows:
    """Every row of every source once: as many places as there are rows, which are computed and not stored.

    The first source has round(p · rows / all) of the first p places, the second likewise of those that are left, and so on. Worked
    example: 2 and 4 rows: 1 0 1 1 0 1.
    """

    def __init__(self, rows_S: np.ndarray) -> None:
        self.quota_S = rows_S
        self.size = int(rows_S.sum())
        assert self.size < 2**31, f"{self.size:,} rows are too many for products of 64 bits"

    def at(self, place_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before_NS = self._counts(place_N)
        source_N = (self._counts(place_N + 1) - before_NS).argmax(axis=1)
        return source_N, before_NS[np.arange(len(source_N)), source_N]

    def before(self, place: int) -> np.ndarray:
        return self._counts(np.array([place]))[0]

    def until(self, rank: int, source: int) -> int:
        return bisect.bisect_right(range(self.size), rank, key=lambda places: int(self.before(places)[source]))

    def _counts(self, places_N: np.ndarray) -> np.ndarray:
        """Rows of each source [N, S] in the first so many places."""
        counts_NS = np.zeros((len(places_N), len(self.quota_S)), np.int64)
        left_N, total = places_N.astype(np.int64), self.size
        for source, rows in enumerate(self.quota_S.tolist()):
            if rows:
                counts_NS[:, source] = (left_N * rows + total // 2) // total
                left_N, total = left_N - counts_NS[:, source], total - rows
        return counts_NS


class _Phase(NamedTuple):
    """A stretch of the run with the same sources: rows `start` to `stop` (None: without end)."""

    start: int
    stop: int | None
    taken_S: np.ndarray
    """Rows of each source [S] that were used before the phase."""
    pattern: _Pattern


class Mixture:
    """Sources in proportion to their weights or rows.

    Worked example: sizes 100 and 8, weights 3 and 1, the second limited to one epoch. Of rows 0
    to 31 eight come from the second source, one in each four; from then on all come from the first.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[config.Share]) -> None:
        """Plans the phases.

        Args:
          sizes: rows of each source that take part: what its caps leave.
          shares: one per source; of these `weight` and `max_epochs` are read.

        Raises:
          ValueError: see `check`.
        """
        check(sizes, shares)
        self._phases = _plan(
            [share.weight for share in shares] if config.weighted(shares) else None,
            sizes,
            [None if share.max_epochs is None else max(1, int(size * share.max_epochs)) for size, share in zip(sizes, shares, strict=True)],
        )

    @property
    def num_rows(self) -> int | None:
        """Rows until every source is spent; None if one never is."""
        return self._phases[-1].stop

    def counts(self, rows: int) -> np.ndarray:
        """How many of the first `rows` rows of the run come from each source [S]."""
        phase = next(phase for phase in reversed(self._phases) if phase.start <= rows)
        rounds, rest = divmod(rows - phase.start, phase.pattern.size)
        return phase.taken_S + rounds * phase.pattern.quota_S + phase.pattern.before(rest)

    def draw(self, numbers_N: np.ndarray) -> Drawn:
        """The sources [N] and ordinals [N] of the run's rows `numbers_N`.

        Raises:
          ValueError: a row lies behind the end.
        """
        numbers_N = np.asarray(numbers_N, np.int64)
        if self.num_rows is not None and numbers_N.size and numbers_N.max() >= self.num_rows:
            raise ValueError(f"row {numbers_N.max():,}: max_epochs ends the data after {self.num_rows:,} rows, so run fewer steps")
        starts = np.array([phase.start for phase in self._phases])
        phase_N = np.searchsorted(starts, numbers_N, side="right") - 1
        drawn = Drawn(np.zeros_like(numbers_N), np.zeros_like(numbers_N))
        for index in np.unique(phase_N):
            phase, here_N = self._phases[index], phase_N == index
            round_n, place_n = np.divmod(numbers_N[here_N] - phase.start, phase.pattern.size)
            source_n, rank_n = phase.pattern.at(place_n)
            drawn.source_N[here_N] = source_n
            drawn.ordinal_N[here_N] = phase.taken_S[source_n] + round_n * phase.pattern.quota_S[source_n] + rank_n
        return drawn


def check(sizes: Sequence[int], shares: Sequence[config.Share]) -> None:
    """Refuses sources that cannot be mixed.

    Raises:
      ValueError: numbers of sizes and shares differ, or a source has no rows.
    """
    if not 1 <= len(sizes) <= PERIOD // 10 or len(sizes) != len(shares):
        raise ValueError(f"{len(shares)} shares for {len(sizes)} sources: give one share to each of 1 to {PERIOD // 10} sources")
    empty = [str(number) for number, size in enumerate(sizes) if size < 1]
    if empty:
        raise ValueError(f"source {', '.join(empty)} of the mixture has no rows")


def _plan(weights: Sequence[float | None] | None, sizes: Sequence[int], limits: Sequence[int | None]) -> list[_Phase]:
    """One phase more for each source that is spent before the others; `weights` None goes by the sizes."""
    phases: list[_Phase] = []
    start, taken_S = 0, np.zeros(len(sizes), np.int64)
    alive_S = np.ones(len(sizes), bool)
    while alive_S.any():
        pattern: _Pattern
        if weights is None:
            pattern = _ByRows(np.where(alive_S, np.array(sizes, np.int64), 0))
        else:
            pattern = _ByWeights(np.where(alive_S, np.array(weights, float), 0.0))
        ends = {
            source: _rows_until(limit - int(taken_S[source]), source, pattern)
            for source, limit in enumerate(limits)
            if limit is not None and alive_S[source]
        }
        stop = start + min(ends.values()) if ends else None
        phases.append(_Phase(start, stop, taken_S, pattern))
        if stop is None:
            break
        rounds, rest = divmod(stop - start, pattern.size)
        taken_S = taken_S + rounds * pattern.quota_S + pattern.before(rest)
        for source, end in ends.items():
            alive_S[source] = end != stop - start
        start = stop
    return phases


def _quotas(weights_S: np.ndarray) -> np.ndarray:
    """Rows of each source in one period: largest remainders, at least one for a source that takes part."""
    share_S = weights_S / weights_S.sum() * PERIOD
    quota_S = np.where(weights_S > 0, np.maximum(np.floor(share_S), 1), 0).astype(np.int64)
    while int(quota_S.sum()) < PERIOD:
        quota_S[np.where(weights_S > 0, share_S - quota_S, -np.inf).argmax()] += 1
    while int(quota_S.sum()) > PERIOD:
        quota_S[np.where(quota_S > 1, quota_S - share_S, -np.inf).argmax()] -= 1
    return quota_S


def _rows_until(count: int, source: int, pattern: _Pattern) -> int:
    """Rows of the phase up to and with the source's row number `count` (from 1)."""
    rounds, rest = divmod(count - 1, int(pattern.quota_S[source]))
    return rounds * pattern.size + pattern.until(rest, source)
