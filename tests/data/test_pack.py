"""Nothing is lost, everything is predicted once, and the worked examples of the docstrings hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhllama_jax.data import pack

BOS, EOS, PAD = 1, 2, 9
DOCUMENTS = st.lists(st.lists(st.integers(10, 99), max_size=30), max_size=20)


def lists(row: pack.Row) -> tuple[list[int], list[int], list[int]]:
    return row.tokens.tolist(), row.loss_mask.tolist(), row.segment_ids.tolist()


def stream(documents: list[list[int]], bos: int | None, eos: int | None) -> list[int]:
    """What the rows must hold, said in the plainest way."""
    joined: list[int] = []
    for ids in documents:
        if ids:
            joined += ([] if bos is None else [bos]) + ids + ([] if eos is None else [eos])
    return joined


def test_worked_example() -> None:
    rows = [lists(row) for row in pack.pack([[7, 8, 9, 6], [5]], length=4, bos_id=1, eos_id=2)]
    assert rows == [
        ([1, 7, 8, 9, 6], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ([6, 2, 1, 5, 2], [0, 1, 0, 1, 1], [1, 1, 2, 2, 2]),
    ]


@settings(max_examples=150, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 12), bos=st.booleans(), eos=st.booleans())
def test_no_token_is_lost_or_said_twice(documents: list[list[int]], length: int, bos: bool, eos: bool) -> None:
    bos_id, eos_id = BOS if bos else None, EOS if eos else None
    expected = stream(documents, bos_id, eos_id)
    rows = list(pack.pack(documents, length=length, bos_id=bos_id, eos_id=eos_id, pad_id=PAD))
    assert all(len(row.tokens) == len(row.loss_mask) == len(row.segment_ids) == length + 1 for row in rows)
    real = [row.tokens[row.segment_ids > 0].tolist() for row in rows]
    assert all(len(tokens) == length + 1 for tokens in real[:-1]), "only the last row is padded"
    assert [token for tokens in real[:1] for token in tokens] + [token for tokens in real[1:] for token in tokens[1:]] == expected
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(real))
    predicted = [token for row in rows for token in row.tokens[row.loss_mask > 0].tolist()]
    assert predicted == [token for token in expected[1:] if not (bos and eos and token == BOS)]


@settings(max_examples=100, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 12))
def test_segments_are_the_documents(documents: list[list[int]], length: int) -> None:
    owners = [number for number, ids in enumerate(ids for ids in documents if ids) for _ in range(len(ids) + 2)]
    start = 0
    for row in pack.pack(documents, length=length, bos_id=BOS, eos_id=EOS, pad_id=PAD):
        size = int((row.segment_ids > 0).sum())
        here = owners[start : start + size]
        assert row.segment_ids[:size].tolist() == [owner - here[0] + 1 for owner in here]
        assert not row.segment_ids[size:].any() and not row.loss_mask[size:].any() and (row.tokens[size:] == PAD).all()
        start += length


def test_documents_may_be_a_generator_and_long() -> None:
    rows = list(pack.pack((np.arange(3, 1003) for _ in range(3)), length=64, bos_id=BOS, eos_id=EOS))
    assert sum(int(row.loss_mask.sum()) for row in rows) == 3 * 1001
    assert len(rows) == -(-(3 * 1002 - 1) // 64)


def reference_blocks(lines: list[list[int]], length: int, batch_lines: int) -> list[list[int]]:
    """`group_texts` of the original run_clm_pt_with_peft.py under `datasets.map(batched=True)`."""
    blocks = []
    for start in range(0, len(lines), batch_lines):
        joined = [token for line in lines[start : start + batch_lines] for token in [BOS, *line]]
        total = len(joined) // length * length if len(joined) >= length else len(joined)
        blocks += [joined[at : at + length] for at in range(0, total, length)]
    return blocks


@settings(max_examples=100, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 12), batch_lines=st.integers(1, 8))
def test_reference_packing_is_the_original_one(documents: list[list[int]], length: int, batch_lines: int) -> None:
    rows = list(pack.pack_reference(documents, length=length, bos_id=BOS, pad_id=PAD, batch_lines=batch_lines))
    blocks = reference_blocks(documents, length, batch_lines)
    assert [row.tokens[row.segment_ids > 0].tolist() for row in rows] == blocks
    for row, block in zip(rows, blocks, strict=True):
        assert row.loss_mask.tolist() == [0] + [1] * (len(block) - 1) + [0] * (length + 1 - len(block))
        assert row.segment_ids.tolist() == [1] * len(block) + [0] * (length + 1 - len(block))


def test_examples_worked_example() -> None:
    examples = [pack.Example([1, 8, 9, 2], [0, 0, 1, 1]), pack.Example([1, 7], [0, 1])]
    assert [lists(row) for row in pack.pack_examples(examples, length=5)] == [([1, 8, 9, 2, 1, 7], [0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 2, 2])]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 13), max_size=40),
    several=st.booleans(),
    open_rows=st.integers(1, 5),
)
def test_every_example_stands_whole_in_one_row(sizes: list[int], several: bool, open_rows: int) -> None:
    examples = [pack.Example([100 * number + i for i in range(size)], [0] + [1] * (size - 1)) for number, size in enumerate(sizes, 1)]
    rows = list(pack.pack_examples(examples, length=12, several=several, open_rows=open_rows))
    found = []
    for row in rows:
        for segment in range(1, int(row.segment_ids.max()) + 1):
            here = row.segment_ids == segment
            found.append(pack.Example(row.tokens[here].tolist(), row.loss_mask[here].tolist()))
    assert sorted(found) == sorted(examples)
    if not several:
        assert len(rows) == len(examples)
        assert found == examples, "one per row keeps the order"


def test_first_fit_fills_rows() -> None:
    """Sizes 4, 3, 2, 1, 2 in rows of 6: 4+2, 3+1+2."""
    examples = [pack.Example([number] * size, [1] * size) for number, size in enumerate([4, 3, 2, 1, 2], 1)]
    rows = [row.tokens.tolist() for row in pack.pack_examples(examples, length=5)]
    assert rows == [[1, 1, 1, 1, 3, 3], [2, 2, 2, 4, 5, 5]]


def test_examples_are_never_cut() -> None:
    with pytest.raises(ValueError, match=r"example 1 has 7 tokens: .* holds 1 to 6"):
        list(pack.pack_examples([pack.Example([1], [0]), pack.Example([1] * 7, [0] * 7)], length=5))
    with pytest.raises(ValueError, match="has 0 tokens"):
        list(pack.pack_examples([pack.Example([], [])], length=5))


@pytest.mark.parametrize("length", [1, 65_535])
def test_lengths_have_bounds(length: int) -> None:
    with pytest.raises(ValueError, match="reads 2 to"):
        list(pack.pack([[1]], length=length, bos_id=None, eos_id=None))
