"""Files that are either whole or not there: write beside, fsync, rename.

Nothing half-written ever stands under a final name. Readers answer with one clear sentence.

What is being written to NAME stands beside it as `.NAME.xxxxxxxx.tmp`, and a directory that is being replaced as
`.NAME.xxxxxxxx.old/former`; the process at work holds a lock on either. A killed process lets go of its locks: whoever writes to
NAME next puts a former directory back that nothing has replaced, and removes the rest.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 << 20


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path`, which then holds all of it or what it held before.

    Raises:
      ValueError: `path` is a directory.
    """
    path = Path(path)
    _refuse_directory(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        if _is_ours(descriptor, temporary):
            break
        os.close(descriptor)
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
    """Reads a JSON file, UTF-8 with or without a byte order mark; duplicate keys, another encoding and oversize are errors.

    Args:
      path: the file.
      what: what the file should be, for the message ("a model's config.json").
      max_bytes: the largest size accepted.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is too large or is not JSON.
    """
    path = Path(path)
    expect(path, what)
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, more than the {max_bytes:,} allowed for {what}")
    return parse_json(path.read_bytes(), path=path, what=what)


def expect(path: str | Path, what: str) -> None:
    """Says what a file should be where there is none.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: there is a folder.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: expected {what}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} not found: expected {what}")


def parse_json(content: bytes, *, path: str | Path, what: str) -> Any:
    """The value that the bytes of a JSON file spell, by the rules of `read_json`.

    Raises:
      ValueError: they spell none; the message names the file and what it should be.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {what}: {error}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_inputs(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuses an output that is, holds or lies inside something that is read; inputs that are not there are left to their reader.

    Raises:
      ValueError: it does.
    """
    path = Path(path)
    for source in map(Path, inputs):
        if not source.exists():
            continue
        inside, around = _within(path, source), path.exists() and _within(source, path)
        if inside and around:
            raise ValueError(f"{path} is read as an input and would be replaced: choose another output")
        if around:
            raise ValueError(f"{path} holds {source}, which is read as an input and would be replaced: choose another output")
        if inside:
            raise ValueError(f"{path} lies inside {source}, which is read as an input: choose another output")


def free_file(path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Says before the work whether a file may be written to `path` at its end.

    Args:
      path: the output.
      overwrite: whether an existing file may be replaced.
      inputs: files and directories that the work reads; none of these, and nothing inside one, is ever written.

    Raises:
      ValueError: `path` is a directory, is one of the inputs or lies inside one, or exists and `overwrite` is false.
      OSError: nothing can be written there.
    """
    path = Path(path)
    _refuse_directory(path)
    _refuse_unwritable(path)
    refuse_inputs(path, inputs)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already: choose another output or replace it with --overwrite")


def free_directory(path: str | Path, *, ours: str, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> Path:
    """The resolved `path`, if a new directory may take its place; `new_directory` asks too, but only when the work is done.

    Args:
      path: the output.
      ours: a file that every directory of its kind has which this program wrote; one without it is replaced only if it is empty.
      overwrite: whether a directory with that file may be replaced.
      inputs: files and directories that the work reads; the output neither is nor holds one, nor lies inside one.

    Raises:
      ValueError: `path` is or holds the current directory, is a mount point or a file, has to do with an input, or holds something else
        than a directory of ours, or one of ours and `overwrite` is false.
      OSError: nothing can be written there.
    """
    place = Path(path).resolve()
    here = Path.cwd()
    if place == here or place in here.parents:
        raise ValueError(f"{path} is or holds the current directory, which cannot be replaced: name a new directory for the output")
    if os.path.ismount(place):
        raise ValueError(f"{path} is a mount point, which cannot be replaced: name a new directory inside it")
    _refuse_unwritable(place)
    _clear(place)
    refuse_inputs(path, inputs)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{path} is a file: name a directory for the output")
    if place.is_dir() and any(place.iterdir()):
        if not (place / ours).is_file():
            raise ValueError(
                f"{path} holds files and no {ours}: only a directory that zhllama wrote is ever replaced, so choose another output, or "
                "remove this one by hand"
            )
        if not overwrite:
            raise ValueError(f"{path} exists already: choose another output, or replace it with --overwrite")
    return place


@contextlib.contextmanager
def new_directory(path: str | Path, *, ours: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary sibling of `path`; on success it is synced and takes the name `path`.

    Raises:
      ValueError: see `free_directory`.
    """
    path = free_directory(path, ours=ours, overwrite=overwrite)
    with folder(path.parent):
        with _locked_sibling(path, ".tmp") as temporary:
            try:
                yield temporary
                os.chmod(temporary, 0o777 & ~_umask())
                sync_tree(temporary)
                free_directory(path, ours=ours, overwrite=overwrite)  # the work took long: somebody may have taken the name meanwhile
                _take_place(temporary, path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        sync_directory(path.parent)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Makes a folder and those above it; if the block fails, those that were made and are empty go again."""
    made = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, and so not the ones above it
            for place in made:
                place.rmdir()
        raise


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
    with _locked_sibling(path, ".old") as aside:
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


@contextlib.contextmanager
def _locked_sibling(path: Path, suffix: str) -> Iterator[Path]:
    """A new directory beside `path`, locked until the end of the block (also where it bears another name by then)."""
    while True:
        sibling = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent))
        descriptor = os.open(sibling, os.O_RDONLY)
        try:
            if _is_ours(descriptor, sibling):
                yield sibling
                return
        finally:
            os.close(descriptor)


def _is_ours(descriptor: int, path: str | Path) -> bool:
    """Locks what was just made; false if another process took it for an abandoned one in the instant before."""
    return _lock(descriptor) is not False and os.path.exists(path)


def _lock(descriptor: int) -> bool | None:
    """Locks an open file or directory until it is closed: true if that is done, false if another holds it, None where nothing can be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None  # a file system without locks
    return True


def _clear(path: Path) -> None:
    """Puts back or removes what killed processes left beside `path`; what a living one holds, or may hold, stays."""
    if not path.parent.is_dir():
        return
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.(tmp|old)")
    for name in sorted(os.listdir(path.parent)):
        if not ours.fullmatch(name):
            continue
        left = path.parent / name
        try:
            descriptor = os.open(left, os.O_RDONLY)
        except OSError:
            continue  # gone by now, or somebody else's
        try:
            if _lock(descriptor):
                if (left / "former").exists() and not path.exists():
                    os.rename(left / "former", path)
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a directory: name a file for the output")


def _within(path: Path, other: Path) -> bool:
    """Whether `path` is `other`, which exists, or lies inside it, however they are spelled; for a link, itself or what it leads to."""
    places = [path.resolve(), *([path.parent.resolve() / path.name] if path.is_symlink() else [])]
    return any(above.exists() and above.samefile(other) for place in places for above in (place, *place.parents))


def _refuse_unwritable(path: Path) -> None:
    """Raises where the nearest folder above `path` that exists is none, or takes no new names."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: the folder {above} is closed to writing")


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
