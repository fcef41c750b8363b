"""A document is learned from or held out, never both, however the corpus is read and whatever is used beside it."""

import dataclasses
from pathlib import Path

import pytest

from zhllama_jax.data import config, documents, holdout

LINES = [f"line {number}" for number in range(100)]


def corpus(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def learned(data: config.TextData, *others: config.TextData) -> list[str]:
    return [document.text for document in holdout.learned(data, others=others)]


def held_out(data: config.TextData) -> list[str]:
    return [document.text for document in holdout.held_out(data)]


@pytest.mark.parametrize("packing", ["documents", "reference"])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_share_parts_the_corpus(tmp_path: Path, packing: str, deduplicate: bool) -> None:
    path = corpus(tmp_path / "a.txt", [*LINES, *LINES[:9]])
    data = config.TextData((path,), held_out=0.3, documents="line", packing=packing, deduplicate=deduplicate)
    once = deduplicate and packing == "documents"
    assert sorted(learned(data) + held_out(data)) == sorted(LINES if once else [*LINES, *LINES[:9]])
    assert held_out(data)[0] == next(line for line in LINES if documents.is_held_out(line, 0.3))


@pytest.mark.parametrize("packing", ["documents", "reference"])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_validation_files_are_never_learned_from(tmp_path: Path, packing: str, deduplicate: bool) -> None:
    path, apart = corpus(tmp_path / "a.txt", [*LINES, "", *LINES[:9]]), corpus(tmp_path / "b.txt", [LINES[3], "", "new"])
    data = config.TextData((path,), (apart,), documents="line", packing=packing, deduplicate=deduplicate)
    tally = documents.Tally()
    found = [document.text for document in holdout.learned(data, tally=tally)]
    assert LINES[3] not in found and LINES[4] in found
    assert ("" in found) == (packing == "reference"), "blank lines are rows of the reference and nothing to hold out"
    assert tally.faults["dropped_held_out"] == 2, "counted: it stands in the corpus twice"
    assert tally.faults["duplicate"] == (8 if deduplicate and packing == "documents" else 0)
    assert [text for text in held_out(data) if text] == [LINES[3], "new"]


def test_what_another_corpus_holds_out_is_not_learned_from(tmp_path: Path) -> None:
    path, apart = corpus(tmp_path / "a.txt", LINES), corpus(tmp_path / "b.txt", LINES[:5])
    plain = config.TextData((path,), documents="line")
    large = config.TextData((path,), documents="line", held_out=0.4)
    salted = config.TextData((path,), documents="line", held_out=0.1, salt="other")
    files = config.TextData((path,), (apart,), documents="line")
    assert learned(plain) == LINES
    for other in (large, salted, files):
        assert learned(plain, other) == learned(other) != LINES
        tally = documents.Tally()
        assert len(list(holdout.learned(plain, others=[other], tally=tally))) + tally.faults["dropped_held_out"] == len(LINES)
        unshared = dataclasses.replace(plain, files=(corpus(tmp_path / "c.txt", [f"elsewhere {line}" for line in LINES]),))
        assert len(learned(unshared, other)) == len(LINES), "nothing holds these out, whatever their hashes"
    everything = {*held_out(large), *held_out(salted), *LINES[:5]}
    assert learned(plain, large, salted, files) == [line for line in LINES if line not in everything]
    assert held_out(plain) == []


def test_files_of_others_are_read_where_they_decide_alone(tmp_path: Path) -> None:
    """A share under the same salt that is no larger is implied by the hash; its files need not be there."""
    path = corpus(tmp_path / "a.txt", LINES)
    data = config.TextData((path,), documents="line", held_out=0.2)
    assert learned(data, config.TextData(("absent.txt",), held_out=0.2)) == learned(data)
    for more in (config.TextData(("absent.txt",), held_out=0.3), config.TextData(("absent.txt",), held_out=0.1, salt="x")):
        with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
            learned(data, more)
