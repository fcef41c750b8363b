"""Text files line by line: bytes split at newlines only, decoded strictly, every fault named by file and line.

Binary iteration matters: Python's text mode also splits at U+2028, form feeds and lone carriage returns, which are
ordinary characters inside a document. A line here ends with LF or CR LF and nothing else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 256 << 20
SUFFIXES = (".txt", ".jsonl")


def read(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end) of a UTF-8 file, empty lines included.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not UTF-8 or is longer than `MAX_LINE_BYTES`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected a text file")
    with open(path, "rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise ValueError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB: split it into documents, one a line"
                )
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})") from None


def objects(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a JSONL file; blank lines are passed over.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is not UTF-8, not JSON or not an object.
    """
    for number, line in read(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno}): each line must be one JSON object") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not acceptable JSON ({error})") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {_kind(value)}")
        yield number, value


def records(path: str | Path, field: str = "text") -> Iterator[tuple[int, str]]:
    """Yields (line number, text): each line of a `.txt` file, or `field` of each object of a `.jsonl` file.

    Lines of nothing but white space are passed over.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another suffix, a malformed line, or an object without a string under `field`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: cannot tell what this file holds: name it .txt (one text a line) or .jsonl (one JSON object a line)")
    if suffix == ".txt":
        for number, line in read(path):
            if line.strip():
                yield number, line
        return
    for number, value in objects(path):
        if field not in value:
            raise ValueError(f"{path}:{number}: no field {field!r}; the object has {', '.join(map(repr, value)) or 'none'}")
        if not isinstance(value[field], str):
            raise ValueError(f"{path}:{number}: the field {field!r} must be a string, found {_kind(value[field])}")
        if value[field].strip():
            yield number, value[field]


def _kind(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
