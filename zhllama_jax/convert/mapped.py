"""A file of weights, mapped; its large parts may also be read past the system's page cache.

What is mapped stays in the cache, so that the next program that loads the model finds it there. A conversion reads a model two or three
times from its beginning to its end, often more than memory holds, and nobody reads it again at once. To fill the cache with it takes two to
three seconds of processor time a gigabyte on some machines, and drives out what is read next; direct reads (`O_DIRECT`) take a quarter.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path

import numpy as np

BLOCK = 4096
"""What addresses, offsets and lengths of direct reads and writes must be multiples of, on all usual disks."""
DIRECT = getattr(os, "O_DIRECT", 0)
"""The flag for them; 0 where the system has none."""

_SMALLEST = 4 << 20
"""Fewer bytes are left to the mapping: a disk that is asked for little at a time is slow."""
_LIBC = ctypes.CDLL(None) if DIRECT else None


class File:
    """A file, mapped: nothing is read before it is used. What was taken of it may outlive it."""

    def __init__(self, path: Path, descriptor: int):
        """Maps an open file, which the caller may close.

        Raises:
          OSError, ValueError: it cannot be mapped, as one without a byte.
        """
        self._path = path
        self._status = os.fstat(descriptor)
        self._octets = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)

    def window(self, begin: int, end: int) -> np.ndarray:
        """The bytes from `begin` to `end`, where they are: uint8, read-only."""
        return self._octets[begin:end]

    def once(self, begin: int, end: int) -> np.ndarray | None:
        """A copy of the bytes from `begin` to `end`, read past the cache, for who will not need them again soon: uint8, read-only.

        None where the window is the better way: for a small part or one that the cache holds, and where there are no direct reads.

        Raises:
          OSError: the disk does not give them.
          ValueError: the file has become shorter.
        """
        window = self.window(begin, end)
        if _LIBC is None or window.size < _SMALLEST or _is_cached(_LIBC, window):
            return None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | DIRECT)
        except OSError:  # what a file system says that has none, in memory for one; or the file was removed: it is mapped still
            return None
        try:
            if not os.path.samestat(os.fstat(descriptor), self._status):
                return None  # another file has its name by now
            return self._read(descriptor, begin, end)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file system that wants larger blocks
                return None
            raise
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, begin: int, end: int) -> np.ndarray | None:
        first = begin // BLOCK * BLOCK
        wanted = end - first
        space = np.empty(-(-wanted // BLOCK) * BLOCK + BLOCK, np.uint8)
        buffer = space[-space.ctypes.data % BLOCK :][: space.size - BLOCK]
        done = 0
        while done < wanted:
            done = done // BLOCK * BLOCK  # no read begins within a block
            count = os.preadv(descriptor, [buffer[done:].data], first + done)
            if done + count < min(wanted, done + BLOCK):
                if os.fstat(descriptor).st_size < end:
                    raise ValueError(f"{self._path} ends before byte {end:,}: it was cut short while it was being read")
                return None  # a file system that gives less than a block at a time
            done += count
        found = buffer[begin - first :][: end - begin]
        found.flags.writeable = False
        return found


def _is_cached(libc: ctypes.CDLL, window: np.ndarray) -> bool:
    """Whether the page cache holds most of a mapped part of a file; True where the system does not say."""
    address = window.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = window.ctypes.data + window.size - address
    pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
    failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data))
    return bool(failed) or int((pages & 1).sum()) * 2 > pages.size
