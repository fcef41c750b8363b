"""Files mapped into memory, of which the system is told how they are read."""

import mmap
from typing import IO


def mapped(stream: IO[bytes], length: int = 0, offset: int = 0) -> mmap.mmap:
    """The bytes of an open file, to be read; nothing is before it is used.

    A tensor is read from its beginning to its end. Where the system knows, it fetches a large piece ahead instead of some pages at every
    fault: weights that no memory holds came at 1.6 GB/s and 0.15 s of processor time a GB instead of 0.7 GB/s and 2.3 s (two cores, Linux).

    Args:
      stream: the file.
      length: bytes; 0 maps all.
      offset: where they begin, a multiple of `mmap.ALLOCATIONGRANULARITY`.
    """
    found = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_READ, offset=offset)
    if hasattr(mmap, "MADV_SEQUENTIAL"):
        found.madvise(mmap.MADV_SEQUENTIAL)
    return found
