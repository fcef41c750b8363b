"""Sentences out of counts: nothing that was left out goes unsaid, and nothing is said twice."""

from zhllama_jax.data import account

CUT = {"examples": 8, "dropped_overlong": 2, "cut": 3, "turns_cut": 0, "dropped_empty": 1, "dropped_held_out": 4}


def test_what_is_too_long_says_what_to_raise() -> None:
    assert account.shortened({"train": CUT, "validation": {"examples": 3}}, length=64, setting="length") == [
        "64 tokens are too few for some of the 10 instruction rows (train): 3 answers were cut and do not teach where an answer ends, "
        "2 rows were left out; raise length"
    ]


def test_what_is_held_out_elsewhere_is_counted_by_name() -> None:
    assert account.apart(CUT, name="instructions") == ["instructions: 4 rows that begin like a held-out one are not learned from"]
    text = {"faults": {"dropped_held_out": 1, "duplicate": 3}}
    assert account.apart(text, name="zh") == ["zh: 1 document that is held out elsewhere is not learned from"]
    assert account.apart({"faults": {"duplicate": 3}}, name="zh") == []


def test_what_is_read_rarely_is_not_read_never() -> None:
    assert [account.times(number) for number in (0, 0.004, 0.0333, 0.1, 1, 12.345)] == ["0.00", "0.004", "0.033", "0.10", "1.00", "12.35"]


def test_the_rest_is_told_by_kind_and_split() -> None:
    splits = {"train": {**CUT, "faults": {"malformed": 2}}, "validation": {"examples": 3, "dropped_empty": 1, "faults": {"malformed": 2}}}
    same = {"splits": splits, "sources": {"validation_files": []}}
    assert account.others(same) == [
        "left out or repaired (train): 2 malformed, 1 dropped empty, 4 dropped held out",
        "left out or repaired (validation): 1 dropped empty",
    ], "both splits were read from one file"
    apart = {"splits": splits, "sources": {"validation_files": ["b.json"]}}
    assert account.others(apart)[1] == "left out or repaired (validation): 2 malformed, 1 dropped empty"
    assert account.others({"splits": {"train": {"examples": 1}}, "sources": {"validation_files": []}}) == []
