"""The same conversation is the same example whatever form carries it; what is no conversation is named, or counted."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhllama_jax.data import chat, config, instructions

TURN = st.text(st.sampled_from("ab 中文\n，😀</s>"), min_size=1, max_size=8).filter(str.strip)
TURNS = [("一加一", "二"), ("再加一", "三"), ("谢谢", "不客气")]


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> list[chat.SftExample]:
    return [found.example for found in instructions.read(config.SftData(files=("x",), **options), [path])]


def forms(turns: list[tuple[str, str]], system: str = "") -> dict[str, dict[str, Any]]:
    """A conversation in all forms."""
    beside = {"system": system} if system else {}
    *history, (question, answer) = turns
    talk = [(role, text) for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)]
    names = {"human": "user", "gpt": "assistant"}
    inside = [{"role": "system", "content": system}] if system else []
    return {
        "alpaca": {"instruction": question, "input": "", "output": answer, "history": [list(turn) for turn in history], **beside},
        "sharegpt": {"conversations": [{"from": role, "value": text} for role, text in talk], **beside},
        "messages": {"messages": [*inside, *({"role": names[role], "content": text} for role, text in talk)]},
    }


@pytest.mark.parametrize("system", ["", "答得短。"])
def test_all_forms_of_a_conversation_are_one_example(tmp_path: Path, system: str) -> None:
    made = forms(TURNS, system)
    tally = instructions.Tally()
    data = config.SftData(files=("x",))
    found = list(instructions.read(data, [write(tmp_path / "a.json", list(made.values()))], tally=tally))
    assert [each.form for each in found] == list(made)
    assert {each.example for each in found} == {chat.SftExample("谢谢", "", "不客气", tuple(TURNS[:2]), system)}
    assert tally.forms == {"a.json": {"alpaca": 1, "sharegpt": 1, "messages": 1}} and not tally.faults


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(TURN, TURN), min_size=1, max_size=4), system=st.one_of(st.just(""), TURN))
def test_no_form_adds_or_loses_anything(turns: list[tuple[str, str]], system: str) -> None:
    parsed = [instructions.parse(row, config.Columns()) for row in forms(turns, system).values()]
    assert {example.turns for example, _ in parsed} == {tuple(turns)}
    assert {example.system for example, _ in parsed} == {system}


def test_roles_and_keys_have_their_usual_other_names(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"from": "system", "value": "s"}, {"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": None, "tools": "", "id": 3},
    ]
    found = read(write(tmp_path / "a.json", rows))
    assert found == [chat.SftExample("a", "", "b"), chat.SftExample("a", "", "b", (), "s"), chat.SftExample("a", "", "b")]


def test_columns_name_other_keys(tmp_path: Path) -> None:
    columns = config.Columns(prompt="english", response="chinese", query="note", history="before", system="role")
    row = {"english": "hello", "chinese": "你好", "note": "n", "before": [["a", "b"]], "role": "r", "messages": "of no matter"}
    assert read(write(tmp_path / "a.json", [row]), columns=columns) == [chat.SftExample("hello", "n", "你好", (("a", "b"),), "r")]
    talk = {"dialog": forms([("a", "b")])["messages"]["messages"], "instruction": "x", "output": "y"}
    assert read(write(tmp_path / "b.json", [talk]), columns=config.Columns(messages="dialog")) == [chat.SftExample("a", "", "b")]
    with pytest.raises(ValueError, match="'a' is named twice"):
        config.Columns(prompt="a", response="a")


def test_reading_alpaca_rows(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "input": "b", "output": "c", "source": "x"},
        {"instruction": "a", "input": None, "output": "\ud800\0"},
        {"instruction": "a", "output": "c", "history": [["q", "r"]]},
        {"instruction": "", "input": "a", "output": "c"},
    ]
    expected = [chat.SftExample("a", "b", "c"), chat.SftExample("a", "", "\ufffd"), chat.SftExample("a", "", "c", (("q", "r"),))]
    expected.append(chat.SftExample("", "a", "c"))
    assert read(write(tmp_path / "a.json", rows)) == expected
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(text)
    assert read(tmp_path / "a.jsonl") == expected
    (tmp_path / "lines.json").write_text(f"\n {text}")
    assert read(tmp_path / "lines.json") == expected, "one object a line, whatever the file is called"
    assert expected[0].question == "a\nb"
    for name in ("a.json", "a.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert read(tmp_path / f"{name}.gz") == expected


WRONG = {
    "malformed": [
        ({"instruct": "a", "output": "b"}, r"no instruction \(the row has 'instruct', 'output'\): let `columns` say"),
        ({}, "no instruction and no output .the row has no keys"),
        (["a", "b"], "expected an object"),
        ({"instruction": 1, "output": "b", "input": 2}, "instruction and input must hold a string"),
        *(({"instruction": "a", "output": "b", "input": empty}, "input must hold a string") for empty in (0, False, [], {})),
        *(({"instruction": "a", "output": "b", "history": wrong}, "history must hold") for wrong in ([["a"]], "", 0, False)),
        ({"instruction": "a", "output": "b", "system": 3}, "system must hold a string"),
        ({"messages": []}, "messages must hold a list of turns"),
        ({"conversations": ["a", "b"]}, "conversations must hold a list of turns, each an object"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "turn 1 of messages must hold a string"),
        ({**forms([("a", "b")])["messages"], "instruction": "a", "output": "b"}, "messages and instruction both stand in the row"),
        ({**forms([("a", "b")], "s")["messages"], "system": "t"}, "another one beside it"),
    ],
    "unknown_role": [({"messages": [{"role": "critic", "content": "a"}]}, "turn 1 of messages has the role 'critic', expected user or")],
    "tool_call": [
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "turn 1 of messages calls a tool"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]}, "turn 2 of conversations calls"),
        ({**forms([("a", "b")])["sharegpt"], "tools": "[{}]"}, "offers tools"),
    ],
    "out_of_order": [
        ({"messages": [{"role": "assistant", "content": "a"}]}, "turn 1 of messages is the assistant's where the user's must stand"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "turn 2 of messages is the user's where the assistant's must stand"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "turn 2 of messages is the system's"),
    ],
    "empty_turn": [
        (forms([("a", " ")])["messages"], "turn 2 of messages, the assistant's, is empty"),
        (forms([("a", "b"), ("\n", "c")])["sharegpt"], "turn 3 of conversations, the user's, is empty"),
        (forms([("a", ""), ("b", "c")])["alpaca"], r"turn 1 \(in history\) asks or answers nothing"),
        (forms([("a", "b"), ("", "c")])["alpaca"], "turn 2 asks nothing"),
        *((forms([(empty, "c")])["alpaca"], "turn 1 asks nothing: instruction and input are empty") for empty in ("", " \n")),
    ],
    "no_answer": [
        ({"messages": [{"role": "user", "content": "a"}]}, "ends with a question of the user's"),
        ({"messages": [{"role": "system", "content": "a"}]}, "nothing but a system text"),
    ],
}
CASES = [(kind, row, message) for kind, cases in WRONG.items() for row, message in cases]


@pytest.mark.parametrize(("kind", "row", "message"), CASES)
def test_what_is_no_conversation_is_named_or_counted(tmp_path: Path, kind: str, row: object, message: str) -> None:
    fine = {"instruction": "a", "output": "b"}
    path = write(tmp_path / "a.json", [fine, row, fine])
    with pytest.raises(ValueError, match=rf"a\.json: row 1: .*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value) and ";" not in str(caught.value)
    tally = instructions.Tally()
    data = config.SftData(files=("x",), on_error="skip")
    assert len(list(instructions.read(data, [path], tally=tally))) == 2
    assert tally.faults == {kind: 1} and tally.located == [f"{path}:1: {kind}"] and tally.forms == {"a.json": {"alpaca": 2}}


def test_a_system_text_needs_a_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [forms([("a", "b")], "s")["messages"]])
    with pytest.raises(ValueError, match="row 0: the template 'none' has no place for a system text: choose one of alpaca"):
        read(path, template="none")
    assert read(path, template="none", on_error="skip") == []


def test_the_first_few_wrong_rows_are_named_together(tmp_path: Path) -> None:
    """What several rows have in common is said once, and the way on behind all of it."""
    with pytest.raises(ValueError, match=r"a\.json: rows 0, 1, 2, 3, 4: no instruction [^;]* \(on_error: skip [^;]*\)$"):
        read(write(tmp_path / "a.json", [{"output": "b"}] * 9))
    with pytest.raises(ValueError, match=r"a\.json: row 0: no instruction [^;]*; .*a\.json: row 1: expected an object [^;]*$"):
        read(write(tmp_path / "a.json", [{"output": "b"}, 7]))


def test_texts_are_told_where_they_belong(tmp_path: Path) -> None:
    for row in ("只有文字", {"text": "只有文字"}):
        with pytest.raises(ValueError, match=r"a\.json: row 0: .*texts without questions are read from \.jsonl files with one"):
            read(write(tmp_path / "a.json", [row]))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        read(tmp_path / "gone.json")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"cannot read .*a\.csv: give regular files named \.json or \.jsonl, packed"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.jsonl").write_text('{"instruction": "a", "output": "b"}\n{oops\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:2: not JSON"):
        read(tmp_path / "b.jsonl")
    assert len(read(tmp_path / "b.jsonl", on_error="skip")) == 1
    (tmp_path / "c.json").write_text("[1")
    with pytest.raises(ValueError, match=r"c\.json is not a list of rows in JSON"):
        read(tmp_path / "c.json")
    with pytest.raises(ValueError, match="expected a list of rows, or one object a line"):
        read(write(tmp_path / "d.json", "text"))


def test_conversations_that_begin_alike_are_held_out_together(tmp_path: Path) -> None:
    """Many files hold a conversation once per turn, longer and longer: its parts must not stand on both sides."""
    rows = [
        {"instruction": f"第{talk}.{turn}问", "output": "答", "history": [[f"第{talk}.{each}问", "答"] for each in range(turn)]}
        for talk in range(40)
        for turn in range(3)
    ]
    data = config.SftData(files=(str(write(tmp_path / "a.json", rows)),), held_out=0.3)
    held = [found.line // 3 for found in instructions.held_out(data)]
    assert 0 < len(held) < 120 and all(held.count(talk) == 3 for talk in held)
    single = chat.SftExample("问", "文", "答")
    assert instructions.opening(single) == single.question == "问\n文"


def test_what_other_sources_hold_out_is_dropped(tmp_path: Path) -> None:
    """By their hash, by their files, and not what they train on."""
    rows = [{"instruction": f"第{number}问", "output": "答"} for number in range(60)]
    path, apart = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", rows[:3])
    plain = config.SftData(files=(str(path),))
    shared = write(tmp_path / "x.json", [*rows[:40], {"instruction": "别问", "output": "答"}])
    halves = config.SftData(files=(str(shared),), held_out=0.5, salt="s")
    files = config.SftData(files=("y.json",), validation_files=(str(apart),))
    examples = [found.example for found in instructions.read(plain, [path])]
    use_of = instructions.uses(plain, [plain, halves, files])
    found = [use_of(example) for example in examples]
    wanted = [number < 3 or (number < 40 and instructions.is_held_out(example, halves)) for number, example in enumerate(examples)]
    assert found == ["dropped_held_out" if out else "train" for out in wanted] and 10 < sum(wanted) < 35
    assert any(instructions.is_held_out(example, halves) for example in examples[40:]), "of those that do not stand there none is dropped"
    own = instructions.uses(halves, [plain])
    assert {own(example) for example in examples} == {"train", "held_out"}, "its own are counted as such"


def test_a_fault_of_json_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "output": "b\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: not JSON \(Unterminated string starting at column 32\): .* \(on_error: skip "):
        read(tmp_path / "a.jsonl")
