"""Texts on the command line: FILE or NAME=FILE."""

from collections.abc import Sequence
from pathlib import Path


def named(entries: Sequence[str]) -> dict[str, list[str]]:
    """Files by name, in order; several entries of one name are one text. Without a name the file's stem is taken.

    A '=' behind a '/' belongs to the path.

    Raises:
      ValueError: an entry has an empty name or an empty path, or two files without a name have one stem.
    """
    found: dict[str, list[str]] = {}
    stems: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or "/" in name:
            name, path = Path(entry).stem, entry
            if name and stems.setdefault(name, path) != path:
                raise ValueError(
                    f"{stems[name]} and {path} are both named {name}: write NAME=FILE for each, of one name if they are one text"
                )
        if not name or not path:
            raise ValueError(f"a text must be FILE or NAME=FILE, got {entry!r}")
        found.setdefault(name, []).append(path)
    return found
