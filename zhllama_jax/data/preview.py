"""What a model will read and learn, token by token: a look at the first rows of a source before anything is built.

The rows are those of `build`, made by the same functions. Files are read no further than the wanted examples and counts need (those that
tell what is held out elsewhere wholly).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zhllama_jax.data import batches, config, documents, holdout, instructions, pack
from zhllama_jax.tokenizer import processor

MAX_CHARACTERS = 1 << 24
"""Of a corpus no more is read for the counts, however few documents that is."""


class Token(NamedTuple):
    """One token.

    Attributes:
      number: its id.
      text: what it adds to the text: its piece's name for a control, nothing for a byte that completes no character.
      learnt: whether it is predicted.
      segment: the document or example of the row that it belongs to, from 1.
    """

    number: int
    text: str
    learnt: bool
    segment: int


class Sample(NamedTuple):
    """An example of instructions, or a packed row of text.

    Attributes:
      where: where it begins, as file and line.
      about: what it is, in a few words.
      tokens: all of it, without padding.
    """

    where: str
    about: str
    tokens: list[Token]


class Look(NamedTuple):
    """What was seen of a source.

    Attributes:
      samples: the wanted ones; fewer where the source ends before.
      counts: of what was read, by kind.
      forms: rows of each form, by file; empty for text.
      faults: repairs and omissions by kind.
      located: the first of them.
      whole: whether all of the source was read.
    """

    samples: list[Sample]
    counts: dict[str, int]
    forms: dict[str, dict[str, int]]
    faults: dict[str, int]
    located: list[str]
    whole: bool


def sft(
    data: config.SftData,
    tokenizer: processor.Tokenizer,
    *,
    others: Sequence[config.SftData] = (),
    start: int = 0,
    examples: int = 3,
    limit: int | None = None,
) -> Look:
    """Looks at instructions.

    Args:
      data: the files and how they become rows of ids.
      tokenizer: the model's.
      others: instructions that are used together with them (see `instructions.uses`).
      start: training examples to pass over.
      examples: how many to show.
      limit: rows that are read for the counts, more where the examples lie behind; None for all.

    Raises:
      FileNotFoundError, ValueError: see `instructions.read`.
    """
    tally = instructions.Tally()
    counts: Counter[str] = Counter(read=0)
    samples: list[Sample] = []
    use_of = instructions.uses(data, others)
    found_rows = instructions.read(data, data.files, tally=tally)

    def rendered() -> Iterator[pack.Example]:
        for found in found_rows:
            counts["read"] += 1
            row = found.example
            if (use := use_of(row)) != "train":
                counts[use] += 1
            elif (example := instructions.render(tokenizer, row, data)) is None:
                counts["dropped_overlong" if row.output else "dropped_empty"] += 1
            else:
                learnt = instructions.learnt(tokenizer, row, example)
                targets = sum(example.loss_mask)
                if start <= counts["examples"] < start + examples:
                    of_all = f" of {len(row.turns)}" if learnt.turns_cut else ""
                    turns = f"{learnt.turns}{of_all} turn{'s' * (len(row.turns) > 1)}"
                    about = f"{found.form}, {turns}: {len(example.tokens):,} tokens, {targets:,} learnt"
                    samples.append(Sample(f"{found.source}:{found.line}", about, _tokens(tokenizer, *example, [1] * len(example.tokens))))
                counts.update(examples=1, tokens=len(example.tokens), learnt=targets, **learnt._asdict())
                yield example
            if limit is not None and counts["read"] >= limit and counts["examples"] >= start + examples:
                return

    several = data.packing == "several"
    counts["rows"] = sum(1 for _ in pack.pack_examples(rendered(), length=data.length, pad_id=tokenizer.pad_id or 0, several=several))
    whole = next(found_rows, None) is None
    forms = {name: dict(found_forms) for name, found_forms in tally.forms.items()}
    return Look(samples, _above_zero(counts), forms, dict(tally.faults), tally.located, whole)


def text(
    data: config.TextData,
    tokenizer: processor.Tokenizer,
    *,
    others: Sequence[config.TextData] = (),
    start: int = 0,
    examples: int = 3,
    limit: int | None = None,
) -> Look:
    """Looks at a corpus: its packed rows, the borders of documents in them.

    Args:
      data: the files and how they become rows.
      tokenizer: the model's.
      others: corpora that are used together with it (see `holdout.learned`).
      start: rows to pass over.
      examples: how many rows to show.
      limit: documents that are read for the counts, more where the rows lie behind; None for all.

    Raises:
      FileNotFoundError, ValueError: see `documents.read`.
    """
    tally = documents.Tally()
    counts: Counter[str] = Counter(documents=0)
    samples: list[Sample] = []
    begun: list[documents.Document] = []
    texts = holdout.learned(data, others=others, tally=tally)
    separators = config.separators(dataclasses.asdict(data))

    def tokenised() -> Iterator[tuple[str, list[int]]]:
        for document in texts:
            ids = tokenizer.encode(document.text)
            counts.update(documents=1, characters=len(document.text), tokens=len(ids) + separators)
            # Documents without ids are passed over by `pack.pack`; the others are numbered as its segments are.
            if ids:
                begun.append(document)
            yield document.source, ids
            enough = limit is not None and (counts["documents"] >= limit or counts["characters"] >= MAX_CHARACTERS)
            if enough and len(samples) == examples:
                return

    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id or 0}
    first = 0
    for number, row in enumerate(pack.pack_corpus(tokenised(), data, **ends)):
        held = int((row.segment_ids > 0).sum())
        last = first + int(row.segment_ids.max()) - 1
        if start <= number < start + examples:
            document = begun[min(first, len(begun) - 1)]
            about = f"row {number:,}: {held:,} tokens, {int(row.loss_mask.sum()):,} learnt"
            where = f"{document.source}:{document.line}" if data.packing != "reference" else document.source
            fields = (row.tokens[:held].tolist(), row.loss_mask[:held].tolist(), row.segment_ids[:held].tolist())
            samples.append(Sample(where, about, _tokens(tokenizer, *fields)))
        counts.update(rows=1, learnt=int(row.loss_mask.sum()))
        # A row begins with the token that the one before it ends with: with its document, too.
        first = last
    whole = next(texts, None) is None
    counts["read"] = tally.documents
    return Look(samples, _above_zero(counts), {}, dict(tally.faults), tally.located, whole)


def rows(source: batches.Rows, tokenizer: processor.Tokenizer, *, start: int = 0, examples: int = 3) -> list[Sample]:
    """Some rows of a store, as they are stored."""
    samples = []
    for number in range(start, min(start + examples, len(source))):
        row = source[number]
        held = int((row.segment_ids > 0).sum())
        segments = int(row.segment_ids.max())
        about = f"{held:,} tokens, {int(row.loss_mask.sum()):,} learnt, {segments:,} segment{'s' * (segments != 1)}"
        fields = (row.tokens[:held].tolist(), row.loss_mask[:held].tolist(), row.segment_ids[:held].tolist())
        samples.append(Sample(f"row {number:,}", about, _tokens(tokenizer, *fields)))
    return samples


def _tokens(tokenizer: processor.Tokenizer, ids: Sequence[int], mask: Sequence[int], segments: Sequence[int]) -> list[Token]:
    """Tokens with the text that each of them adds; behind BOS and EOS a text begins, elsewhere one goes on."""
    decoder = tokenizer.stream(after=tokenizer.encode("a"))
    found: list[Token] = []
    for number, learnt, segment in zip(ids, mask, segments, strict=True):
        if number in (tokenizer.bos_id, tokenizer.eos_id):
            rest, decoder = decoder.flush(), tokenizer.stream()
        else:
            rest = decoder.push(number)
        name = tokenizer.piece(number) if tokenizer.is_control(number) else ""
        found.append(Token(number, rest + name, bool(learnt), segment))
    if found and (rest := decoder.flush()):
        found[-1] = found[-1]._replace(text=found[-1].text + rest)
    return found


def _above_zero(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
