"""Files that are either whole or not there: write beside, fsync, rename.

Nothing half-written ever stands under a final name; `beside` has what a killed process leaves. Readers answer with one clear sentence.
An output is checked before the work: it has nothing to do with an input, and a directory gives way only to a command that was told so, and
only if this program wrote all that is in it.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zhllama_jax import beside

MAX_JSON_BYTES = 64 << 20

Listing = Callable[[Path], Collection[str]]
"""The names of all that this program wrote into a directory of some kind; raises ValueError for what is no such directory."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_POINTER = b"version https://git-lfs"
_CACHE = re.compile(r"/models--[^/]+/(?:snapshots|blobs|refs)(?:/|$)")


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) to `path`, which then holds all of it or what it held before.

    Raises:
      ValueError: `path` is a directory.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with room(path, len(payload)), new_file(path) as stream:
        stream.write(payload)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yields a stream to a temporary sibling of `path`, which is synced at the end; see `new_path`."""
    with new_path(path) as place, open(place, "xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def new_path(path: str | Path) -> Iterator[Path]:
    """Yields the place of a temporary sibling of `path`, to write a file there and sync it; on success it takes the name `path`.

    Raises:
      ValueError: `path` is a directory.
    """
    path = Path(path)
    _refuse_directory(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.clear(path)
    with beside.place(path) as side:
        yield side / beside.NEW
        os.replace(side / beside.NEW, path)
    beside.sync_directory(path.parent)


def require_room(directory: str | Path, size: int) -> None:
    """Refuses to begin with what the disk cannot hold.

    Raises:
      OSError: with both sizes.
    """
    if size > shutil.disk_usage(directory).free:
        raise _full(errno.ENOSPC, Path(directory), size)


@contextlib.contextmanager
def room(path: str | Path, size: int) -> Iterator[None]:
    """Says of a full disk in the block which file it could not take: `path`, which was to have `size` bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(error.errno, Path(path), size) from error


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
        raise FileNotFoundError(f"{path} not found: expected {what}{beside.remark(path)}")


def expect_folder(path: str | Path, what: str) -> None:
    """Says what a folder should be where there is none.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: there is a file.
    """
    if os.path.isfile(path):
        raise ValueError(f"{path} is a file: expected {what}")
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path} not found: expected {what}{beside.remark(path)}")


def refuse_pointer(path: str | Path) -> None:
    """Refuses the few lines of text that Git LFS puts in the place of a file which it was not asked to fetch.

    Raises:
      ValueError: with what to do.
    """
    with open(path, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path} is only Git LFS's pointer to the file: fetch the file itself with `git lfs pull` in that repository")


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
    """Refuses an output that is, holds or lies inside something that is read, by its real path.

    What a directory's links lead to is read with it. Inputs that are not there are left to their reader. The cache of the Hugging Face hub
    is an input of everything.

    Raises:
      ValueError: it does, or its name is none: `-`, a `~` that the shell left, a link that leads to itself.
    """
    path = Path(path)
    _refuse_name(path)
    if _CACHE.search(str(path.resolve())):
        raise ValueError(f"{path} lies in the cache of the Hugging Face hub, which is only read: choose another output")
    for source in map(Path, inputs):
        if not source.exists():
            continue
        links = [entry for entry in source.iterdir() if entry.is_symlink() and entry.is_file()] if source.is_dir() else []
        for read in (source, *links):
            inside, around = _within(path, read), path.exists() and _within(read, path)
            if inside and around:
                raise ValueError(f"{path} is read as an input and would be replaced: choose another output")
            if around:
                raise ValueError(f"{path} holds {read}, which is read as an input and would be replaced: choose another output")
            if inside:
                raise ValueError(f"{path} lies inside {read}, which is read as an input: choose another output")


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


def usable_directory(path: str | Path, *, inputs: Iterable[str | Path] = ()) -> Path:
    """The resolved `path`, if a directory that this program writes may stand there, whatever does now.

    What stood there before a killed command was about to replace it is put back.

    Args:
      path: the output.
      inputs: files and directories that the work reads; the output neither is nor holds one, nor lies inside one.

    Raises:
      ValueError: `path` is or holds the current directory, is a mount point or a file, or has to do with an input.
      OSError: nothing can be written there.
    """
    _refuse_name(Path(path))
    place = Path(path).resolve()
    here = Path.cwd()
    if place == here or place in here.parents:
        raise ValueError(f"{path} is or holds the current directory, which cannot be replaced: name a new directory for the output")
    if os.path.ismount(place):
        raise ValueError(f"{path} is a mount point, which cannot be replaced: name a new directory inside it")
    _refuse_unwritable(place)
    beside.restore(place)
    refuse_inputs(path, inputs)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{path} is a file: name a directory for the output")
    return place


def free_directory(path: str | Path, *, ours: Listing, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> Path:
    """The resolved `path`, if a new directory may take its place; `new_directory` asks too, but only when the work is done.

    A file that this program wrote counts as its own whatever became of it since.

    Args:
      path: the output.
      ours: tells the directories that may be replaced, and what belongs to one; an empty directory is always free.
      overwrite: whether a directory of ours may be replaced.
      inputs: see `usable_directory`.

    Raises:
      ValueError: see `usable_directory`; or something is there that is not ours, or is kept beside, or is ours and `overwrite` is false.
      OSError: nothing can be written there.
    """
    place = usable_directory(path, inputs=inputs)
    if former := beside.kept(place):
        raise ValueError(
            f"{path} was made anew after a command that was replacing it was killed, and what stood there before is kept in {former}: "
            "move that to another name, or remove it"
        )
    if place.is_dir() and any(place.iterdir()):
        _refuse_foreign(Path(path), ours)
        if not overwrite:
            raise ValueError(f"{path} exists already: choose another output, or replace it with --overwrite")
    return place


@contextlib.contextmanager
def new_directory(path: str | Path, *, ours: Listing, overwrite: bool = False) -> Iterator[Path]:
    """Yields a new folder beside `path`; on success it is synced and takes the name `path`.

    Raises:
      ValueError: see `free_directory`.
      OSError: something could not be written; the error names the place that it would have had below `path`.
    """
    path = free_directory(path, ours=ours, overwrite=overwrite)
    with folder(path.parent):
        beside.clear(path)
        with beside.place(path) as side:
            new = side / beside.NEW
            with _named(new, path):
                new.mkdir()
                yield new
                beside.sync_tree(side)
            free_directory(path, ours=ours, overwrite=overwrite)  # the work took long: somebody may have taken the name meanwhile
            _take_place(side, path)
            beside.sync_directory(path.parent)  # the new name is on the disk before what it replaced is removed


@contextlib.contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Gives errors about what lies in `temporary` the name that it would have had in `path`."""
    try:
        yield
    except OSError as error:
        name = "" if error.filename is None else os.fsdecode(error.filename)
        inside = Path(name).is_relative_to(temporary)
        if not (inside or (not name and error.errno in _FULL)):
            raise
        place = path / Path(name).relative_to(temporary) if inside else path
        raise OSError(error.errno, error.strerror, str(place)) from error


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


def _take_place(side: Path, path: Path) -> None:
    """Renames what was made to `path`; a former `path` is moved aside first, and removed with the rest of `side`."""
    new, former = side / beside.NEW, side / beside.FORMER
    if not path.exists():
        os.rename(new, path)
        return
    os.rename(path, former)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(former, path)  # if even this fails, `side` stays, and the next command puts it right
        raise


def _full(number: int, path: Path, size: int) -> OSError:
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    return OSError(number, f"{os.strerror(number)}: {size:,} bytes are to be written, {free:,} are free", str(path))


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a directory: name a file for the output")


def _refuse_name(path: Path) -> None:
    """Refuses what is meant for a shell, and a link that leads nowhere but to itself."""
    first = path.parts[0] if path.parts else ""
    if first == "-":
        raise ValueError("an output is a file or directory, never standard output: name one instead of -")
    if first.startswith("~"):
        raise ValueError(f"{path} begins with ~, which only a shell replaces, and only at the start of a word: write the whole path")
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path}: a symbolic link there leads to itself: remove it, or choose another output") from None


def _refuse_foreign(path: Path, ours: Listing) -> None:
    """Refuses to replace a directory that is not of the kind asked for, or that holds anything besides what this program wrote there."""
    try:
        listed = ours(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}; only a directory of its kind that zhllama wrote is ever replaced: choose another output, or remove this one by hand"
        ) from None
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in listed)
    if foreign:
        some = ", ".join(foreign[:8]) + (" …" if len(foreign) > 8 else "")
        raise ValueError(f"{path} holds {some}, which zhllama did not write there: move that away, or choose another output")


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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands there twice")
        result[key] = value
    return result
