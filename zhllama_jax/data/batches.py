"""Batches by step number: `rows(step)` is a pure function of (sources, global batch, seed, step).

Row j of step s is row s · B + j of the run, whichever host asks and how many there are: the state
of a data iterator is the step, one integer. A source is gone through in a shuffled order that
changes each epoch and is computed, not stored (`shuffle.permute`); `mixture` says which source a
row comes from. Of a source with a cap a sample is gone through, which the same arithmetic chooses.
A training run is `Batches`; one pass in stored order for validation is `in_order`.
"""

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from zhllama_jax.data import config, mixture, pack, shuffle

SAMPLE = -1
"""Stands for the epoch in the key of the order that a capped source's sample is taken from."""


class Rows(Protocol):
    """Anything with a length and rows by number: a `store.Store`, a list of `pack.Row`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> pack.Row: ...


class Batch(NamedTuple):
    """What one step reads. `targets[b, t]` is the token after `tokens[b, t]`.

    The values stand as int32 but for the mask, which multiplies losses.
    """

    tokens: np.ndarray
    """[B, T] int32 ids that are read."""
    targets: np.ndarray
    """[B, T] int32 ids that are predicted."""
    loss_mask: np.ndarray
    """[B, T] float32; 1 where the target counts."""
    positions: np.ndarray
    """[B, T] int32; from 0 in each segment."""
    segment_ids: np.ndarray
    """[B, T] int32; 0 is padding, which nothing may attend to."""


class Batches:
    """The batches of a training run over one source or several.

    Attributes:
      global_batch: rows per step, all hosts together.
      length: T, tokens that are read per row.
      num_steps: whole steps until the sources' `max_epochs` are spent; None without such limits.
      taken: how many rows of each source take part.
    """

    def __init__(
        self,
        sources: Sequence[Rows],
        *,
        global_batch: int,
        seed: int,
        shares: Sequence[config.Share] | None = None,
        taken: Sequence[int] | None = None,
        separate: bool = True,
    ) -> None:
        """Checks the sources.

        Args:
          sources: stores or lists of rows, all of one length.
          global_batch: rows per step, all hosts together.
          seed: names the order; any integer.
          shares: one per source; None mixes by rows.
          taken: rows of each source that take part, where the shares' caps count something else than rows (see `config.Share.taken`);
            None leaves it to the caps.
          separate: documents of a row see only themselves, positions start anew in each, and the step from one to the next
            is not predicted. Otherwise a row is one segment.

        Raises:
          ValueError: a source is empty, lengths differ, or `global_batch` is not positive.
        """
        if global_batch < 1:
            raise ValueError(f"global_batch must be at least 1, got {global_batch}")
        shares = [config.Share()] * len(sources) if shares is None else shares
        mixture.check([len(source) for source in sources], shares)
        lengths = [len(source[0].tokens) - 1 for source in sources]
        if len(set(lengths)) > 1:
            raise ValueError(f"the sources' rows read {', '.join(map(str, lengths))} tokens: build them with one length")
        if taken is None:
            taken = [share.taken(len(source), length=lengths[0]) for source, share in zip(sources, shares, strict=True)]
        self._mixture = mixture.Mixture(taken, shares)
        self._sources, self._seed, self._separate = sources, seed, separate
        self.global_batch, self.length, self.taken = global_batch, lengths[0], list(taken)
        total = self._mixture.num_rows
        self.num_steps = None if total is None else total // global_batch

    def rows(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """This host's rows of a step: the `process_index`-th of `process_count` equal parts of the global batch, in order.

        Raises:
          ValueError: `process_count` does not divide the global batch, or the data end before the step.
        """
        return self.take(step, _part(self.global_batch, process_index, process_count))

    def take(self, step: int, slots: slice) -> Batch:
        """The rows `slots` of a step's global batch; for meshes whose hosts do not hold equal parts in order."""
        picked = range(self.global_batch)[slots]
        return collate([self._sources[source][row] for source, row in self.where(step, picked)], separate=self._separate)

    def counts(self, steps: int) -> list[int]:
        """How many rows of each source the first `steps` steps read; a row counts as often as it is read."""
        return [int(count) for count in self._mixture.counts(steps * self.global_batch)]

    def where(self, step: int, slots: Sequence[int]) -> list[tuple[int, int]]:
        """(source, row of the source) of each of `slots` of a step; reads nothing."""
        if step < 0 or (self.num_steps is not None and step >= self.num_steps):
            raise ValueError(f"step {step:,}: the data have {self.num_steps or 0:,} steps of {self.global_batch} rows (max_epochs)")
        source_N, ordinal_N = self._mixture.draw(np.asarray(slots, np.int64) + step * self.global_batch)
        row_N = np.empty_like(ordinal_N)
        for source in np.unique(source_N):
            size = self.taken[source]
            epoch_N = np.where(source_N == source, ordinal_N // size, -1)
            for epoch in np.unique(epoch_N[epoch_N >= 0]):
                here_N = epoch_N == epoch
                row_N[here_N] = shuffle.permute(ordinal_N[here_N] % size, size, key=(self._seed, int(source), int(epoch)))
            if size < len(self._sources[source]):
                # The sample of a capped source: the first `size` places of one more shuffled order, of no epoch.
                here_N = source_N == source
                row_N[here_N] = shuffle.permute(row_N[here_N], len(self._sources[source]), key=(self._seed, int(source), SAMPLE))
        return list(zip(source_N.tolist(), row_N.tolist(), strict=True))

    def iterate(
        self, start: int = 0, stop: int | None = None, *, process_index: int = 0, process_count: int = 1, prefetch: int = 2
    ) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` (None: to the end of the data), read ahead by a thread.

        The thread ends with the iterator (`close()` it, or let it go); what it raises is raised here.
        """
        end = self.num_steps if stop is None else stop
        steps = range(start, end) if end is not None else itertools.count(start)
        return _ahead((self.rows(step, process_index, process_count) for step in steps), prefetch)


def in_order(
    source: Rows, batch: int, *, process_index: int = 0, process_count: int = 1, separate: bool = True, limit: int | None = None
) -> Iterator[Batch]:
    """One pass over `source` (its first `limit` rows) in stored order, every row once.

    Every batch has the same shape: the last is filled with padding rows, whose mask and segments
    are 0. With several hosts each gets its part of every batch.
    """
    part = range(batch)[_part(batch, process_index, process_count)]
    count = len(source) if limit is None else min(limit, len(source))
    for start in range(0, count, batch):
        rows = [source[start + slot] for slot in part if start + slot < count]
        blank = pack.Row(*(np.zeros_like(field) for field in source[0]))
        yield collate(rows + [blank] * (len(part) - len(rows)), separate=separate)


def collate(rows: Sequence[pack.Row], *, separate: bool) -> Batch:
    """A batch of B rows of T + 1 tokens.

    Worked example, one row of length 5 that holds two documents and a pad, 1 7 2 | 1 8 | 0::

        separate     tokens 1 7 2 1 8   targets 7 2 1 8 0   loss_mask 1 1 0 1 0   positions 0 1 2 0 1   segment_ids 1 1 1 2 2
        otherwise                                           loss_mask 1 1 0 1 0   positions 0 1 2 3 4   segment_ids 1 1 1 1 1

    (the step from 2 to the next document's BOS has mask 0 in the row already, or, where documents
    have no EOS and it is a sign of the end, gets 0 only with `separate`.)
    """
    tokens = np.stack([row.tokens for row in rows]).astype(np.int32)
    mask = np.stack([row.loss_mask for row in rows]).astype(np.float32)
    segments = np.stack([row.segment_ids for row in rows]).astype(np.int32)
    if not separate:
        segments = (segments > 0).astype(np.int32)
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    positions = np.arange(segments.shape[1] - 1, dtype=np.int32)[None, :]
    starts = np.where(np.pad(same, ((0, 0), (1, 0)))[:, :-1], 0, positions)
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        loss_mask=mask[:, 1:] * same,
        positions=positions - np.maximum.accumulate(starts, axis=1),
        segment_ids=segments[:, :-1],
    )


def _part(batch: int, process_index: int, process_count: int) -> slice:
    if process_count < 1 or batch % process_count or not 0 <= process_index < process_count:
        raise ValueError(f"a batch of {batch} rows cannot be shared out to host {process_index} of {process_count} in equal parts")
    size = batch // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The same items, made by a thread that is up to `depth` of them ahead."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(max(1, depth))
    closed = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
