"""Memory that a process keeps for its next arrays, instead of giving it back and asking for it anew.

A conversion makes and drops arrays of a hundred megabytes all the time. By its defaults the C library gives each of them back to the system
at once, and the system clears the pages of the next one: half a second of processor time a gigabyte, on a virtual machine whose host takes
pages back up to three.
"""

import ctypes

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEPT = (1 << 31) - 1


def keep() -> None:
    """Has the C library keep what this process frees; for programs, since it holds for all of the process until its end.

    Where the library is another than glibc, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another library, or a system that has none of the name
        return
    mallopt(_ARENA_MAX, 1)  # the heaps of other threads hold no large arrays
    mallopt(_MMAP_MAX, 0)  # a mapping of its own is given back when its array goes
    mallopt(_TRIM_THRESHOLD, _KEPT)
