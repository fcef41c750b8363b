"""How the C library keeps memory, for the verbs that compute for long."""

import contextlib
import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
"""The names that glibc's mallopt(3) gives them."""


def keep_freed_memory(*, one_heap: bool = False) -> bool:
    """Has glibc's allocator reuse freed blocks instead of handing them back to the kernel; True where that was done.

    XLA on a CPU takes its temporaries anew in every step, megabytes each, and a conversion makes and drops arrays of a hundred megabytes.
    By default glibc maps such blocks from the kernel and unmaps them when they are freed, and the kernel clears every page again: a sixth
    of all processor time of the demo's training steps; half a second for each gigabyte of a conversion, and up to three on a virtual
    machine whose host takes pages back. The process keeps the most memory that it ever used, to its end.

    Args:
      one_heap: all threads share one: those of others hold no block above 64 MiB. For programs whose threads take few and large ones;
        call it before libraries start threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt, or one that does nothing
        mallopt = ctypes.CDLL(None).mallopt
        chosen = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 1 << 26} | ({ARENA_MAX: 1} if one_heap else {})
        return all([mallopt(name, value) for name, value in chosen.items()])
    return False
