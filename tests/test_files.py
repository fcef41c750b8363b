"""Whatever fails and whenever, a final name holds the whole new content or what it held before."""

import functools
import hashlib
import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zhllama_jax import files


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below `directory`, hidden ones too, by relative path; folders end in '/'."""
    return {
        str(path.relative_to(directory)) + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes() for path in directory.rglob("*")
    }


def fail(monkeypatch: pytest.MonkeyPatch, name: str, calls: set[int]) -> None:
    """Makes those calls (from 1) of a function of `os` raise the error of a full disk."""
    real, count = getattr(os, name), itertools.count(1)

    def function(*args):
        if next(count) in calls:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, name, function)


def test_atomic_write_writes_bytes_and_text_and_makes_the_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    files.atomic_write(path, "汉字\n")
    assert path.read_bytes() == "汉字\n".encode()
    files.atomic_write(str(path), b"\x00\xff")
    assert contents(tmp_path) == {"a/": b"", "a/b/": b"", "a/b/text.txt": b"\x00\xff"}


def test_atomic_write_gives_the_mode_of_an_ordinary_file(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "ours", b"")
    (tmp_path / "ordinary").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failing_atomic_write_leaves_the_old_content_and_no_trace(tmp_path: Path, monkeypatch, function: str) -> None:
    (tmp_path / "config.json").write_bytes(b"old")
    fail(monkeypatch, function, {1})
    with pytest.raises(OSError, match="No space left"):
        files.atomic_write(tmp_path / "config.json", b"new")
    assert contents(tmp_path) == {"config.json": b"old"}


def test_atomic_write_reaches_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def note(name: str, real: Callable) -> Callable:
        return lambda *args: (order.append(name), real(*args))

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    files.atomic_write(tmp_path / "x", b"new")
    assert order == ["fsync", "replace", "fsync"]  # the file, the name, the folder that holds the name


def test_new_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "weights"
    with files.new_file(path) as stream:
        for part in (b"one", b"two"):
            stream.write(part)
            assert not path.exists()
    assert contents(path.parent) == {"weights": b"onetwo"}
    with pytest.raises(KeyboardInterrupt), files.new_file(path) as stream:
        stream.write(b"three")
        raise KeyboardInterrupt
    assert contents(path.parent) == {"weights": b"onetwo"}


def test_json_survives_a_round_trip_readably(tmp_path: Path) -> None:
    value = {"名": ["词", 1, 2.5, None, True], "nested": {"a": {}}}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert '  "名": [' in text and text.endswith("}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands there twice"),
        (b'{"a": 1', "Expecting"),
        (b"\xff\xfe{}", "utf-8"),
        (b"", "Expecting value"),
        (b"[" * 100_000, "is not a model's config.json"),
    ],
    ids=["duplicate key", "cut off", "not UTF-8", "empty", "nested too deeply"],
)
def test_read_json_says_what_is_wrong_and_where(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        files.read_json(path, what="a model's config.json")
    assert str(caught.value).startswith(f"{path} is not a model's config.json: ")


def test_read_json_passes_over_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}')
    assert files.read_json(tmp_path / "x.json") == {"a": "\ufeff"}, "the mark in front is none of the text; one inside is"


def test_read_json_refuses_what_is_absent_a_folder_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not found: expected a manifest"):
        files.read_json(tmp_path / "absent.json", what="a manifest")
    with pytest.raises(ValueError, match="is a folder: expected a manifest"):
        files.read_json(tmp_path, what="a manifest")
    (tmp_path / "x.json").write_bytes(b"[1, 2, 3]")
    assert files.read_json(tmp_path / "x.json", max_bytes=9) == [1, 2, 3]
    with pytest.raises(ValueError, match="has 9 bytes, more than the 8 allowed for a manifest"):
        files.read_json(tmp_path / "x.json", what="a manifest", max_bytes=8)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def fill(directory: Path, content: bytes) -> None:
    (directory / "deep").mkdir()
    (directory / "deep" / "weights").write_bytes(content)


def ours(directory: Path) -> set[str]:
    """What these tests take for a directory of ours; see `files.Listing`."""
    if not (directory / "deep" / "weights").is_file():
        raise ValueError(f"{directory} has no weights")
    return {"deep", "stale"}


OLD = {"model/": b"", "model/deep/": b"", "model/deep/weights": b"old"}
NEW = {"model/": b"", "model/deep/": b"", "model/deep/weights": b"new"}


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A path that holds a directory already."""
    (tmp_path / "model").mkdir()
    fill(tmp_path / "model", b"old")
    return tmp_path / "model"


def test_new_directory_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model"
    with files.new_directory(path, ours=ours) as temporary:
        assert temporary.parent.parent == path.parent  # one file system, so that a rename is enough
        fill(temporary, b"new")
        assert not path.exists()
    assert contents(tmp_path / "a") == NEW
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failing_body_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), files.new_directory(tmp_path / "model", ours=ours) as temporary:
        fill(temporary, b"new")
        raise error
    assert contents(tmp_path) == {}


def test_new_directory_takes_an_empty_place_and_refuses_a_taken_one(tmp_path: Path, taken: Path) -> None:
    (tmp_path / "empty").mkdir()
    with files.new_directory(tmp_path / "empty", ours=ours) as temporary:
        fill(temporary, b"new")
    assert (tmp_path / "empty" / "deep" / "weights").read_bytes() == b"new"
    with pytest.raises(ValueError, match=r"exists already: choose another output, or replace it with --overwrite$"):
        files.new_directory(taken, ours=ours).__enter__()
    assert contents(taken) == {"deep/": b"", "deep/weights": b"old"}


def test_overwrite_replaces_the_whole_directory(taken: Path) -> None:
    (taken / "stale").write_bytes(b"old")
    with files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
        assert (taken / "stale").exists()
    assert contents(taken.parent) == NEW


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_this_program_did_not_write_is_never_replaced(tmp_path: Path, taken: Path, overwrite: bool) -> None:
    def none_of_ours(directory: Path) -> set[str]:
        raise ValueError(f"{directory} is no adapter")

    (taken / "stale").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=r"model is no adapter; only a directory of its kind .* choose another output, or remove this one by hand$"
    ):
        files.new_directory(taken, ours=none_of_ours, overwrite=overwrite).__enter__()
    with pytest.raises(ValueError, match=r"model holds deep, stale, which zhllama did not write there: move that away, or choose another"):
        files.new_directory(taken, ours=lambda directory: ["weights"], overwrite=overwrite).__enter__()
    with pytest.raises(ValueError, match="weights is a file: name a directory for the output"):
        files.new_directory(taken / "deep" / "weights", ours=ours, overwrite=overwrite).__enter__()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "source", "words"),
    [
        ("model", "model", "is read as an input and would be replaced"),
        ("model/../model", "link", "is read as an input and would be replaced"),
        ("link", "model", "is read as an input and would be replaced"),
        (".", "model", r"holds .*model, which is read as an input and would be replaced"),
        ("model", "model/deep/weights", r"holds .*weights, which is read as an input and would be replaced"),
        ("model", "model/elsewhere", r"holds .*elsewhere, which is read as an input and would be replaced"),
        ("model/new", "model", r"lies inside .*model, which is read as an input"),
        ("link/new/er", "model", r"lies inside .*model, which is read as an input"),
    ],
)
def test_a_directory_that_has_to_do_with_an_input_is_refused(taken: Path, output: str, source: str, words: str) -> None:
    """However the two are spelled; overwriting does not help."""
    top = taken.parent
    (top / "link").symlink_to(taken)
    (top / "other").write_bytes(b"")
    (taken / "elsewhere").symlink_to(top / "other")
    (top / "deep").mkdir()
    (top / "deep" / "weights").write_bytes(b"so that the folder above is ours too")
    with pytest.raises(ValueError, match=words):
        files.free_directory(top / output, ours=ours, overwrite=True, inputs=[top / "absent", top / source])
    files.free_directory(top / "models", ours=ours, overwrite=True, inputs=[top / source])


def test_folders_that_a_failing_block_made_go_again_if_they_are_empty(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.new_directory(tmp_path / "a" / "b" / "model", ours=ours):
        raise RuntimeError
    assert contents(tmp_path) == {}
    with pytest.raises(RuntimeError), files.folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "other").write_bytes(b"")
        raise RuntimeError
    assert contents(tmp_path) == {"a/": b"", "a/other": b""}
    with pytest.raises(RuntimeError), files.folder(tmp_path / "a"):
        (tmp_path / "a" / "other").unlink()
        raise RuntimeError
    assert contents(tmp_path) == {"a/": b""}, "a folder that was there stays"


@pytest.mark.parametrize(("function", "call"), [("fsync", 1), ("rename", 1), ("rename", 2)], ids=["sync", "move aside", "take the name"])
def test_a_failing_overwrite_keeps_the_former_directory_and_no_trace(taken: Path, monkeypatch, function: str, call: int) -> None:
    with pytest.raises(OSError, match="No space left"), files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
        fail(monkeypatch, function, {call})
    assert contents(taken.parent) == OLD


def test_an_overwrite_that_cannot_be_undone_keeps_the_former_directory_aside(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left"), files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
        fail(monkeypatch, "rename", {2, 3})
    kept = [path for path in contents(taken.parent) if path.endswith("/former/deep/weights")]
    assert len(kept) == 1 and (taken.parent / kept[0]).read_bytes() == b"old"


def test_new_directory_syncs_every_file_and_folder_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int | str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        order.append(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        order.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    with files.new_directory(tmp_path / "model", ours=ours) as temporary:
        fill(temporary, b"new")
    model = tmp_path / "model"
    whole = {path.stat().st_ino for path in (model, model / "deep", model / "deep" / "weights")}
    assert set(order[: order.index("rename")]) >= whole
    assert order[-1] == tmp_path.stat().st_ino, "and the folder that holds the new name after it"


def test_the_new_name_is_on_the_disk_before_the_former_directory_goes(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int | str] = []
    real_fsync, real_remove = os.fsync, shutil.rmtree
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append(os.fstat(descriptor).st_ino), real_fsync(descriptor)))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: (order.append("gone"), real_remove(*args, **options)))
    with files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
    assert order[order.index("gone") - 1] == taken.parent.stat().st_ino


KILLED = """
import os, signal, sys
from pathlib import Path
from zhllama_jax import files
path, when = Path(sys.argv[1]), sys.argv[2]
if when == "between the renames":
    real = os.rename
    def rename(source, target):
        if target == path:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
    os.rename = rename
if when == "before the old one is gone":
    files.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if when == "writing a file":
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    files.atomic_write(path, b"half")
with files.new_directory(path, overwrite=True, ours=lambda directory: ["deep"]) as temporary:
    (temporary / "deep").mkdir()
    (temporary / "deep" / "weights").write_bytes(b"killed")
    if when == "at work":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, when: str) -> None:
    """Lets another process write to `path` and die without a last word."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("when", "found"), [("at work", b"old"), ("between the renames", b"old"), ("before the old one is gone", b"killed")]
)
def test_what_a_killed_process_left_is_put_right_by_the_next_one(taken: Path, when: str, found: bytes) -> None:
    killed(taken, when)
    assert len(list(taken.parent.iterdir())) > 1 or not taken.exists(), "the kill left something"
    with pytest.raises(ValueError, match="exists already"), files.new_directory(taken, ours=ours):
        raise AssertionError("the work began")
    assert (taken / "deep" / "weights").read_bytes() == found, "put back"
    assert len(list(taken.parent.iterdir())) > 1, "a command that is refused removes nothing"
    with files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
    assert contents(taken.parent) == NEW


def test_what_was_about_to_be_replaced_is_told_of_and_kept(taken: Path) -> None:
    """Somebody makes a directory of the name after the kill: nothing else holds the former contents any more."""
    killed(taken, "between the renames")
    former = next(taken.parent.glob(".model.*.tmp/former"))
    for ask, what in ((files.expect, "deep/weights"), (files.expect_folder, ".")):
        with pytest.raises(FileNotFoundError, match=rf"that was replacing {taken} was killed, .* is kept in {former}: rename it back$"):
            ask(taken / what, "a model")
    taken.mkdir()
    for name in ("", "own.txt", "deep"):
        if name == "deep":
            fill(taken, b"by hand")
        elif name:
            (taken / name).write_text("mine")
        before = contents(taken.parent)
        with pytest.raises(ValueError, match=rf"what stood there before is kept in {former}: move that to another name"):
            files.new_directory(taken, overwrite=True, ours=ours).__enter__()
        assert contents(taken.parent) == before
    (taken / "own.txt").unlink()
    former.rename(taken.parent / "saved")
    with files.new_directory(taken, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
    assert contents(taken.parent) == {**NEW, **{name.replace("model", "saved"): content for name, content in OLD.items()}}


def test_a_killed_writer_of_a_file_leaves_nothing_for_good(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    killed(path, "writing a file")
    assert contents(tmp_path) and not path.exists()
    files.atomic_write(path, b"new")
    assert contents(tmp_path) == {"config.json": b"new"}


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    with files.new_directory(tmp_path / "model", ours=ours) as first:
        fill(first, b"first")
        with files.new_directory(tmp_path / "model", ours=ours) as second:
            fill(second, b"second")
        assert (first / "deep" / "weights").read_bytes() == b"first"
        (tmp_path / "model").rename(tmp_path / "second")
    assert (tmp_path / "model" / "deep" / "weights").read_bytes() == b"first"


def test_the_current_directory_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "", "..", "../here", tmp_path):
        with pytest.raises(ValueError, match="is or holds the current directory"), files.new_directory(path, overwrite=True, ours=ours):
            raise AssertionError("the work began")
    with files.new_directory("../here/x", ours=ours) as temporary:
        fill(temporary, b"new")
    assert contents(tmp_path) == {"here/": b"", **{f"here/{name.replace('model', 'x')}": content for name, content in NEW.items()}}


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "disk")
    with pytest.raises(ValueError, match="disk is a mount point"), files.new_directory(tmp_path / "disk", ours=ours):
        raise AssertionError("the work began")


def test_a_link_keeps_pointing_to_what_is_replaced(taken: Path) -> None:
    link = taken.parent / "link"
    link.symlink_to(taken)
    with files.new_directory(link, overwrite=True, ours=ours) as temporary:
        fill(temporary, b"new")
    assert link.is_symlink() and (taken / "deep" / "weights").read_bytes() == b"new"


def test_a_file_cannot_take_the_place_of_a_directory(taken: Path) -> None:
    for write in (lambda: files.atomic_write(taken, b"new"), lambda: files.free_file(taken, overwrite=True)):
        with pytest.raises(ValueError, match="model is a directory: name a file") as caught:
            write()
        assert str(caught.value).startswith(str(taken))
    assert contents(taken.parent) == OLD


def test_an_existing_file_is_replaced_on_demand_and_an_input_never(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    files.free_file(output, inputs=[source])
    source.write_bytes(b"")
    output.write_bytes(b"")
    with pytest.raises(ValueError, match=r"output exists already: choose another output or replace it with --overwrite"):
        files.free_file(output, inputs=[source])
    files.free_file(output, overwrite=True, inputs=[source])
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "twin")
    for path in (source, tmp_path / "link", tmp_path / "twin"):
        with pytest.raises(ValueError, match="is read as an input"):
            files.free_file(path, overwrite=True, inputs=[source])


def test_no_file_is_written_into_a_directory_that_is_read(taken: Path) -> None:
    for path in (taken / "deep" / "weights", taken / "new.json"):
        with pytest.raises(ValueError, match=r"lies inside .*model, which is read as an input: choose another output"):
            files.free_file(path, overwrite=True, inputs=[taken])


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for ask in (files.free_file, functools.partial(files.free_directory, ours=ours)):
        with pytest.raises(NotADirectoryError):
            ask(tmp_path / "file" / "deeper" / "out")
        ask(tmp_path / "new" / "deeper" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "asking makes nothing"


def test_a_folder_that_is_closed_to_writing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError, match=r"new/out cannot be written: the folder .* is closed to writing"):
        files.free_directory(tmp_path / "new" / "out", ours=ours)


def test_a_folder_in_the_place_of_a_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: expected a corpus"):
        files.expect(tmp_path, "a corpus")
    with pytest.raises(FileNotFoundError, match="none not found: expected a corpus"):
        files.expect(tmp_path / "none", "a corpus")
    (tmp_path / "file").touch()
    files.expect(tmp_path / "file", "a corpus")


def test_what_took_the_name_during_the_work_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"out has no weights; only a directory"),
        files.new_directory(tmp_path / "out", ours=ours) as new,
    ):
        fill(new, b"new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("precious")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("-", "never standard output"),
        ("-/report.json", "never standard output"),
        ("~/out", "begins with ~, which only a shell replaces"),
        ("loop", "loop: a symbolic link there leads to itself"),
        ("loop/out", "out: a symbolic link there leads to itself"),
        ("cache/models--team--llama/snapshots/abc/out", "lies in the cache of the Hugging Face hub, which is only read"),
        ("snapshot/config.json", "lies in the cache of the Hugging Face hub, which is only read"),
    ],
)
def test_names_that_no_output_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "cache" / "models--team--llama" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "snapshot").symlink_to(tmp_path / "cache" / "models--team--llama" / "snapshots" / "abc")
    for ask in (functools.partial(files.free_file, overwrite=True), functools.partial(files.free_directory, ours=ours, overwrite=True)):
        with pytest.raises(ValueError, match=words):
            ask(output)


def test_what_the_links_of_an_input_lead_to_is_an_input(taken: Path) -> None:
    (taken.parent / "input").mkdir()
    (taken.parent / "input" / "weights").symlink_to(taken / "deep" / "weights")
    with pytest.raises(ValueError, match=r"model holds .*input/weights, which is read as an input and would be replaced"):
        files.free_directory(taken, ours=ours, overwrite=True, inputs=[taken.parent / "input"])
    with pytest.raises(ValueError, match="is read as an input and would be replaced"):
        files.free_file(taken / "deep" / "weights", overwrite=True, inputs=[taken.parent / "input"])


def test_a_full_disk_is_told_with_the_file_and_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one that there would have been, not the one beside it."""
    fail(monkeypatch, "fsync", {1, 2, 3})
    sizes = r"No space left on device: 6 bytes are to be written, [\d,]+ are free"
    with pytest.raises(OSError, match=sizes) as caught:
        files.atomic_write(tmp_path / "config.json", b"weight")
    assert caught.value.filename == str(tmp_path / "config.json")
    with pytest.raises(OSError, match=sizes) as caught, files.new_directory(tmp_path / "out", ours=ours) as new:
        files.atomic_write(new / "config.json", b"weight")
    assert caught.value.filename == str(tmp_path / "out" / "config.json")
    with pytest.raises(OSError, match="No space left") as caught, files.new_directory(tmp_path / "out", ours=ours):
        pass
    assert caught.value.filename == str(tmp_path / "out")
    assert contents(tmp_path) == {}


def test_a_disk_that_has_no_byte_left_is_told_with_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the mark of the folder beside the output can be written."""
    fail(monkeypatch, "write", {1, 2})
    with pytest.raises(OSError, match="No space left on device: 6 bytes are to be written") as caught:
        files.atomic_write(tmp_path / "merged.model", b"pieces")
    assert caught.value.filename == str(tmp_path / "merged.model")
    with pytest.raises(OSError, match="No space left") as caught, files.new_directory(tmp_path / "out", ours=ours):
        pass
    assert caught.value.filename == str(tmp_path / "out")
    assert contents(tmp_path) == {}
