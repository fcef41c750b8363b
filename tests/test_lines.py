"""Lines end at newlines only, and every fault names its file and line."""

import gzip
import importlib.util
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

from zhllama_jax import lines


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    strange = "a\u2028b\x0cc\rd\x85e"
    path = write(tmp_path / "a.txt", f"{strange}\r\n\n末\n".encode())
    assert list(lines.read(path)) == [(1, strange), (2, ""), (3, "末")]


def test_the_last_line_needs_no_newline_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\ntwo")
    assert list(lines.read(path)) == [(1, "one"), (2, "two")]
    assert list(lines.read(write(tmp_path / "empty.txt", b""))) == []


def test_records_of_both_kinds(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", "一\n \n二\n".encode())
    rows = [{"text": "一\n二", "n": 1}, {"text": "  "}, {"text": "三", "title": "x"}]
    jsonl = write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row) for row in rows).encode())
    assert list(lines.records(text)) == [(1, "一"), (3, "二")]
    assert list(lines.records(jsonl)) == [(1, "一\n二"), (5, "三")]
    assert list(lines.records(write(tmp_path / "b.jsonl", b'{"body": "x"}'), field="body")) == [(1, "x")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"fine\n\xff\xfe\n", r"a\.txt:2: not UTF-8: byte 1 of the line is 0xff \(UTF-16\?"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n["text"]\n', r"a\.jsonl:3: expected a JSON object, found an array"),
        ("a.jsonl", b'{"body": "a"}\n', r"a\.jsonl:1: no field 'text'; the object has 'body'"),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: the field 'text' must hold a string, found null"),
        ("a.jsonl", b"[" * 200_000, r"a\.jsonl:1: not acceptable JSON"),
        ("a.csv", b"a,b\n", r"name it \.txt"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(lines.records(write(tmp_path / name, data)))


def test_a_missing_file_and_an_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(lines.read(tmp_path / "nowhere.txt"))
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 9)
    with pytest.raises(ValueError, match=r"a\.txt:2: the line is longer"):
        list(lines.read(write(tmp_path / "a.txt", b"12345678\n1234567890\n")))


def test_of_a_line_that_is_too_long_the_rest_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf1234\r\n" + b"x" * 50 + b"\n1234567890\nend")
    assert list(lines.raw(path, max_bytes=10)) == [
        lines.Raw(1, b"1234", bom=True, crlf=True),
        lines.Raw(2, None),
        lines.Raw(3, b"1234567890"),
        lines.Raw(4, b"end"),
    ]


ZSTD = pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="zstandard is an extra")
PACKINGS = [".gz", pytest.param(".zst", marks=ZSTD)]


def packed(packing: str, data: bytes) -> bytes:
    if packing == ".gz":
        return gzip.compress(data)
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(data)  # as the program zstd does


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_files_read_as_plain_ones(tmp_path: Path, packing: str) -> None:
    text = "\ufeff一\r\n\n" + "".join(f"line {number}\u2028\n" for number in range(20_000)) + "end"
    plain = write(tmp_path / "a.txt", text.encode())
    whole = write(tmp_path / f"a.TXT{packing}", packed(packing, text.encode()))
    parts = write(
        tmp_path / f"b.txt{packing}", b"".join(packed(packing, part) for part in (text.encode()[:1000], b"", text.encode()[1000:]))
    )
    assert lines.suffix(whole) == ".txt"
    for path in (whole, parts):
        assert list(lines.raw(path)) == list(lines.raw(plain))
        assert list(lines.records(path)) == list(lines.records(plain))
        assert lines.content(path, max_bytes=1 << 20) == text.encode()
    with pytest.raises(ValueError, match="holds more than the 1,000 bytes"):
        lines.content(whole, max_bytes=1000)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, packing: str) -> None:
    data = packed(packing, b"".join(b"%d\n" % (number * 7919) for number in range(20_000)))
    for name, content in {
        "cut": data[: len(data) // 2],
        "end": data[:-1],
        "none": b"plain text",
        "bits": data[:200] + b"\0" * 90 + data[290:],
    }.items():
        path = write(tmp_path / f"{name}.jsonl{packing}", content)
        with pytest.raises(ValueError, match=rf"{name}\.jsonl{packing} is no whole {packing} file \(") as caught:
            list(lines.raw(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bomb_takes_no_more_memory_than_a_line_may_have(tmp_path: Path, packing: str) -> None:
    """A gigabyte of zeros that is one line, packed into little, is passed over in pieces."""
    if packing == ".gz":
        with gzip.open(tmp_path / "bomb.txt.gz", "wb", compresslevel=1) as stream:
            for _ in range(64):
                stream.write(bytes(1 << 20))
    else:
        write(tmp_path / "bomb.txt.zst", packed(packing, bytes(64 << 20)))
    path = tmp_path / f"bomb.txt{packing}"
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    assert list(lines.raw(path, max_bytes=1 << 16)) == [lines.Raw(1, None)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


def test_without_its_library_a_zst_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(
        ValueError, match=r"a\.txt\.zst: reading \.zst files needs .* pip install zstandard \(the extra `zstd`\), or unpack"
    ):
        list(lines.read(write(tmp_path / "a.txt.zst", b"")))


def test_a_wide_character_takes_two_columns() -> None:
    assert [lines.width(text) for text in ("ab", "中文", "a\uff0c。", "", "e\u0301")] == [2, 4, 5, 0, 1]


def test_names_out_of_files_are_made_printable() -> None:
    assert lines.printable("model.层.weight") == "model.层.weight"
    assert lines.printable("a\nb\x1b[31m\u202e") == r"a\nb\x1b[31m\u202e"
    assert lines.printable("x" * 100) == "x" * 80 + "…"
