"""A new file of weights, written once from its beginning to its end, with its digest.

Gigabytes that nobody reads again at once go past the system's page cache where the system can (`O_DIRECT`): to fill that cache costs more
processor time than to hash them, and drives out of it what is read next. What is read back then comes from the disk.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from concurrent import futures
from pathlib import Path

from zhllama_jax.convert import mapped

_CHUNK = 16 << 20


class Sink:
    """A file that grows; a context that closes it in any case.

    Attributes:
      position: bytes written so far.
    """

    def __init__(self, path: str | Path):
        """Begins the file, in place of one that is there.

        Raises:
          OSError: it cannot be made.
        """
        self.position = 0
        self._chunk = memoryview(mmap.mmap(-1, _CHUNK))  # begins at a page, as direct writes ask for
        self._filled = 0
        self._digest = hashlib.sha256()
        self._hasher = futures.ThreadPoolExecutor(1)
        self._file, self._direct = _open(Path(path))  # last, so that nothing fails while it is open and nobody's

    def write(self, content: bytes | memoryview) -> None:
        """Appends bytes, all of them; the caller may change them afterwards.

        Raises:
          OSError: the disk does not take them.
        """
        octets = memoryview(content)
        hashed = self._hasher.submit(self._digest.update, octets)  # takes about as long as the disk: side by side
        done = 0
        while done < len(octets):
            part = octets[done : done + _CHUNK - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            done += len(part)
            if self._filled == _CHUNK:
                self._drain(_CHUNK)
        hashed.result()
        self.position += len(octets)

    def finish(self) -> dict[str, str | int]:
        """Brings all to the disk and closes the file; returns its `sha256` and `bytes`.

        Raises:
          OSError: the disk does not take it.
        """
        whole = self._filled // mapped.BLOCK * mapped.BLOCK
        self._drain(whole)
        self._go_through_the_cache()
        self._drain(self._filled)
        os.fsync(self._file)
        self.close()
        return {"sha256": self._digest.hexdigest(), "bytes": self.position}

    def close(self) -> None:
        """Closes the file, finished or not."""
        self._hasher.shutdown()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drain(self, size: int) -> None:
        """Writes the first bytes of the chunk; those behind them move to its beginning."""
        done = 0
        while done < size:
            try:
                done += os.write(self._file, self._chunk[done:size])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._go_through_the_cache()  # a file system that wants larger blocks, or took less than a whole one
        rest = self._filled - size
        self._chunk[:rest] = bytes(self._chunk[size : self._filled])
        self._filled = rest

    def _go_through_the_cache(self) -> None:
        if self._direct:
            fcntl.fcntl(self._file, fcntl.F_SETFL, fcntl.fcntl(self._file, fcntl.F_GETFL) & ~mapped.DIRECT)
            self._direct = False


def _open(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it writes past the page cache."""
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    if mapped.DIRECT:
        try:
            return os.open(path, how | mapped.DIRECT, 0o666), True
        except OSError as error:
            if error.errno != errno.EINVAL:  # what a file system says that has none, in memory for one
                raise
    return os.open(path, how, 0o666), False
