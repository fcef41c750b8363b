"""A list of steps, each done once: what a step is made from decides whether it must be done again.

A step's key is a digest of its settings, of the content of the files it reads, and of the keys of the steps before it that it needs.
Its record `<output>/.steps/<name>.json` is written when the step has ended; a record with the same key means there is nothing to do. A
step that was interrupted finds its folder as it left it (training resumes there); a step whose key has changed finds an
empty one.
"""

import dataclasses
import functools
import glob
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


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a pipeline.

    Attributes:
      name: names the step, its record and, unless `folder` does, its folder.
      run: does the work in the given folder, with the figures of all former steps by name; returns its own figures (JSON).
      settings: whatever decides the result (JSON).
      reads: files and folders from outside the pipeline, whose content decides the result; glob patterns too.
      needs: names of former steps whose results this one uses.
      folder: below the pipeline's output; None is `steps/<name>`.
    """

    name: str
    run: Callable[[Path, Mapping[str, Any]], dict[str, Any]]
    settings: Any = None
    reads: Sequence[str] = ()
    needs: Sequence[str] = ()
    folder: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """What stands about a finished step.

    Attributes:
      key: digest of what the step was made from.
      seconds: time it took when it was done.
      figures: what it returned.
    """

    key: str
    seconds: float
    figures: dict[str, Any]


def run(steps: Sequence[Step], output: Path, say: Callable[[str], None]) -> dict[str, Record]:
    """Does every step that is not done yet, in order; says one line before and after each.

    Raises:
      ValueError: two steps of one name, or a need that is not a former step.
    """
    _check(steps)
    records: dict[str, Record] = {}
    for index, step in enumerate(steps, 1):
        key = _key(step, {name: records[name].key for name in step.needs})
        record_path = output / ".steps" / f"{step.name}.json"
        label = f"[{index}/{len(steps)}] {step.name}"
        record = _read(record_path)
        folder = output / (step.folder or f"steps/{step.name}")
        if record is not None and record.key == key and folder.is_dir():
            say(f"{label}: done before")
            records[step.name] = record
            continue
        _begin(folder, record_path, key)
        say(f"{label} …")
        started = time.monotonic()
        figures = step.run(folder, {name: done.figures for name, done in records.items()})
        record = Record(key, time.monotonic() - started, figures)
        files.write_json(record_path, dataclasses.asdict(record))
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


def _begin(folder: Path, record_path: Path, key: str) -> None:
    """Takes up a folder that an interrupted run of the same key left, or makes an empty one."""
    record_path.unlink(missing_ok=True)
    begun = record_path.with_suffix(".begun")
    if not (begun.is_file() and begun.read_text() == key):
        shutil.rmtree(folder, ignore_errors=True)
    files.atomic_write(begun, key)
    folder.mkdir(parents=True, exist_ok=True)


def _read(path: Path) -> Record | None:
    if not path.is_file():
        return None
    return Record(**files.read_json(path, what="the record of a finished step; remove it to do the step again"))


def _key(step: Step, needs: Mapping[str, str]) -> str:
    made_from = {
        "version": zhllama_jax.__version__,
        "name": step.name,
        "settings": step.settings,
        "reads": [_content(pattern) for pattern in step.reads],
        "needs": dict(needs),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _content(pattern: str) -> list[str]:
    """Digests of the files that a path, a folder or a pattern names; their names do not matter, their order does.

    Raises:
      FileNotFoundError: there is none.
    """
    named = sorted(glob.glob(pattern)) or [pattern]
    digests = []
    for name in named:
        if os.path.isdir(name):
            digests += [_digest(path) for path in sorted(Path(name).rglob("*")) if path.is_file()]
        elif os.path.isfile(name):
            digests.append(_digest(Path(name)))
        else:
            raise FileNotFoundError(f"{pattern} not found: it is named in the configuration")
    return digests


def _digest(path: Path) -> str:
    """The digest of a file, read once per process as long as nobody writes to it: many steps read the same model of many gigabytes."""
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _digest_of(path: str, size: int, modified: int) -> str:
    del size, modified
    return files.sha256(path)
