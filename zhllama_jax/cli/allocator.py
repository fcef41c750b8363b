"""How the C library keeps memory, for the verbs that compute for long."""

import contextlib
import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""The names that glibc's mallopt(3) gives them."""


def keep_freed_memory() -> bool:
    """Has glibc's allocator reuse freed blocks instead of handing them back to the kernel; True where that was done.

    XLA on a CPU takes its temporaries anew in every step, megabytes each. By default glibc maps such blocks from the kernel and unmaps them
    when they are freed, and the kernel clears every page again: a sixth of all processor time of the demo's training steps. The
    process keeps the most memory that it ever used, so verbs that need much of it once and for a moment leave this alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt, or one that does nothing
        mallopt = ctypes.CDLL(None).mallopt
        chosen = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 1 << 26}
        return all([mallopt(name, value) for name, value in chosen.items()])
    return False
