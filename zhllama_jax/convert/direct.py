"""Large tensors read past the system's page cache, where the system can and the cache does not hold them.

A model is read once or twice, from its beginning to its end, and is often larger than memory. To fill the page cache with it takes two to
three seconds of processor time a gigabyte on some machines, and drives out what is read next; direct reads (`O_DIRECT`) take a quarter.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path

import numpy as np

_BLOCK = 4096
"""What addresses, offsets and lengths of direct reads must be multiples of, on all usual disks."""
_SMALLEST = 4 << 20
"""Fewer bytes are left to the mapping: a disk that is asked for little at a time is slow."""

_LIBC = ctypes.CDLL(None) if hasattr(os, "O_DIRECT") else None


def read(path: Path, begin: int, mapped: np.ndarray) -> np.ndarray:
    """The bytes of a part of a file: `mapped` itself, or a copy that was read past the cache; nobody may write into it.

    Args:
      path: the file.
      begin: where the part begins in the file.
      mapped: the part, mapped, uint8 [bytes]; it is not touched where a copy is returned.

    Raises:
      OSError: the disk does not give them.
      ValueError: the file has become shorter.
    """
    if _LIBC is None or mapped.size < _SMALLEST or _is_cached(_LIBC, mapped):
        return mapped
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:  # what a file system says that has no such reads, in memory for one; the mapping is open already
        return mapped
    try:
        return _read(descriptor, begin, mapped.size)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file system that wants larger blocks
            return mapped
        raise
    except EOFError:
        raise ValueError(f"{path} ends before byte {begin + mapped.size:,}: it was cut short while it was being read") from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, begin: int, size: int) -> np.ndarray:
    first = begin // _BLOCK * _BLOCK
    wanted = begin + size - first
    space = np.empty(-(-wanted // _BLOCK) * _BLOCK + _BLOCK, np.uint8)
    buffer = space[-space.ctypes.data % _BLOCK :][: space.size - _BLOCK]
    done = 0
    while done < wanted:
        done = done // _BLOCK * _BLOCK  # no read begins within a block
        count = os.preadv(descriptor, [buffer[done:].data], first + done)
        if done + count < min(wanted, done + _BLOCK):
            raise EOFError
        done += count
    found = buffer[begin - first :][:size]
    found.flags.writeable = False
    return found


def _is_cached(libc: ctypes.CDLL, mapped: np.ndarray) -> bool:
    """Whether the page cache holds most of a mapped part of a file; True where the system does not say."""
    address = mapped.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = mapped.ctypes.data + mapped.size - address
    pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
    failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data))
    return bool(failed) or int((pages & 1).sum()) * 2 > pages.size
