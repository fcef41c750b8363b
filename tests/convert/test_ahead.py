"""Results come in order, errors where they happen, several are made at once, and the threads end with the block."""

import threading
from collections.abc import Iterator

import pytest

from zhllama_jax.convert import ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_keep_their_order_and_none_is_lost(workers: int) -> None:
    with ahead.ahead(lambda number: number * number, range(100), workers) as results:
        assert list(results) == [number * number for number in range(100)]


def test_so_many_are_made_at_once() -> None:
    together = threading.Barrier(3)  # breaks unless three threads meet
    with ahead.ahead(lambda _: together.wait(timeout=30), range(6), workers=3) as results:
        assert sorted(results) == [0, 0, 1, 1, 2, 2]


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []
    go = threading.Semaphore(0)

    def make(number: int) -> int:
        made.append(number)
        go.release()
        return number

    with ahead.ahead(make, range(10), workers=2) as results:
        assert next(iter(results)) == 0
        for _ in range(3):  # the first, and two that wait
            assert go.acquire(timeout=30)
        assert not go.acquire(timeout=0.3) and sorted(made) == [0, 1, 2]


def test_errors_come_where_they_happen() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("the second")
        return number

    with ahead.ahead(make, range(3)) as results:
        taken = iter(results)
        assert next(taken) == 0
        with pytest.raises(ValueError, match="the second"):
            next(taken)


def test_the_threads_end_where_the_user_does() -> None:
    with pytest.raises(KeyError), ahead.ahead(str, range(1000)) as results:
        next(iter(results))
        raise KeyError
