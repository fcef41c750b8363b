"""Which source a row of the run comes from, and which of its rows: a pure function of the row's number.

Sources share the run in fixed proportions, evenly spread (no draw of lots: every stretch of the
run holds them in proportion, to within a row or so). A source may be limited to a number of
epochs; when it is spent the others go on in their proportions, and when all are, the run has no
more rows. No position is kept anywhere: a run that starts in the middle asks for the middle.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zhllama_jax.data import config

PERIOD = 1000
"""Rows in which the proportions come out exactly; weights are rounded to thousandths."""


class Drawn(NamedTuple):
    """For each row of the run: its source, and which row of that source's endless sequence it is."""

    source_N: np.ndarray
    ordinal_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Phase:
    """A stretch of the run with the same sources: rows `start` to `stop` (None: without end)."""

    start: int
    stop: int | None
    taken_S: np.ndarray
    """Rows of each source [S] that were used before the phase."""
    quota_S: np.ndarray
    """Rows of each source [S] in one period."""
    source_P: np.ndarray
    """The source at each place [P] of the period."""
    rank_P: np.ndarray
    """How many places [P] before it in the period have the same source."""


class Mixture:
    """Sources in proportion to their weights.

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
            np.array([share.weight for share in shares]),
            [None if share.max_epochs is None else max(1, int(size * share.max_epochs)) for size, share in zip(sizes, shares, strict=True)],
        )

    @property
    def num_rows(self) -> int | None:
        """Rows until every source is spent; None if one never is."""
        return self._phases[-1].stop

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
            period_n, place_n = np.divmod(numbers_N[here_N] - phase.start, len(phase.source_P))
            source_n = phase.source_P[place_n]
            drawn.source_N[here_N] = source_n
            drawn.ordinal_N[here_N] = phase.taken_S[source_n] + period_n * phase.quota_S[source_n] + phase.rank_P[place_n]
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


def _plan(weights_S: np.ndarray, limits: Sequence[int | None]) -> list[_Phase]:
    """One phase more for each source that is spent before the others."""
    phases: list[_Phase] = []
    start, taken_S = 0, np.zeros(len(weights_S), np.int64)
    alive_S = np.ones(len(weights_S), bool)
    while alive_S.any():
        quota_S = _quotas(np.where(alive_S, weights_S, 0.0))
        source_P, rank_P = _interleave(quota_S)
        ends = {
            source: _rows_until(limit - int(taken_S[source]), source, quota_S, source_P)
            for source, limit in enumerate(limits)
            if limit is not None and alive_S[source]
        }
        stop = start + min(ends.values()) if ends else None
        phases.append(_Phase(start, stop, taken_S, quota_S, source_P, rank_P))
        if stop is None:
            break
        periods, rest = divmod(stop - start, PERIOD)
        taken_S = taken_S + periods * quota_S + np.bincount(source_P[:rest], minlength=len(weights_S))
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


def _interleave(quota_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spreads each source evenly over the period: its row j stands at (j + ½) / quota, ties to the lower source."""
    source_P = np.repeat(np.arange(len(quota_S)), quota_S)
    rank_P = np.concatenate([np.arange(quota) for quota in quota_S])
    order_P = np.argsort((rank_P + 0.5) / quota_S[source_P], kind="stable")
    return source_P[order_P], rank_P[order_P]


def _rows_until(count: int, source: int, quota_S: np.ndarray, source_P: np.ndarray) -> int:
    """Rows of the phase up to and with the source's row number `count` (from 1)."""
    periods, rest = divmod(count - 1, int(quota_S[source]))
    return periods * PERIOD + int(np.flatnonzero(source_P == source)[rest]) + 1
