"""Work on the next tensors while one is used: results in their order, made by a few threads that are a little ahead.

Reading, hashing, computing and copying large arrays happen outside Python's lock, so the threads keep as many processors busy.
"""

import collections
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

WORKERS = min(os.cpu_count() or 1, 4)
"""Results that are in work or wait: with the one in use, so many and one are in memory."""


@contextlib.contextmanager
def ahead(make: Callable[[T], U], items: Iterable[T], workers: int = WORKERS) -> Iterator[Iterable[U]]:
    """Yields `make(item)` for each item, in order; whatever making one raises is raised when it is asked for.

    The threads end when the block does, also where not all results were taken.
    """
    pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    coming = iter(items)
    waiting: collections.deque[futures.Future[U]] = collections.deque()

    def begin() -> None:
        for item in coming:
            waiting.append(pool.submit(make, item))
            if len(waiting) == workers:
                return

    def taken() -> Iterator[U]:
        begin()
        while waiting:
            result = waiting.popleft().result()
            begin()
            yield result
            del result

    try:
        yield taken()
    finally:
        pool.shutdown(cancel_futures=True)
