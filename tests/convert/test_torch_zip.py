"""The archive accepts what torch.save and zipfile write, and no zip that says two things or hides any."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.reference import torch_files as made
from zhllama_jax import files
from zhllama_jax.convert import torch_zip

MEMBERS = {"data.pkl": b"abc", "byteorder": b"little", "data/0": bytes(range(200)), "data/1": b"", "version": b"3\n"}


def write(path: Path) -> dict[str, str | int]:
    writer = torch_zip.Writer(path)
    for name, content in MEMBERS.items():
        writer.add(name, content)
    return writer.finish()


def check(path: Path) -> None:
    """zipfile and `Archive` find the members, aligned."""
    with zipfile.ZipFile(path) as theirs:
        assert theirs.testzip() is None
        assert {name: theirs.read(f"archive/{name}") for name in MEMBERS} == MEMBERS
    archive = torch_zip.Archive(path)
    assert archive.members.keys() == MEMBERS.keys()
    for name, content in MEMBERS.items():
        assert archive.read(name, max_bytes=200) == content
        assert archive.members[name].begin % torch_zip.ALIGNMENT == 0
    assert archive.map("data/0").tobytes() == MEMBERS["data/0"]
    part = np.empty(7, np.uint8)
    archive.read_into("data/0", 30, part)
    assert part.tolist() == list(range(30, 37))
    archive.close()


def test_written_archives_are_read_by_zipfile_and_by_us(tmp_path: Path) -> None:
    said = write(tmp_path / "x.bin")
    assert said == {"sha256": files.sha256(tmp_path / "x.bin"), "bytes": (tmp_path / "x.bin").stat().st_size}
    check(tmp_path / "x.bin")


@pytest.mark.parametrize("limit", [1, 3, 130, 400])
def test_archives_beyond_4_gigabytes(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 64-bit fields, taken from a size on that a test can write."""
    monkeypatch.setattr(torch_zip, "_WIDE_FROM", limit)
    write(tmp_path / "x.bin")
    check(tmp_path / "x.bin")
    assert b"PK\6\6" in (tmp_path / "x.bin").read_bytes()


def test_archives_beyond_4_gigabytes_of_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    path = tmp_path / "x.bin"
    path.write_bytes(made.archive(b"abc", {"0": bytes(range(200)), "1": b"ab"}))
    archive = torch_zip.Archive(path)
    assert archive.read("data/0", max_bytes=200) == bytes(range(200))
    assert archive.read("data/1", max_bytes=200) == b"ab"
    archive.close()


GOOD = made.archive(b"abc", {"0": b"0123456789"})


def changed(content: bytes, at: int, replacement: bytes) -> bytes:
    at %= len(content)
    return content[:at] + replacement + content[at + len(replacement) :]


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as opened:
        for name, content in members:
            opened.writestr(name, content)
        opened.comment = comment
    return target.getvalue()


def twice(name: bytes) -> bytes:
    """One name two times; zipfile itself warns of it, so one is renamed afterwards."""
    other = b"~" * len(name)
    return zipped(("x/data.pkl", b"a"), ("x/data/0", b"b"), (f"x/{other.decode()}", b"c")).replace(other, name)


def overlapping() -> bytes:
    """A member whose bytes are another member with its header, and a table of contents that leads to both."""
    plain = zipped(("x/data.pkl", b"a"), ("x/data/1", b"bb"))
    inner = plain[plain.index(b"PK\3\4", 4) : plain.index(b"PK\1\2")]
    whole = zipped(("x/data.pkl", b"a"), ("x/data/0", inner), ("x/data/1", b"bb"))
    return changed(whole, whole.rindex(b"PK\1\2") + 42, struct.pack("<L", whole.index(inner)))


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it has 0 bytes"),
    "cut short": (lambda: GOOD[:-1], "does not end like a zip"),
    "bytes behind": (lambda: GOOD + b"\0", "does not end like a zip"),
    "bytes before": (lambda: b"\0" + GOOD, "table of contents"),
    "comment": (lambda: zipped(("x/data.pkl", b"a"), comment=b"PK"), "does not end like a zip"),
    "compressed": (lambda: zipped(("x/data.pkl", b"a" * 99), method=zipfile.ZIP_DEFLATED), "is compressed"),
    "bomb": (lambda: zipped(("x/data.pkl", b"a"), ("x/data/0", b"\0" * 10**7), method=zipfile.ZIP_DEFLATED), "is compressed"),
    "encrypted": (lambda: changed(GOOD, GOOD.index(b"PK\1\2") + 8, b"\1"), "is encrypted"),
    "two pickles": (lambda: twice(b"data.pkl"), "data.pkl stands in it twice"),
    "a storage twice": (lambda: twice(b"data/0"), "data/0 stands in it twice"),
    "overlap": (overlapping, "not where the member before it ends"),
    "two folders": (lambda: zipped(("x/data.pkl", b"a"), ("y/data/0", b"")), "one folder"),
    "no folder": (lambda: zipped(("data.pkl", b"a"), ("data/0", b"")), "one folder"),
    "parent folder": (lambda: zipped(("../data.pkl", b"a")), "one folder"),
    "absolute": (lambda: zipped(("/data.pkl", b"a")), "one folder"),
    "parent folder inside": (lambda: zipped(("x/data.pkl", b"a"), ("x/../../0", b"a")), "no file of torch.save"),
    "hidden parent folder": (lambda: zipped(("x/data.pkl", b"a"), ("x/.a/../../b", b"a")), "no file of torch.save"),
    "unknown member": (lambda: zipped(("x/data.pkl", b"a"), ("x/payload.py", b"a")), "no file of torch.save"),
    "second pickle": (lambda: zipped(("x/data.pkl", b"a"), ("x/data.pkl/data.pkl", b"a")), "no file of torch.save"),
    "no pickle": (lambda: zipped(("x/data/0", b"a")), "no data.pkl"),
    "a program": (lambda: zipped(("x/data.pkl", b"a"), ("x/code/__torch__.py", b"")), "TorchScript"),
    "an older program": (lambda: zipped(("x/data.pkl", b"a"), ("x/constants.pkl", b"")), "TorchScript"),
    "name that is not UTF-8": (lambda: GOOD.replace(b"archive/data/0", b"archive/\xffata/0"), "not UTF-8"),
    "name in the member only": (lambda: changed(GOOD, GOOD.index(b"data/0"), b"data/7"), "is not where"),
    "name in the table only": (lambda: changed(GOOD, GOOD.rindex(b"data/0"), b"data/7"), "is not where"),
    "size in the member only": (lambda: changed(GOOD, GOOD.index(b"archive/data/0") - 8, b"\x09"), "contradict"),
    "size in the table only": (lambda: changed(GOOD, GOOD.rindex(b"archive/data/0") - 22, b"\x09"), "takes 10 bytes for 9"),
    "checksum in the table only": (lambda: changed(GOOD, GOOD.rindex(b"archive/data/0") - 30, b"\x09"), "contradict"),
    "offset of 4 GB": (lambda: changed(GOOD, GOOD.rindex(b"archive/data/0") - 4, b"\xfe\xff\xff\xff"), "is not where"),
    "offset without its wide field": (lambda: changed(GOOD, GOOD.rindex(b"archive/data/0") - 4, b"\xff\xff\xff\xff"), "is not where"),
    "a folder by its attributes": (lambda: changed(GOOD, GOOD.rindex(b"archive/data/0") - 8, b"\x10"), "table of contents is damaged"),
    "a disk": (lambda: changed(GOOD, -18, b"\1"), "does not end like a zip"),
    "too few members": (lambda: changed(GOOD, -14, b"\2\0\2\0"), "belong to no member"),
    "too many members": (lambda: changed(GOOD, -14, b"\4\0\4\0"), "cut short|would have"),
    "65,535 members": (lambda: changed(GOOD, -14, b"\xff\xff\xff\xff"), "would have 65,535 members"),
    "no members": (lambda: zipped(), "0 members"),
    "table elsewhere": (lambda: changed(GOOD, -6, b"\0\0\0\0"), "would have"),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_archives_are_refused(case: str, tmp_path: Path) -> None:
    make, message = HARMFUL[case]
    path = tmp_path / "x.bin"
    path.write_bytes(make())
    with pytest.raises(ValueError, match=message) as error:
        torch_zip.Archive(path)
    assert str(error.value).startswith(f"{path} is no sound PyTorch file: ")
    assert "\n" not in str(error.value)


def test_bytes_between_members_are_refused(tmp_path: Path) -> None:
    members = GOOD.index(b"PK\1\2")
    end = changed(GOOD[members:], -6, struct.pack("<L", members + 4))
    path = tmp_path / "x.bin"
    path.write_bytes(GOOD[:members] + b"EVIL" + end)
    with pytest.raises(ValueError, match="its members end at byte"):
        torch_zip.Archive(path)


@pytest.mark.parametrize("how", ["whole", "part", "map"])
def test_damage_is_found_before_a_number_is_used(how: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(GOOD.replace(b"0123456789", b"0123456788"))
    archive = torch_zip.Archive(path)
    with pytest.raises(ValueError, match=r"data/0 does not have its checksum: the file is damaged"):
        if how == "map":
            archive.map("data/0")
        else:
            archive.read_into("data/0", 0, np.empty(10 if how == "whole" else 3, np.uint8))
    archive.close()


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(GOOD)
    archive = torch_zip.Archive(path)
    archive.verify("data/0")
    os.truncate(path, 20)
    with pytest.raises(ValueError, match="cut short"):
        archive.map("data/0")
    with pytest.raises(ValueError, match="cut short"):
        archive.read_into("data/0", 0, np.empty(10, np.uint8))
    archive.close()


def test_members_read_whole_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(GOOD)
    archive = torch_zip.Archive(path)
    with pytest.raises(ValueError, match="data/0 has 10 bytes, more than the 9 allowed"):
        archive.read("data/0", max_bytes=9)
    archive.close()
