"""From files to stores: what goes in comes out, in the split that its hash says, counted; the same build is a look-up."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from zhllama_jax.data import batches, build, config, documents, store
from zhllama_jax.tokenizer import processor

ZH = ["敏捷的棕色狐狸跳过了懒狗。", "小模型学习一个小世界,一次一句话。", "江河都往海里流,海却不满。", "今天天气很好,我们去公园散步。"]


@pytest.fixture(scope="module")
def tokenizer(english_pieces: Path) -> processor.Tokenizer:
    return processor.Tokenizer.load(english_pieces)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """60 different documents in two files, three of them twice, and a row with a fault that is repaired."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    made = [f"第{number}篇。{ZH[number % 4]}\nThe sea is never full, {number} times." for number in range(60)]
    (folder / "a.txt").write_text("\n\n".join(made[:30] + made[:3]), encoding="utf-8")
    rows = [{"text": text} for text in made[30:]] + [{"text": "with\0 nul"}]
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def texts_of(corpus: Path) -> list[str]:
    return list(dict.fromkeys(document.text for document in documents.read([corpus])))


def read_back(source: store.Store, tokenizer: processor.Tokenizer) -> list[str]:
    """The texts of a store packed with BOS and EOS."""
    stream: list[int] = []
    for row in [source[number] for number in range(len(source))]:
        tokens = row.tokens[row.segment_ids > 0].tolist()
        stream += tokens[1:] if stream else tokens
    found: list[list[int]] = []
    for token in stream:
        if token == tokenizer.bos_id:
            found.append([])
        found[-1].append(token)
    assert all(ids[-1] == tokenizer.eos_id for ids in found)
    return [tokenizer.decode(ids) for ids in found]


def test_what_goes_in_comes_out(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.TextData(files=(str(corpus),), length=32)
    built = build.text(data, tokenizer, tmp_path / "out")
    expected = texts_of(corpus)
    assert len(expected) == 61 and built.fresh and built.validation is None
    assert read_back(built.train, tokenizer) == expected
    counts = built.metadata["splits"]["train"]
    tokens = sum(len(tokenizer.encode(text)) for text in expected)
    assert counts["documents"] == 61 and counts["tokens"] == tokens
    assert counts["characters"] == sum(map(len, expected)) and counts["bytes"] == sum(len(text.encode()) for text in expected)
    assert counts["targets"] == tokens + 61, "every token and every EOS is predicted, no BOS"
    assert counts["rows"] == len(built.train) == -(-(tokens + 2 * 61 - 1) // 32)
    assert counts["read"]["documents"] == 64 and counts["faults"] == {"duplicate": 3, "nul": 1}
    assert counts["located"][-1] == f"{corpus / 'b.jsonl'}:31: nul"
    assert built.metadata["tokenizer_sha256"] == tokenizer.sha256 and built.metadata["vocab_size"] == tokenizer.vocab_size
    assert [source["name"] for source in built.metadata["sources"]["files"]] == ["a.txt", "b.jsonl"]


def test_held_out_documents_are_in_validation_and_nowhere_else(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    built = build.text(config.TextData(files=(str(corpus),), length=32, held_out=0.2), tokenizer, tmp_path / "out")
    expected = texts_of(corpus)
    held = [text for text in expected if documents.is_held_out(text, 0.2)]
    assert built.validation is not None and held
    assert read_back(built.validation, tokenizer) == held
    assert read_back(built.train, tokenizer) == [text for text in expected if text not in held]


def test_documents_of_validation_files_are_not_trained_on(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    leaked = texts_of(corpus)[5]
    (tmp_path / "v.txt").write_text(f"{leaked}\n\nfresh text", encoding="utf-8")
    data = config.TextData(files=(str(corpus),), validation_files=(str(tmp_path / "v.txt"),), length=32)
    built = build.text(data, tokenizer, tmp_path / "out")
    assert built.validation is not None
    assert read_back(built.validation, tokenizer) == [leaked, "fresh text"]
    assert leaked not in read_back(built.train, tokenizer)
    assert built.metadata["splits"]["train"]["faults"] == {"dropped_held_out": 1, "duplicate": 3, "nul": 1}


def test_a_build_is_named_by_how_the_files_of_others_are_read(tokenizer: processor.Tokenizer) -> None:
    data, other = config.TextData(files=("a.txt",)), config.TextData(files=("b.txt",), validation_files=("c.txt",))

    def key(**changed: Any) -> str:
        return build.key("text", data, tokenizer, [["0"], [], ["1"]], [dataclasses.replace(other, **changed)])

    changes: list[dict[str, Any]] = [{"documents": "line"}, {"field": "content"}, {"packing": "reference"}]
    assert len({key(), *(key(**changed) for changed in changes)}) == 4
    assert key() == key(length=64), "how they become rows plays no part"


def test_a_build_is_named_by_the_files_of_others_only_where_they_decide(
    tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer
) -> None:
    """Of a larger share elsewhere the contents decide what is left out; a share that is no larger the hash holds out here too."""
    beside = tmp_path / "beside.txt"
    beside.write_text("one\n\ntwo\n", encoding="utf-8")
    data = config.TextData(files=(str(corpus),), length=32, held_out=0.2)
    same, larger = (config.TextData(files=(str(beside),), held_out=share) for share in (0.2, 0.5))
    assert build.text(data, tokenizer, tmp_path / "out", others=[same]).fresh
    assert not build.text(data, tokenizer, tmp_path / "out").fresh, "its rows are those without the other"
    build.text(data, tokenizer, tmp_path / "out", others=[larger], overwrite=True)
    beside.write_text("three\n", encoding="utf-8")
    with pytest.raises(ValueError, match="other inputs or choices"):
        build.text(data, tokenizer, tmp_path / "out", others=[larger])


def test_a_second_build_is_a_look_up(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer, english_pieces: Path) -> None:
    data = config.TextData(files=(str(corpus),), length=32)
    first = build.text(data, tokenizer, tmp_path / "out")
    again = build.text(data, tokenizer, tmp_path / "out")
    assert not again.fresh and again.metadata == first.metadata
    moved = corpus.rename(tmp_path / "elsewhere")
    assert not build.text(config.TextData(files=(str(moved),), length=32), tokenizer, tmp_path / "out").fresh, "contents count, not names"
    changed = config.TextData(files=(str(moved),), length=33)
    with pytest.raises(ValueError, match="holds data built from other inputs or choices"):
        build.text(changed, tokenizer, tmp_path / "out")
    assert build.text(changed, tokenizer, tmp_path / "out", overwrite=True).train.length == 33
    (moved / "a.txt").write_text("another text", encoding="utf-8")
    with pytest.raises(ValueError, match="other inputs"):
        build.text(changed, tokenizer, tmp_path / "out")


@pytest.mark.parametrize("damage", ["gone", "empty", "changed"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_damaged_build_is_built_again(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer, split: str, damage: str) -> None:
    data = config.TextData(files=(str(corpus),), length=32, held_out=0.2)
    first = build.text(data, tokenizer, tmp_path / "out")
    expected = read_back(first.train, tokenizer)
    path = tmp_path / "out" / f"packed_rows-{split}.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.unlink() if damage == "gone" else path.write_bytes(b"" if damage == "empty" else content)
    again = build.text(data, tokenizer, tmp_path / "out")
    assert again.fresh and again.metadata == first.metadata
    assert read_back(again.train, tokenizer) == expected
    assert not build.text(data, tokenizer, tmp_path / "out").fresh


def test_two_builds_are_the_same_bytes(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.TextData(files=(str(corpus),), length=32)
    stores = [build.text(data, tokenizer, tmp_path / name).train for name in ("one", "two")]
    rows = [[field.tobytes() for number in range(len(source)) for field in source[number]] for source in stores]
    assert rows[0] == rows[1]


def test_reference_packing_keeps_lines_and_loses_the_rest(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("one\n\none\ntwo words\n", encoding="utf-8")
    data = config.TextData(files=(str(tmp_path / "a.txt"),), length=4, packing="reference")
    built = build.text(data, tokenizer, tmp_path / "out")
    stream = [token for text in ["one", "", "one", "two words"] for token in tokenizer.encode(text, bos=True)]
    kept = [token for row in range(len(built.train)) for token in built.train[row].tokens[:-1].tolist()]
    assert kept == stream[: len(stream) // 4 * 4]


def test_reference_packing_joins_no_lines_of_two_files(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    """Each file is cut into blocks by itself, as the original's; its remainder never meets the next file."""
    lines = ["The sea is never full.", "All the rivers run into the sea."]
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    each = [token for line in lines for token in (tokenizer.bos_id, *tokenizer.encode(line))]
    length = len(each) // 2 - 1
    assert len(each) % length
    data = config.TextData(files=(str(tmp_path),), length=length, packing="reference")
    train = build.text(data, tokenizer, tmp_path / "out").train
    rows = [train[number].tokens[:-1].tolist() for number in range(len(train))]
    assert rows == [each[:length], each[length : 2 * length]] * 3


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True)])
def test_recorded_targets_are_those_that_are_scored(
    tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer, bos: bool, eos: bool, separate: bool
) -> None:
    built = build.text(config.TextData(files=(str(corpus),), length=32, bos=bos, eos=eos), tokenizer, tmp_path / "out")
    spelled = build.spelled(built.metadata, "train", separate=separate)
    scored = sum(batch.loss_mask.sum() for batch in batches.in_order(built.train, 8, separate=separate))
    assert scored == built.metadata["splits"]["train"]["targets_separate" if separate else "targets"]
    if bos:
        assert spelled == (built.metadata["splits"]["train"]["characters"], scored)
    else:
        assert spelled is None, "the first token of a document is not among the targets"


def test_reference_rows_spell_less_than_the_text(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    built = build.text(config.TextData(files=(str(corpus),), length=32, packing="reference"), tokenizer, tmp_path / "out")
    assert build.spelled(built.metadata, "train", separate=True) is None


def test_instruction_rows_spell_their_answers(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    built = build.sft(config.SftData(files=(str(sft_file(tmp_path / "a.json")),), length=400), tokenizer, tmp_path / "out")
    for separate in (True, False):
        scored = sum(batch.loss_mask.sum() for batch in batches.in_order(built.train, 8, separate=separate))
        assert build.spelled(built.metadata, "train", separate=separate) == (built.metadata["splits"]["train"]["characters"], scored)
    assert build.spelled({"splits": {}}, "train", separate=True) is None


def test_repairs_of_instruction_rows_are_counted(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"instruction": "a\0\0", "input": "b\0", "output": "c"},
        {"instruction": "a", "output": "c\r\nd\ud800"},
        {"instruction": "a", "output": "b"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    built = build.sft(config.SftData(files=(str(path),), length=200), tokenizer, tmp_path / "out")
    assert built.metadata["splits"]["train"]["faults"] == {"nul": 1, "crlf": 1, "surrogate": 1}


def test_faults_and_empty_splits_stop_the_build_and_leave_nothing(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    bad, empty, fine = tmp_path / "bad.jsonl", tmp_path / "empty.txt", tmp_path / "fine.txt"
    bad.write_text('{"text": "fine"}\n{oops\n')
    empty.write_text("\n \n")
    fine.write_text("one text")
    wrong = [
        (config.TextData(files=(str(bad),)), r"^.*bad\.jsonl:2: not JSON"),
        (config.TextData(files=(str(empty),)), "nothing to train on"),
        (
            config.TextData(files=(str(fine),), held_out=1e-9),
            r"held_out 1e-09 holds nothing out of .*fine\.txt \(documents read: 1\): raise it",
        ),
        (config.TextData(files=(str(fine),), validation_files=(str(empty),)), "nothing to validate on"),
    ]
    for data, message in wrong:
        with pytest.raises(ValueError, match=message):
            build.text(data, tokenizer, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    built = build.text(config.TextData(files=(str(bad),), on_error="skip"), tokenizer, tmp_path / "out")
    assert built.metadata["splits"]["train"]["faults"] == {"malformed": 1}


@pytest.mark.parametrize(("overlong", "why"), [("cut", "have a prompt that fills"), ("drop", "are longer than")])
def test_rows_that_are_all_too_long_are_counted(
    tmp_path: Path, tokenizer: processor.Tokenizer, overlong: Literal["cut", "drop"], why: str
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"say {number}", "output": "one" if number else ""} for number in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = config.SftData(files=(str(path),), length=8, overlong=overlong)
    message = rf"rows\.jsonl: no row is left to train on: 3 of 4 rows {why} 8 tokens: raise length .*; 1 of 4 rows have an empty answer$"
    with pytest.raises(ValueError, match=message):
        build.sft(data, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_is_reported(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK_CHARACTERS", 500)
    seen: list[build.Progress] = []
    built = build.text(config.TextData(files=(str(corpus),), length=32, held_out=0.2), tokenizer, tmp_path / "out", progress=seen.append)
    assert {report.split for report in seen} == {"train", "validation"} and len(seen) > 4
    last = {report.split: (report.documents, report.tokens) for report in seen}
    assert all(last[split] == (counts["documents"], counts["tokens"]) for split, counts in built.metadata["splits"].items())


def sft_file(path: Path, count: int = 40) -> Path:
    rows = [{"instruction": f"第{number}问?", "input": "", "output": "The sea. " * (number % 5)} for number in range(count)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("packing", ["several", "one"])
def test_instruction_rows(tmp_path: Path, tokenizer: processor.Tokenizer, packing: str) -> None:
    data = config.SftData(files=(str(sft_file(tmp_path / "a.json")),), length=400, packing=packing)  # type: ignore[arg-type]
    built = build.sft(data, tokenizer, tmp_path / "out")
    counts = built.metadata["splits"]["train"]
    assert (counts["examples"], counts["dropped_empty"], counts["dropped_overlong"], counts["cut"]) == (32, 8, 0, 0)
    assert counts["characters"] == sum(len("The sea. " * (number % 5)) for number in range(40))
    assert (built.metadata["options"]["template"], built.metadata["options"]["boundary"]) == ("alpaca", "joined")
    answers = sorted("The sea. " * (number % 5) for number in range(40) if number % 5)
    found, segments = [], 0
    for row in [built.train[number] for number in range(len(built.train))]:
        for segment in range(1, int(row.segment_ids.max()) + 1):
            here = row.segment_ids == segment
            assert row.tokens[here][0] == tokenizer.bos_id and row.tokens[here][-1] == tokenizer.eos_id
            found.append(tokenizer.decode(row.tokens[here & (row.loss_mask > 0)].tolist()))
            segments += 1
    assert sorted(found) == answers
    assert len(built.train) == 32 if packing == "one" else len(built.train) < 32
    assert counts["targets"] == sum(int(built.train[number].loss_mask.sum()) for number in range(len(built.train)))


def test_rows_that_do_not_fit_are_counted(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    path = tmp_path / "a.json"
    long, short = "x" * 3000, "The sea."
    rows = [(long, short), ("问", long), ("问", short), ("问", "")]
    path.write_text(json.dumps([{"instruction": question, "output": answer} for question, answer in rows]), encoding="utf-8")
    built = build.sft(config.SftData(files=(str(path),), length=300), tokenizer, tmp_path / "cut")
    counts = built.metadata["splits"]["train"]
    assert (counts["examples"], counts["dropped_empty"], counts["dropped_overlong"], counts["cut"]) == (2, 1, 1, 1)
    learnt = [tokenizer.decode(row.tokens[row.loss_mask > 0].tolist()) for row in [built.train[0], built.train[1]]]
    assert sorted(learnt) == [short, "x" * (counts["characters"] - len(short))]
    built = build.sft(config.SftData(files=(str(path),), length=300, overlong="drop"), tokenizer, tmp_path / "dropped")
    counts = built.metadata["splits"]["train"]
    assert (counts["examples"], counts["dropped_empty"], counts["dropped_overlong"], counts["cut"]) == (1, 1, 2, 0)


def test_questions_of_the_validation_files_are_not_trained_on(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    rows = [{"instruction": f"问{number}", "input": "", "output": "The sea."} for number in range(6)]
    (tmp_path / "all.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "held.json").write_text(json.dumps([{**row, "output": "Other."} for row in rows[:2]]), encoding="utf-8")
    data = config.SftData(files=(str(tmp_path / "all.json"),), validation_files=(str(tmp_path / "held.json"),), length=200)
    counts = build.sft(data, tokenizer, tmp_path / "out").metadata["splits"]
    assert (counts["train"]["examples"], counts["train"]["dropped_held_out"]) == (4, 2)
    assert (counts["validation"]["examples"], counts["validation"]["dropped_held_out"]) == (2, 0)


def talk(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]}


def test_conversations_are_learnt_at_every_answer(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    """Turns, characters and targets are counted as they are learnt; what does not fit is left out at the end, by whole turns."""
    path = tmp_path / "a.json"
    turns = [("问一", "The sea."), ("问二", "Rivers run."), ("问三", "x" * 3000)]
    path.write_text(json.dumps([talk(*turns), talk(*turns[:2]), {"instruction": "问四", "output": "To the sea."}]), encoding="utf-8")
    built = build.sft(config.SftData(files=(str(path),), length=400, packing="one"), tokenizer, tmp_path / "out")
    counts = built.metadata["splits"]["train"]
    assert (counts["examples"], counts["turns"], counts["turns_cut"], counts["cut"]) == (3, 5, 1, 0)
    assert counts["forms"] == {"a.json": {"messages": 2, "alpaca": 1}}
    assert counts["characters"] == 2 * len("The sea.Rivers run.") + len("To the sea.")
    learnt = [built.train[number].tokens[built.train[number].loss_mask > 0].tolist() for number in range(3)]
    assert learnt[0] == learnt[1], "the third turn does not fit and goes as a whole"
    ends = [number for number, token in enumerate(learnt[0]) if token == tokenizer.eos_id]
    assert [tokenizer.decode(learnt[0][: ends[0]]), tokenizer.decode(learnt[0][ends[0] + 1 : ends[1]])] == ["The sea.", "Rivers run."]
    assert ends[1] == len(learnt[0]) - 1 and build.closed(built.metadata)
    for separate in (True, False):
        scored = sum(batch.loss_mask.sum() for batch in batches.in_order(built.train, 8, separate=separate))
        assert build.spelled(built.metadata, "train", separate=separate) == (counts["characters"], scored)


def test_the_same_conversations_are_the_same_store_in_every_form(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    turns = [("问一", "The sea."), ("问二", "Rivers run.")]
    said = [{"from": role, "value": text} for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)]
    forms = [{"instruction": "问二", "output": "Rivers run.", "history": [list(turns[0])]}, {"conversations": said}, talk(*turns)]
    found = []
    for number, row in enumerate(forms):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row), encoding="utf-8")
        train = build.sft(config.SftData(files=(str(path),), length=300), tokenizer, tmp_path / f"out{number}").train
        found.append([field.tobytes() for field in train[0]])
    assert found[0] == found[1] == found[2]


def test_rows_that_are_no_conversation_stop_the_build_or_are_counted(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([talk(("问", "The sea.")), {"messages": [{"role": "user", "content": "问"}]}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: row 1: messages ends with a question of the user's"):
        build.sft(config.SftData(files=(str(path),), length=300), tokenizer, tmp_path / "out")
    built = build.sft(config.SftData(files=(str(path),), length=300, on_error="skip"), tokenizer, tmp_path / "out")
    assert built.metadata["splits"]["train"]["faults"] == {"no_answer": 1} and not build.closed(built.metadata)
    assert built.metadata["splits"]["train"]["located"] == [f"{path}:1: no_answer"]


def test_what_begins_like_a_validation_row_is_not_trained_on(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    """Neither a conversation that contains a held-out one, nor one that is contained in it, nor one that goes on otherwise."""
    first, other = ("问一", "The sea."), ("问二", "Rivers run.")
    (tmp_path / "all.json").write_text(json.dumps([talk(first), talk(first, other), talk(other), talk(other, first)]), encoding="utf-8")
    (tmp_path / "held.json").write_text(json.dumps([talk(first, ("问三", "No."))]), encoding="utf-8")
    data = config.SftData(files=(str(tmp_path / "all.json"),), validation_files=(str(tmp_path / "held.json"),), length=300)
    counts = build.sft(data, tokenizer, tmp_path / "out").metadata["splits"]["train"]
    assert (counts["examples"], counts["dropped_held_out"]) == (2, 2)


def test_packed_files_build_the_rows_of_plain_ones(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    plain = build.text(config.TextData(files=(str(corpus),), length=32), tokenizer, tmp_path / "plain").train
    for path in list(corpus.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = build.text(config.TextData(files=(str(corpus),), length=32), tokenizer, tmp_path / "packed").train
    assert [row.tokens.tobytes() for row in map(plain.__getitem__, range(len(plain)))] == [
        row.tokens.tobytes() for row in map(packed.__getitem__, range(len(packed)))
    ]


@pytest.mark.parametrize(("boundary", "room"), [("joined", 301), ("faithful", 300)])
def test_length_means_what_it_meant_in_the_original(tmp_path: Path, tokenizer: processor.Tokenizer, boundary: str, room: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "问", "output": "x" * 3000}]), encoding="utf-8")
    built = build.sft(config.SftData(files=(str(path),), length=300, boundary=boundary), tokenizer, tmp_path / "out")  # type: ignore[arg-type]
    assert int((built.train[0].segment_ids > 0).sum()) == room


def test_held_out_questions_are_in_validation_only(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    data = config.SftData(files=(str(sft_file(tmp_path / "a.json")),), length=400, held_out=0.3, packing="one")
    built = build.sft(data, tokenizer, tmp_path / "out")
    assert built.validation is not None

    def questions(source: store.Store) -> set[str]:
        rows = [source[number] for number in range(len(source))]
        return {tokenizer.decode(row.tokens[(row.loss_mask == 0) & (row.segment_ids > 0)].tolist()) for row in rows}

    assert not questions(built.train) & questions(built.validation)
    assert len(questions(built.train) | questions(built.validation)) == 32


def test_wrong_instruction_files(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    with pytest.raises(ValueError, match="no template 'x'"):
        build.sft(config.SftData(files=("a.json",), template="x"), tokenizer, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist"):
        build.sft(config.SftData(files=(str(tmp_path / "gone.json"),)), tokenizer, tmp_path / "out")
    (tmp_path / "a.json").write_text('[{"instruction": "a"}]')
    with pytest.raises(ValueError, match=r"a\.json: row 0: no output"):
        build.sft(config.SftData(files=(str(tmp_path / "a.json"),)), tokenizer, tmp_path / "out")


def test_text_and_instructions_mix_in_batches(tmp_path: Path, corpus: Path, tokenizer: processor.Tokenizer) -> None:
    text = build.text(config.TextData(files=(str(corpus),), length=400), tokenizer, tmp_path / "text").train
    sft = build.sft(config.SftData(files=(str(sft_file(tmp_path / "a.json")),), length=400), tokenizer, tmp_path / "sft").train
    run = batches.Batches([sft, text], global_batch=8, seed=0, shares=[config.Share(3), config.Share(1)])
    for step in range(5):
        assert [source for source, _ in run.where(step, range(8))].count(1) == 2
        batch = run.rows(step)
        assert batch.tokens.shape == (8, 400) and batch.loss_mask.any(axis=1).all()
        assert np.isin(batch.loss_mask, [0, 1]).all()


def test_real_corpus(tmp_path: Path, shared_data: Path) -> None:
    """Bytes of a megabyte of real text come back through documents, tokenizer, packing and store."""
    tokenizer = processor.Tokenizer.load(shared_data / "tokenizers" / "llama_32000.model")
    data = config.TextData(files=(str(shared_data / "en_wiki.txt"),), documents="line", length=512, held_out=0.2)
    built = build.text(data, tokenizer, tmp_path / "out")
    assert built.validation is not None
    found = read_back(built.train, tokenizer) + read_back(built.validation, tokenizer)
    assert sorted(found) == sorted(texts_of_lines(shared_data / "en_wiki.txt"))


def texts_of_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
