"""What all readers of weights have in common, and one that looks at every tensor as it is read.

A reader presents a model's tensors under Hugging Face's names and in its shapes, whatever the format, one at a time: see
`safetensors_io`, `torch_io`, `llama_meta` and `gguf_io`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Entry(Protocol):
    """One tensor as a file describes it."""

    @property
    def dtype(self) -> str:
        """As in `safetensors_io.DTYPES`, or another that is stored but not a number as we compute with."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""


class Reader(Protocol):
    """The tensors of a model or an adapter, opened."""

    @property
    def notes(self) -> list[str]:
        """What is odd in the files and harmless, as sentences."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What the files say, by tensor name."""

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers, into which nobody may write.

        Args:
          name: of the tensor.
          once: they will not be read again soon: large ones go past the system's page cache, see `mapped.File.once`.
        """

    def close(self) -> None:
        """Closes the files."""


Look = Callable[[Path, str, np.ndarray], dict[str, Any] | None]
"""Sees a tensor (its file, name, numbers) as it is read: raises ValueError for what it refuses, returns what it says of the tensor."""


class Watched:
    """A reader whose tensors somebody looks at as they are read.

    Attributes:
      described: what was said of the tensors that were read, by name.
    """

    def __init__(self, reader: Reader, look: Look | None = None):
        self.described: dict[str, dict[str, Any]] = {}
        self._reader, self._look = reader, look
        self._seen: set[str] = set()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What the files say, by tensor name."""
        return self._reader.entries

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def notes(self) -> list[str]:
        """What is odd in the files and harmless, as sentences."""
        return self._reader.notes

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._reader.file(name)

    @property
    def unseen(self) -> list[str]:
        """The tensors that were not read yet."""
        return [name for name in self.entries if name not in self._seen]

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers; who looks sees them the first time only.

        Raises:
          ValueError: the reader or the one who looks refuses them.
        """
        array = self._reader.read(name, once=once)
        if name not in self._seen:
            if self._look is not None and (said := self._look(self.file(name), name, array)) is not None:
                self.described[name] = said
            self._seen.add(name)
        return array

    def close(self) -> None:
        """Closes the files."""
        self._reader.close()

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
