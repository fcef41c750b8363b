"""Work on the next tensor while this one is used: an iterator that runs in a thread of its own, a little ahead.

Reading, hashing and copying large arrays happen outside Python's lock, so two cores are two.
"""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

DEPTH = 1
"""Tensors that wait to be used: with the one in use and the one in work, three are in memory."""


class _End:
    """The last thing in the queue, with what ended the work."""

    def __init__(self, error: BaseException | None):
        self.error = error


@contextlib.contextmanager
def ahead(items: Iterable[T], depth: int = DEPTH) -> Iterator[Iterable[T]]:
    """Yields the items in their order; whatever making one raises is raised when it is asked for.

    The thread ends when the block does, also where not all items were taken.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    over = threading.Event()

    def put(item: Any) -> bool:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
                del item
        except BaseException as error:
            put(_End(error))
        else:
            put(_End(None))

    def taken() -> Iterator[T]:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        over.set()
        thread.join()
