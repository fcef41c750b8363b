"""Items come in order, errors where they happen, and the thread ends with the block."""

import threading
from collections.abc import Iterator

import pytest

from zhllama_jax.convert import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


def test_items_keep_their_order_and_none_is_lost() -> None:
    with ahead.ahead(iter(range(100))) as items:
        assert list(items) == list(range(100))
    assert threads() == []


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []
    go = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            go.release()
            yield number

    with ahead.ahead(make(), depth=2) as items:
        first = next(iter(items))
        for _ in range(4):  # the first, two that wait, and one in work
            assert go.acquire(timeout=30)
        assert first == 0 and not go.acquire(timeout=0.3) and made == [0, 1, 2, 3]
    assert threads() == []


def test_errors_come_where_they_happen() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    with ahead.ahead(make()) as items:
        taken = iter(items)
        assert next(taken) == 1
        with pytest.raises(ValueError, match="the second"):
            next(taken)
    assert threads() == []


def test_the_thread_ends_where_the_user_does() -> None:
    with pytest.raises(KeyError), ahead.ahead(iter(range(1000))) as items:
        next(iter(items))
        raise KeyError
    assert threads() == []
