"""Files that are either whole or not there: write beside, fsync, rename.

Nothing half-written ever stands under a final name. Readers answer with one clear sentence.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 << 20


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path`, which then holds all of it or what it held before."""
    path = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as readable JSON (UTF-8, two blanks of indent), atomically."""
    atomic_write(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: str | Path, *, what: str = "a JSON file", max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file; duplicate keys, a wrong encoding and oversize are errors.

    Args:
      path: the file.
      what: what the file should be, for the message ("a model's config.json").
      max_bytes: the largest size accepted.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is too large or is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected {what}")
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, more than the {max_bytes:,} allowed for {what}")
    try:
        return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_unique_keys)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {what}: {error}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def new_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `path`; on success it is synced and takes the name `path`.

    Raises:
      ValueError: `path` exists and is not an empty directory, and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} exists already: choose another output or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        sync_tree(temporary)
        _take_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def sync_tree(directory: str | Path) -> None:
    """Flushes every file and folder below `directory` to the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(folder)


def sync_directory(directory: str | Path) -> None:
    """Flushes a folder's own entries (new names, renames) to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`; a former `path` is moved aside first and removed last."""
    if not path.exists():
        os.rename(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    former = aside / "former"
    try:
        os.rename(path, former)
        os.rename(temporary, path)
    except BaseException:
        if former.exists():
            os.rename(former, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """The process's file-creation mask; reading it means setting it for an instant."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands there twice")
        result[key] = value
    return result
