"""Texts on the command line: FILE or NAME=FILE."""

from collections.abc import Sequence
from pathlib import Path


def named(entries: Sequence[str]) -> dict[str, list[str]]:
    """Files by name, in order; several entries of one name are one text. Without a name the file's stem is taken.

    A '=' behind a '/' belongs to the path.

    Raises:
      ValueError: an entry has an empty name or an empty path.
    """
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or "/" in name:
            name, path = Path(entry).stem, entry
        if not name or not path:
            raise ValueError(f"a text must be FILE or NAME=FILE, got {entry!r}")
        found.setdefault(name, []).append(path)
    return found
