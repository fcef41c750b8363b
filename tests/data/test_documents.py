"""Hostile files are read without a crash, and each fault is counted and located; strict reading names it by file and line."""

import gzip
import json
import os
from pathlib import Path

import pytest

from zhllama_jax.data import documents


def texts(*args: object, **options: object) -> list[str]:
    return [document.text for document in documents.read(*args, **options)]  # type: ignore[arg-type]


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("line", [(1, "一"), (2, "二 two"), (5, "三")]),
        ("blank_line", [(1, "一\n二 two"), (5, "三")]),
        ("file", [(1, "一\n二 two\n\n \n三")]),
    ],
)
def test_units_of_a_text_file(tmp_path: Path, kind: str, expected: list[tuple[int, str]]) -> None:
    path = write(tmp_path, "a.txt", "一\n二 two\n\n \n三\n")
    found = list(documents.read([path], documents=kind))  # type: ignore[arg-type]
    assert [(document.line, document.text) for document in found] == expected
    assert {document.source for document in found} == {str(path)}


def test_a_way_on_is_named_to_those_who_have_it(tmp_path: Path) -> None:
    """A configuration may say on_error, a verb that scores a text may not."""
    path = write(tmp_path, "a.jsonl", "{")
    for on_error, hinted in (("strict", True), (None, False)):
        with pytest.raises(ValueError, match=r"a\.jsonl:1: not JSON") as caught:
            texts([path], on_error=on_error)
        assert ("on_error" in str(caught.value)) == hinted


def test_blank_lines_are_documents_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "一\n\n二\n")
    assert texts([path], documents="line", blanks=True) == ["一", "", "二"]


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    line = "a\u2028b\u2029c\x85d\ve\ff\rg"
    assert texts([write(tmp_path, "a.txt", f"{line}\nh")], documents="line") == [line, "h"]


def test_jsonl_rows(tmp_path: Path) -> None:
    rows = ['{"text": "一"}', "", '{"other": 1, "text": "two\\nlines"}', '{"text": " "}']
    path = write(tmp_path, "a.jsonl", "\n".join(rows))
    tally = documents.Tally()
    assert texts([path], tally=tally) == ["一", "two\nlines"]
    assert (tally.documents, tally.characters, tally.bytes) == (2, 10, 12)
    assert not tally.faults
    assert texts([write(tmp_path, "b.jsonl", '{"body": "x"}')], field="body") == ["x"]


def test_what_can_be_repaired_is_repaired_and_located(tmp_path: Path) -> None:
    text = write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\nt\0wo\r\n\r\n\xef\xbb\xbfthree")
    rows = write(tmp_path, "b.jsonl", '{"text": "half \\ud83d of a pair"}\n{"text": "nul\\u0000 and\\r\\nend"}\n')
    tally = documents.Tally()
    assert texts([text, rows], tally=tally) == ["one\ntwo", "\ufeffthree", "half \ufffd of a pair", "nul and\nend"]
    assert tally.faults == {"bom": 1, "crlf": 4, "nul": 2, "surrogate": 1}
    assert tally.located == [f"{text}:1: bom", f"{text}:2: nul", f"{rows}:1: surrogate", f"{rows}:2: crlf", f"{rows}:2: nul"]


HOSTILE = {
    "not JSON": b"{oops",
    "truncated": b'{"text": "a',
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "list": b'["text"]',
    "number": b"17",
    "null": b"null",
    "no field": b'{"txet": "a"}',
    "not a string": b'{"text": 3}',
    "a digit too many": b'{"text": ' + b"9" * 5000 + b"}",
    "control character": b'{"text": "a\x01b"}',
}


@pytest.mark.parametrize("row", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_malformed_row_stops_strict_reading_and_is_counted_otherwise(tmp_path: Path, row: bytes) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "before"}\n' + row + b'\n{"text": "behind"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: ") as caught:
        texts([path])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    tally = documents.Tally()
    assert texts([path], on_error="skip", tally=tally) == ["before", "behind"]
    assert tally.faults == {"malformed": 1}
    assert tally.located == [f"{path}:2: malformed"]


@pytest.mark.parametrize("row", [b'{"text": NaN}', b'{"text": 1e400}'])
def test_odd_numbers_are_no_text(tmp_path: Path, row: bytes) -> None:
    with pytest.raises(ValueError, match=r":1: the field 'text' must hold a string"):
        texts([write(tmp_path, "a.jsonl", row)])


def test_of_a_key_that_stands_twice_the_last_counts(tmp_path: Path) -> None:
    assert texts([write(tmp_path, "a.jsonl", b'{"text": "a", "text": "b"}')]) == ["b"]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"good\nb\xe4\xbdd\xff\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: not UTF-8: byte 2 of the line is 0xe4"):
        texts([path], documents="line")
    tally = documents.Tally()
    assert texts([path], documents="line", on_error="skip", tally=tally) == ["good", "b\ufffdd\ufffd"]
    assert tally.faults == {"not_utf8": 1}
    with pytest.raises(ValueError, match="UTF-16"):
        texts([write(tmp_path, "b.txt", "中文\n".encode("utf-16"))])


def test_memory_is_bounded_by_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1000)
    long_line = write(tmp_path, "a.txt", b"first\n" + b"x" * 5000 + b"\nlast\n" + b"y" * 5000)
    with pytest.raises(ValueError, match=r"a\.txt:2: the line is longer"):
        texts([long_line], documents="line")
    tally = documents.Tally()
    assert texts([long_line], documents="line", on_error="skip", tally=tally) == ["first", "last"]
    assert tally.located == [f"{long_line}:2: too_long", f"{long_line}:4: too_long"]

    no_blanks = write(tmp_path, "b.txt", "中文 a line\n" * 200)
    with pytest.raises(ValueError, match=r"b\.txt:1: no blank line .* set documents to 'line'"):
        texts([no_blanks])
    parts = texts([no_blanks], on_error="skip")
    assert len(parts) > 1 and "\n".join(parts) + "\n" == "中文 a line\n" * 200
    assert max(len(part.encode()) for part in parts) <= 1000
    with pytest.raises(ValueError, match="the file is over"):
        texts([no_blanks], documents="file")


def test_a_line_of_exactly_the_limit_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    assert texts([write(tmp_path, "a.txt", b"0123456789\n0123456789")], documents="line") == ["0123456789"] * 2


def test_located_faults_are_few_and_counted_ones_all(tmp_path: Path) -> None:
    tally = documents.Tally()
    texts([write(tmp_path, "a.jsonl", "{\n" * 500)], on_error="skip", tally=tally)
    assert tally.faults == {"malformed": 500}
    assert len(tally.located) == documents.MAX_LOCATED


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert texts([write(tmp_path, "a.txt", b""), write(tmp_path, "b.jsonl", b"\n\n"), write(tmp_path, "c.txt", b"\xef\xbb\xbf")]) == []


def test_files_come_in_one_order(tmp_path: Path) -> None:
    for name in ["b.txt", "a.txt", "c.jsonl", "d.md"]:
        write(tmp_path, name, "x")
    names = [path.name for path in documents.expand([tmp_path / "c.jsonl", tmp_path / "*.txt", tmp_path])]
    assert names == ["c.jsonl", "a.txt", "b.txt"]
    assert documents.expand([tmp_path]) == documents.expand([f"{tmp_path}/[abc].*"])


def test_everything_missing_is_named_together(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"gone\.txt does not exist; .*\*\.jsonl names no .*; .*empty names no"):
        documents.expand([tmp_path / "gone.txt", tmp_path / "*.jsonl", tmp_path / "empty"])


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    packed = write(tmp_path, "a.txt.xz", b"")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match=r"a\.txt\.xz, .*pipe\.txt"):
        documents.expand([packed, tmp_path / "pipe.txt"])


def test_packed_files_hold_what_plain_ones_do(tmp_path: Path) -> None:
    write(tmp_path, "a.txt.gz", gzip.compress("一\r\n二\n\n三".encode()))
    write(tmp_path, "b.JSONL.gz", gzip.compress(b'{"text": "four"}\n{oops\n'))
    tally = documents.Tally()
    assert texts([tmp_path], on_error="skip", tally=tally) == ["一\n二", "三", "four"]
    assert tally.faults == {"crlf": 1, "malformed": 1} and tally.located == [f"{tmp_path / 'b.JSONL.gz'}:2: malformed"]


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(write(tmp_path, "a.txt", "text"))
    assert texts([tmp_path / "link.txt"]) == ["text"]


def test_unique_keeps_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "甲\n乙\n甲\n甲 \n丙\n")
    apart = write(tmp_path, "b.txt", "丙\n")
    tally = documents.Tally()
    kept = documents.unique(documents.read([path], documents="line"), tally, against=documents.read([apart], documents="line"))
    assert [document.text for document in kept] == ["甲", "乙", "甲 "]
    assert tally.located == [f"{path}:3: duplicate"] and tally.faults == {"duplicate": 1, "dropped_held_out": 1}


def test_held_out_share_and_independence() -> None:
    names = [f"document {number}" for number in range(4000)]
    held = {name for name in names if documents.is_held_out(name, 0.1)}
    assert 330 < len(held) < 470, "400 ± 19"
    assert held <= {name for name in names if documents.is_held_out(name, 0.2)}, "a larger share holds the smaller one"
    assert held != {name for name in names if documents.is_held_out(name, 0.1, salt="x")}
    assert not any(documents.is_held_out(name, 0.0) for name in names)
    assert all(documents.is_held_out(name, 1.0) for name in names)
    assert not documents.is_held_out("\ud800", 0.0)


def test_held_out_never_changes() -> None:
    """Fixed for ever: a validation set must not move between versions."""
    assert [documents.is_held_out(text, 0.5) for text in ["", "a", "b", "c", "中文", "d"]] == [True, True, True, True, False, False]


def test_real_corpora(shared_data: Path) -> None:
    tally = documents.Tally()
    poems = texts([shared_data / "zh_poems.jsonl"], tally=tally)
    assert len(poems) == 12_000 and not tally.faults
    rows = (shared_data / "zh_corpus.jsonl").read_text(encoding="utf-8").split("\n")
    assert texts([shared_data / "zh_corpus.jsonl"]) == [json.loads(row)["text"] for row in rows if row]
    assert len(texts([shared_data / "en_wiki.txt"], documents="line")) == 30
