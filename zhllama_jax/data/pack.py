"""Rows of fixed length out of documents or examples of any length.

A row for a model that reads T tokens holds T + 1: `tokens[:T]` is read and `tokens[1:]` is
predicted. `loss_mask[i]` says whether token i is predicted at all (the first of a row never is:
nothing stands before it), `segment_ids[i]` to which document or example of the row it belongs,
counted from 1 (rows of `pack_reference` are one segment whatever lines they hold); 0 is padding.

    pack            documents -> rows, one pass, nothing lost
    pack_reference  lines of a file -> rows as Chinese-LLaMA-Alpaca made them
    pack_corpus     the documents of files -> rows, in one of these two ways
    pack_examples   prompt/answer examples -> rows, several in a row or one

Knows ids only: no text, no tokenizer.
"""

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zhllama_jax.data import config


class Row(NamedTuple):
    """One row of T + 1 tokens, as it is stored."""

    tokens: np.ndarray
    """[T+1] uint32 ids; padding holds `pad_id`."""
    loss_mask: np.ndarray
    """[T+1] uint8; 1 where the token is to be predicted from those before it."""
    segment_ids: np.ndarray
    """[T+1] uint16; 1, 2, … by document, 0 for padding."""


class Example(NamedTuple):
    """A prompt and its answer as ids; the mask is 1 on the ids of the answer."""

    tokens: list[int]
    loss_mask: list[int]


def pack(documents: Iterable[Sequence[int]], *, length: int, bos_id: int | None, eos_id: int | None, pad_id: int = 0) -> Iterator[Row]:
    """Joins the documents into one stream and cuts it into rows for `length` read tokens.

    Consecutive rows share one token: it is the last one predicted in a row and the first one read
    in the next. So every token of the stream but the very first is predicted exactly once, and
    every token but the very last is read exactly once. Only the last row is padded.

    A document begins with `bos_id` and ends with `eos_id` (None: without). After an EOS a BOS is
    certain, so it is not predicted; without EOS it is, being then the only sign of an end.
    Documents without ids are passed over.

    Worked example, length 4, bos 1, eos 2, documents [7, 8, 9, 6] and [5]; stream 1 7 8 9 6 2 1 5 2::

        tokens       1 7 8 9 6 | 6 2 1 5 2
        loss_mask    0 1 1 1 1 | 0 1 0 1 1
        segment_ids  1 1 1 1 1 | 1 1 2 2 2

    Args:
      documents: each a sequence of ids without BOS and EOS.
      length: T, the tokens that the model reads per row.
      bos_id: put before each document, or None.
      eos_id: put after each document, or None.
      pad_id: fills the last row.
    """
    _check_length(length)
    tokens, mask, owner = _empty(), _empty(np.uint8), _empty(np.int64)
    start, first = 0, True
    for number, document in enumerate(ids for ids in documents if len(ids)):
        body = np.asarray(document, np.uint32)
        before = [] if bos_id is None else [bos_id]
        after = [] if eos_id is None else [eos_id]
        piece = np.concatenate([np.asarray(before, np.uint32), body, np.asarray(after, np.uint32)])
        piece_mask = np.ones(len(piece), np.uint8)
        if before and after:
            piece_mask[0] = 0
        tokens = np.concatenate([tokens[start:], piece])
        mask = np.concatenate([mask[start:], piece_mask])
        owner = np.concatenate([owner[start:], np.full(len(piece), number)])
        start = 0
        while len(tokens) - start > length:
            stop = start + length + 1
            yield _row(tokens[start:stop], mask[start:stop], owner[start:stop] - owner[start] + 1, length, pad_id)
            start, first = start + length, False
    if len(tokens) - start > (0 if first else 1):
        yield _row(tokens[start:], mask[start:], owner[start:] - owner[start] + 1, length, pad_id)


def pack_reference(lines: Iterable[Sequence[int]], *, length: int, bos_id: int, pad_id: int = 0, batch_lines: int = 1000) -> Iterator[Row]:
    """Rows of one file as the original Chinese-LLaMA-Alpaca pre-training made them; it joined the files' blocks, not their lines.

    Each line, also an empty one, begins with BOS and ends without EOS. Batches of `batch_lines`
    lines are joined and cut into blocks of `length` tokens; what remains of a batch is dropped,
    unless the batch is shorter than one block: then it is kept. The row's last place is padding,
    for the original predicts `length - 1` tokens of a block of `length`; a row is one segment.
    (The original filled a short block's batch up by repeating its first row in silence; here the
    block is padded.)
    """
    _check_length(length)
    batch: list[np.ndarray] = []
    for line in lines:
        batch.append(np.concatenate([np.asarray([bos_id], np.uint32), np.asarray(line, np.uint32)]))
        if len(batch) == batch_lines:
            yield from _reference_blocks(batch, length, pad_id)
            batch = []
    if batch:
        yield from _reference_blocks(batch, length, pad_id)


def pack_corpus(
    documents: Iterable[tuple[str, Sequence[int]]], data: config.TextData, *, bos_id: int, eos_id: int, pad_id: int = 0
) -> Iterator[Row]:
    """Rows of documents, each given as (file, ids), as a corpus wants them packed."""
    if data.packing == "reference":
        # The original packed each file by itself: what remains of one never meets the lines of the next.
        for _, lines in itertools.groupby(documents, key=operator.itemgetter(0)):
            yield from pack_reference((ids for _, ids in lines), length=data.length, bos_id=bos_id, pad_id=pad_id)
        return
    ends = {"bos_id": bos_id if data.bos else None, "eos_id": eos_id if data.eos else None}
    yield from pack((ids for _, ids in documents), length=data.length, pad_id=pad_id, **ends)


def pack_examples(examples: Iterable[Example], *, length: int, pad_id: int = 0, several: bool = True, open_rows: int = 64) -> Iterator[Row]:
    """Lays whole examples into rows for `length` read tokens, each example a segment of its own.

    First fit: an example goes into the oldest open row that has room for it. A row leaves when it
    is full, or as the fullest one when more than `open_rows` are open. With `several=False` each
    example has a row of its own. Examples are never cut.

    Worked example, length 5, examples [1 8 9 2] (answer 9 2) and [1 7] (answer 7)::

        tokens       1 8 9 2 1 7
        loss_mask    0 0 1 1 0 1
        segment_ids  1 1 1 1 2 2

    Raises:
      ValueError: an example has more than `length + 1` tokens, or none.
    """
    _check_length(length)
    capacity = length + 1
    bins: list[list[Example]] = []
    used: list[int] = []
    for number, example in enumerate(examples):
        size = len(example.tokens)
        if not 0 < size <= capacity:
            raise ValueError(f"example {number} has {size} tokens: a row for {length} read tokens holds 1 to {capacity}")
        if not several:
            yield _example_row([example], length, pad_id)
            continue
        place = next((i for i, total in enumerate(used) if total + size <= capacity), None)
        if place is None:
            bins.append([example])
            used.append(size)
            place = len(bins) - 1
        else:
            bins[place].append(example)
            used[place] += size
        if used[place] == capacity or len(bins) > open_rows:
            fullest = used.index(max(used))
            yield _example_row(bins.pop(fullest), length, pad_id)
            used.pop(fullest)
    for examples_of_row in bins:
        yield _example_row(examples_of_row, length, pad_id)


def _reference_blocks(batch: list[np.ndarray], length: int, pad_id: int) -> Iterator[Row]:
    stream = np.concatenate(batch)
    end = len(stream) if len(stream) < length else len(stream) // length * length
    for start in range(0, end, length):
        block = stream[start : min(start + length, end)]
        yield _row(block, np.ones(len(block), np.uint8), np.ones(len(block), np.int64), length, pad_id)


def _example_row(examples: list[Example], length: int, pad_id: int) -> Row:
    tokens = np.concatenate([np.asarray(example.tokens, np.uint32) for example in examples])
    mask = np.concatenate([np.asarray(example.loss_mask, np.uint8) for example in examples])
    sizes = [len(example.tokens) for example in examples]
    return _row(tokens, mask, np.repeat(np.arange(1, len(examples) + 1), sizes), length, pad_id)


def _row(tokens: np.ndarray, mask: np.ndarray, segments: np.ndarray, length: int, pad_id: int) -> Row:
    """Pads to `length + 1`; the first token is never predicted."""
    missing = length + 1 - len(tokens)
    row = Row(
        np.pad(tokens.astype(np.uint32), (0, missing), constant_values=pad_id),
        np.pad(mask.astype(np.uint8), (0, missing)),
        np.pad(segments.astype(np.uint16), (0, missing)),
    )
    row.loss_mask[0] = 0
    return row


def _check_length(length: int) -> None:
    if not 2 <= length <= config.MAX_LENGTH:
        raise ValueError(f"length {length}: a row reads 2 to {config.MAX_LENGTH:,} tokens")


def _empty(dtype: type = np.uint32) -> np.ndarray:
    return np.zeros(0, dtype)
