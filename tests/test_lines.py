"""Lines end at newlines only, and every fault names its file and line."""

import json
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
