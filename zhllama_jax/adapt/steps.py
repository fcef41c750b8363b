"""A list of steps, each done once: what a step is made from decides whether it must be done again.

A step's key is a digest of its settings, of the content of the files it reads, and of the keys of the steps before it that it needs.
Its record `<output>/.steps/<name>.json` is written when the step has ended; a record with the same key means there is nothing to do. A
step that was interrupted finds its folder as it left it (training resumes there); a step whose key has changed finds an
empty one. Only a folder that a step of this list began, as `<output>/.steps/<name>.begun` says, is ever emptied.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zhllama_jax
from zhllama_jax import files
from zhllama_jax.train import guard

RECORDS = ".steps"


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a pipeline.

    Attributes:
      name: names the step, its record and, unless `folder` does, its folder.
      run: does the work in the given folder, with the figures of all former steps by name; returns its own figures (JSON),
        of which `remarks` are sentences to be said when it is done.
      settings: whatever decides the result (JSON).
      reads: files and folders from outside the pipeline, whose content decides the result.
      needs: names of former steps whose results this one uses.
      folder: below the pipeline's output; None is `steps/<name>`.
      leaves_files: false for a step that returns figures and no more: it gets no folder.
    """

    name: str
    run: Callable[[Path, Mapping[str, Any]], dict[str, Any]]
    settings: Any = None
    reads: Sequence[str] = ()
    needs: Sequence[str] = ()
    folder: str | None = None
    leaves_files: bool = True


@dataclasses.dataclass(frozen=True)
class Record:
    """What stands about a finished step.

    Attributes:
      key: digest of what the step was made from.
      seconds: time it took when it was done, interrupted attempts included.
      figures: what it returned.
    """

    key: str
    seconds: float
    figures: dict[str, Any]


RECORDED = {"key": str, "seconds": float, "figures": dict}
"""What a record holds as JSON."""


def check(steps: Sequence[Step], output: Path) -> None:
    """Looks at all steps before the first one.

    Raises:
      FileNotFoundError: something that a step reads is missing.
      ValueError: two steps of one name, a need that is not a former step, or an input where a step would write.
    """
    _check(steps)
    _check_reads(steps, output)


def claim(output: Path) -> None:
    """Takes a folder as the output of a pipeline: an empty one, or that of a former run.

    Raises:
      ValueError: it holds files, and none of a pipeline.
    """
    records = output / RECORDS
    if not records.is_dir() and any(path.name != guard.LOCK for path in output.iterdir()):
        raise ValueError(f"{output} holds files that no run of this pipeline wrote: choose another output, or an empty folder")
    records.mkdir(exist_ok=True)


def run(steps: Sequence[Step], output: Path, say: Callable[[str], None]) -> dict[str, Record]:
    """Does every step that is not done yet, in order; says one line before and after each.

    Raises:
      FileNotFoundError, ValueError: see `check`, before anything is done; or a folder that is not empty though no step began it.
    """
    check(steps, output)
    records: dict[str, Record] = {}
    for index, step in enumerate(steps, 1):
        key = _key(step, {name: records[name].key for name in step.needs})
        record_path = output / RECORDS / f"{step.name}.json"
        label = f"[{index}/{len(steps)}] {step.name}"
        record = _read(record_path)
        folder = _folder(step, output)
        if record is not None and record.key == key and (folder.is_dir() or not step.leaves_files):
            say(f"{label}: done before")
            records[step.name] = record
            continue
        earlier = _begin(folder, record_path, key)
        if step.leaves_files:
            folder.mkdir(parents=True, exist_ok=True)
        say(f"{label} …")
        started = time.monotonic()
        figures = step.run(folder, {name: done.figures for name, done in records.items()})
        record = Record(key, earlier + time.monotonic() - started, figures)
        files.write_json(record_path, dataclasses.asdict(record))
        for remark in figures.get("remarks", ()):
            say(f"{step.name}: {remark}")
        say(f"{label}: done in {record.seconds:.1f} s")
        records[step.name] = record
    return records


def _check(steps: Sequence[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        missing = [name for name in step.needs if name not in seen]
        if step.name in seen or missing:
            raise ValueError(
                f"step {step.name!r} stands twice" if step.name in seen else f"step {step.name!r} needs {missing}, not done before it"
            )
        seen.add(step.name)


def _check_reads(steps: Sequence[Step], output: Path) -> None:
    """Looks for everything that is read before the first step, and refuses what a step would write over."""
    missing = dict.fromkeys(read for step in steps for read in step.reads if not os.path.exists(read))
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found: it is named in the configuration")
    reads = dict.fromkeys(read for step in steps for read in step.reads)
    for step in steps:
        files.refuse_inputs(_folder(step, output), reads)


def _folder(step: Step, output: Path) -> Path:
    return output / (step.folder or f"steps/{step.name}")


def _begin(folder: Path, record_path: Path, key: str) -> float:
    """Takes up a folder that an interrupted run of the same key left, or removes it; returns the seconds spent on it so far.

    Raises:
      ValueError: the folder holds something, and not from this step.
    """
    begun = record_path.with_suffix(".begun")
    if not begun.is_file() and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} holds what no step of this output made: choose another output, or move it away")
    record_path.unlink(missing_ok=True)
    earlier = _earlier(begun, folder, key)
    if earlier is None:
        shutil.rmtree(folder, ignore_errors=True)
    files.write_json(begun, {"key": key, "seconds": earlier or 0.0})
    return earlier or 0.0


def _earlier(begun: Path, folder: Path, key: str) -> float | None:
    """The seconds of former attempts at a key; None if there was none.

    A killed process cannot say how long it worked: that is the time from its note to the last file that it wrote.
    """
    try:
        note = files.read_json(begun, what="the note of a step that was begun")
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("key") != key:
        return None
    last = max((path.lstat().st_mtime for path in folder.rglob("*")), default=0.0)
    return note["seconds"] + max(last - begun.stat().st_mtime, 0.0)


def _read(path: Path) -> Record | None:
    if not path.is_file():
        return None
    found = files.read_json(path, what="the record of a finished step; remove it to do the step again")
    if not isinstance(found, dict) or {name: type(value) for name, value in found.items()} != RECORDED:
        raise ValueError(f"{path} is not the record of a finished step; remove it to do the step again")
    return Record(**found)


def _key(step: Step, needs: Mapping[str, str]) -> str:
    made_from = {
        "version": zhllama_jax.__version__,
        "name": step.name,
        "settings": step.settings,
        "reads": [_content(Path(read)) for read in step.reads],
        "needs": dict(needs),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _content(path: Path) -> list[str]:
    """The digest of a file, or of all files below a folder in the order of their names; the names themselves do not matter."""
    return [_digest(each) for each in (sorted(path.rglob("*")) if path.is_dir() else [path]) if each.is_file()]


def _digest(path: Path) -> str:
    """The digest of a file, read once per process as long as nobody writes to it: many steps read the same model of many gigabytes."""
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: str, size: int, modified: int) -> str:
    del size, modified
    return files.sha256(path)
