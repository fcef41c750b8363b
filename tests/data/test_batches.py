"""The order is a function of (seed, step): not of hosts, of restarts, or of who asks first."""

import threading
import time
from collections import Counter

import numpy as np
import pytest

from zhllama_jax.data import batches, config, pack

LENGTH = 6


def rows(count: int, base: int = 0) -> list[pack.Row]:
    """Rows whose first token names them."""
    rng = np.random.default_rng(base)
    made = []
    for number in range(count):
        cut = rng.integers(1, LENGTH)
        segments = np.array([1] * cut + [2] * (LENGTH + 1 - cut), np.uint16)
        tokens = np.array([base + number, *rng.integers(10, 99, LENGTH)], np.uint32)
        made.append(pack.Row(tokens, np.array([0] + [1] * LENGTH, np.uint8), segments))
    return made


def names(batch: batches.Batch) -> list[int]:
    return [int(name) for name in batch.tokens[:, 0]]


def same(left: batches.Batch, right: batches.Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_collate_worked_example() -> None:
    row = pack.Row(np.array([1, 7, 2, 1, 8, 0]), np.array([0, 1, 1, 0, 1, 0]), np.array([1, 1, 1, 2, 2, 0]))
    batch = batches.collate([row], separate=True)
    assert batch.tokens.tolist() == [[1, 7, 2, 1, 8]]
    assert batch.targets.tolist() == [[7, 2, 1, 8, 0]]
    assert batch.loss_mask.tolist() == [[1, 1, 0, 1, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2]]
    together = batches.collate([row], separate=False)
    assert together.loss_mask.tolist() == [[1, 1, 0, 1, 0]]
    assert together.positions.tolist() == [[0, 1, 2, 3, 4]]
    assert together.segment_ids.tolist() == [[1, 1, 1, 1, 1]]
    assert [field.dtype for field in batch] == [np.int32, np.int32, np.float32, np.int32, np.int32]


def test_a_sign_of_an_end_is_predicted_only_where_documents_see_each_other() -> None:
    """Documents without EOS: the BOS behind 7 (mask 1 in the row) says that the document has ended."""
    row = next(pack.pack([[7], [8, 9]], length=4, bos_id=1, eos_id=None))
    assert row.tokens.tolist() == [1, 7, 1, 8, 9]
    assert batches.collate([row], separate=False).loss_mask.tolist() == [[1, 1, 1, 1]]
    assert batches.collate([row], separate=True).loss_mask.tolist() == [[1, 0, 1, 1]]


def test_padding_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(10, 99, rng.integers(1, 9)).tolist() for _ in range(40)]
    for row in pack.pack(documents, length=LENGTH, bos_id=1, eos_id=2):
        for separate in (True, False):
            batch = batches.collate([row], separate=separate)
            real = (row.segment_ids[1:] > 0).astype(np.float32)
            assert (batch.loss_mask[0] <= real).all()
            assert not batch.segment_ids[0][row.segment_ids[:-1] == 0].any()


def test_positions_count_from_the_start_of_each_segment() -> None:
    batch = batches.collate(rows(20), separate=True)
    for b, t in np.ndindex(*batch.tokens.shape):
        start = t
        while start and batch.segment_ids[b, start - 1] == batch.segment_ids[b, t]:
            start -= 1
        assert batch.positions[b, t] == t - start


def test_every_epoch_has_every_row_once_in_another_order() -> None:
    run = batches.Batches([rows(12)], global_batch=4, seed=5)
    epochs = [[name for step in range(3 * epoch, 3 * epoch + 3) for name in names(run.rows(step))] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != [name for step in range(3) for name in names(batches.Batches([rows(12)], global_batch=4, seed=6).rows(step))]


def test_an_epoch_may_end_inside_a_batch() -> None:
    run = batches.Batches([rows(10)], global_batch=4, seed=0)
    seen = [name for step in range(5) for name in names(run.rows(step))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


@pytest.mark.parametrize("process_count", [1, 2, 4, 8])
def test_hosts_together_read_the_same_whatever_their_number(process_count: int) -> None:
    run = batches.Batches([rows(30), rows(9, 100)], global_batch=8, seed=1, shares=[config.Share(3), config.Share(1)])
    for step in (0, 1, 7, 1000):
        whole = run.rows(step)
        parts = [run.rows(step, process, process_count) for process in range(process_count)]
        assert all(part.tokens.shape == (8 // process_count, LENGTH) for part in parts)
        assert same(batches.Batch(*map(np.concatenate, zip(*parts, strict=True))), whole)
        assert same(run.take(step, slice(2, 5)), batches.Batch(*(field[2:5] for field in whole)))


def test_a_run_that_restarts_at_any_step_goes_on_the_same() -> None:
    """The law of Grain's iterators, for every step of an epoch and beyond."""
    run = batches.Batches([rows(20), rows(7, 100)], global_batch=4, seed=2)
    straight = list(run.iterate(0, 12))
    for start in range(13):
        again = batches.Batches([rows(20), rows(7, 100)], global_batch=4, seed=2)
        rest = list(again.iterate(start, 12))
        assert len(rest) == 12 - start
        assert all(same(left, right) for left, right in zip(straight[start:], rest, strict=True))


def test_shares_hold_in_every_batch_and_sources_keep_their_epochs() -> None:
    run = batches.Batches([rows(40), rows(6, 100)], global_batch=8, seed=0, shares=[config.Share(3), config.Share(1)])
    seen: Counter[int] = Counter()
    for step in range(30):
        here = names(run.rows(step))
        assert sum(name >= 100 for name in here) == 2
        seen.update(here)
    assert set(seen.values()) == {4, 5, 10}, "180 rows of 40: 4 or 5 times each; 60 of 6: 10 times each"


def test_a_limited_run_ends() -> None:
    run = batches.Batches([rows(10)], global_batch=4, seed=0, shares=[config.Share(max_epochs=2)])
    assert run.num_steps == 5
    assert sorted(name for batch in run.iterate() for name in names(batch)) == sorted([*range(10)] * 2)
    with pytest.raises(ValueError, match="step 5: the data have 5 steps"):
        run.rows(5)


def test_a_capped_source_is_a_sample_that_stays_the_same() -> None:
    """Each epoch goes over the same rows in another order; another seed takes other rows; without an effect a cap changes no bit."""
    capped = [config.Share(max_rows=6)]
    run = batches.Batches([rows(40)], global_batch=6, seed=3, shares=capped)
    epochs = [names(run.rows(step)) for step in range(4)]
    assert run.taken == [6] and len(set(epochs[0])) == 6
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    other = batches.Batches([rows(40)], global_batch=6, seed=4, shares=capped)
    assert sorted(names(other.rows(0))) != sorted(epochs[0])
    whole = batches.Batches([rows(40)], global_batch=6, seed=3)
    wide = batches.Batches([rows(40)], global_batch=6, seed=3, shares=[config.Share(max_rows=40)])
    assert all(same(whole.rows(step), wide.rows(step)) for step in range(9))


def test_every_row_may_be_in_a_sample() -> None:
    found = {name for seed in range(60) for name in names(batches.Batches([rows(9)], global_batch=2, seed=seed, taken=[2]).rows(0))}
    assert found == set(range(9))


def test_a_cap_and_epochs_end_a_run_together() -> None:
    shares = [config.Share(1, max_epochs=2, max_tokens=18), config.Share(1, max_epochs=1)]
    run = batches.Batches([rows(10), rows(6, 100)], global_batch=3, seed=0, shares=shares)
    seen = Counter(name for batch in run.iterate() for name in names(batch))
    assert run.taken == [3, 6] and run.num_steps == 4
    assert sorted(count for name, count in seen.items() if name < 100) == [2, 2, 2]
    assert all(seen[name] == 1 for name in range(100, 106))


def test_wrong_shapes_of_runs_are_refused() -> None:
    run = batches.Batches([rows(10)], global_batch=4, seed=0)
    with pytest.raises(ValueError, match="host 0 of 3"):
        run.rows(0, 0, 3)
    with pytest.raises(ValueError, match="host 2 of 2"):
        run.rows(0, 2, 2)
    with pytest.raises(ValueError, match="global_batch"):
        batches.Batches([rows(10)], global_batch=0, seed=0)
    with pytest.raises(ValueError, match="has no rows"):
        batches.Batches([rows(10), []], global_batch=4, seed=0)
    short = [pack.Row(*(field[:-1] for field in row)) for row in rows(3)]
    with pytest.raises(ValueError, match="rows read 6, 5 tokens"):
        batches.Batches([rows(10), short], global_batch=4, seed=0)


def reader_threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


def test_reading_ahead_stops_with_its_reader() -> None:
    run = batches.Batches([rows(10)], global_batch=4, seed=0)
    iterator = run.iterate(3)
    assert same(next(iterator), run.rows(3)) and reader_threads() == 1
    iterator.close()  # type: ignore[attr-defined]
    assert reader_threads() == 0
    list(run.iterate(0, 3))
    assert reader_threads() == 0


class Failing(list[pack.Row]):
    """Rows of which one cannot be read."""

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if index == 7:
            raise OSError("row 7 is gone")
        return super().__getitem__(index)


def test_a_fault_of_the_reading_thread_is_raised_by_the_iterator() -> None:
    run = batches.Batches([Failing(rows(10))], global_batch=2, seed=0)
    with pytest.raises(OSError, match="row 7 is gone"):
        list(run.iterate(0, 5))
    assert reader_threads() == 0


class Counting(list[pack.Row]):
    """Rows that count how often they are read."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().__getitem__(index)


def test_reading_runs_ahead_but_not_away() -> None:
    """With one batch taken, two wait and one more is in the reader's hands."""
    source = Counting(rows(40))
    run = batches.Batches([source], global_batch=4, seed=0)
    before = source.reads
    iterator = run.iterate(prefetch=2)
    next(iterator)
    deadline = time.monotonic() + 30
    while source.reads - before < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert source.reads - before == 16
    iterator.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_validation_sees_every_row_once(count: int, process_count: int) -> None:
    source = rows(count)
    parts = [
        list(batches.in_order(source, 4, process_index=process, process_count=process_count, separate=True))
        for process in range(process_count)
    ]
    assert {len(part) for part in parts} == {-(-count // 4)}
    whole = [batches.Batch(*map(np.concatenate, zip(*step, strict=True))) for step in zip(*parts, strict=True)]
    assert all(batch.tokens.shape == (4, LENGTH) for batch in whole)
    joined = batches.Batch(*map(np.concatenate, zip(*whole, strict=True)))
    assert same(batches.Batch(*(field[:count] for field in joined)), batches.collate(source, separate=True))
    assert not joined.loss_mask[count:].any() and not joined.segment_ids[count:].any()


def test_validation_may_be_limited() -> None:
    found = list(batches.in_order(rows(9), 4, limit=6))
    assert [names(batch) for batch in found] == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert [batch.loss_mask.any(axis=1).tolist() for batch in found] == [[True] * 4, [True, True, False, False]]
