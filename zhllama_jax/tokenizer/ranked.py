"""BPE as the tokenizers library does it, and how far that is from SentencePiece.

SentencePiece joins the pair of neighbours whose piece has the best score, the leftmost of equals. A `tokenizer.json` gives every pair a
rank of its own, its place in the list of merges; only equal pairs are taken from the left. So pieces with distinct scores come out the
same, and pieces with one score (the reference merge gives all new ones 0) cannot always: where both 上面 and 面上 are pieces, 上面上 asks
for one order of the two and 面上面 for the other. `both_ways` counts such pieces, `merges` takes the order that goes from left to right
most often (a third fewer texts differ than by ids), and `differing` counts the texts that still do.

Texts are taken as SentencePiece takes them: the text of a special or user-defined piece is nothing special here.
"""

import collections
import heapq
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zhllama_jax.tokenizer import processor, proto


class Normal(NamedTuple):
    """A piece that text becomes."""

    id: int
    score: float
    text: str


def normal(model: proto.Model, pad_id: int | None) -> list[Normal]:
    """The pieces that text becomes, but for bytes and the padding piece."""
    return [Normal(id_, piece.score, piece.piece) for id_, piece in enumerate(model.pieces) if piece.type == proto.NORMAL and id_ != pad_id]


def merges(pieces: Sequence[Normal]) -> list[tuple[str, str]]:
    """All splits of every piece into two pieces, best score first.

    Among equal scores: first the pieces whose first character more often begins a pair than it ends one, so that what stands left is
    joined first; of those with one first character the longest, as a merge at the left goes on before the next begins; then the lowest id.
    """
    begins: collections.Counter[str] = collections.Counter()
    ends: collections.Counter[str] = collections.Counter()
    for piece in tied(pieces):
        for left, right in zip(piece.text, piece.text[1:], strict=False):
            if left != right:
                begins[left] += 1
                ends[right] += 1

    def order(piece: Normal) -> tuple[float, float, int, int]:
        first = piece.text[:1]
        balance = (begins[first] - ends[first]) / (begins[first] + ends[first] + 2)
        return -piece.score, -balance, -len(piece.text), piece.id

    halves = {piece.text for piece in pieces}
    return [
        (text[:cut], text[cut:])
        for _, _, text in sorted(pieces, key=order)
        for cut in range(1, len(text))
        if text[:cut] in halves and text[cut:] in halves
    ]


def tied(pieces: Sequence[Normal]) -> list[Normal]:
    """The pieces that share their score with another: where there are none, ranks say what scores say.

    Single characters are not merged, and runs of blanks (LLaMA's 15 have one score) come out the same in any order.
    """
    joined = [piece for piece in pieces if len(piece.text) > 1 and piece.text.strip(proto.SPACE)]
    count = collections.Counter(piece.score for piece in joined)
    return [piece for piece in joined if count[piece.score] > 1]


def both_ways(pieces: Sequence[Normal]) -> int:
    """How many pieces of two characters have one score with the piece of the same characters the other way round.

    More than none proves that no list of merges gives SentencePiece's ids for every text.
    """
    scores = {piece.text: piece.score for piece in tied(pieces) if len(piece.text) == 2 and piece.text[0] != piece.text[1]}
    return sum(scores.get(text[::-1]) == score for text, score in scores.items())


class Ranked:
    """Splits text by ranks, as the tokenizers library does with the `tokenizer.json` of a tokenizer."""

    def __init__(self, tokenizer: processor.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = normal(proto.parse(tokenizer.serialized), tokenizer.pad_id)
        self._known = {piece.text for piece in self._pieces}
        self._rank = {pair: rank for rank, pair in enumerate(merges(self._pieces))}

    def encode(self, text: str) -> list[str]:
        """The pieces of a text; characters without a piece are bytes."""
        if not text:
            return []
        symbols: list[str] = list(proto.SPACE + processor.scalar(text).replace(" ", proto.SPACE))
        count = len(symbols)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        waiting: list[tuple[int, int, str, str]] = []

        def note(place: int) -> None:
            """Queues the pair that begins at `place`."""
            if place >= 0 and after[place] < count:
                pair = symbols[place], symbols[after[place]]
                rank = self._rank.get(pair)
                if rank is not None:
                    heapq.heappush(waiting, (rank, place, *pair))

        for place in range(count):
            note(place)
        while waiting:
            _, place, left, right = heapq.heappop(waiting)
            other = after[place]
            if symbols[place] != left or other >= count or symbols[other] != right:
                continue  # one of the two has been joined to another since
            symbols[place], symbols[other] = left + right, ""
            after[place] = after[other]
            if after[place] < count:
                before[after[place]] = place
            note(before[place])
            note(place)
        return [piece for symbol in symbols if symbol for piece in self._spelled(symbol)]

    def differing(self, texts: Sequence[str]) -> int:
        """How many of the texts SentencePiece splits otherwise."""
        name = self._tokenizer.piece
        encoded = self._tokenizer.encode_batch(texts)
        return sum([name(id_) for id_ in ids] != self.encode(text) for text, ids in zip(texts, encoded, strict=True))

    def drawn(self, count: int, *, chained: bool = False, seed: int = 0) -> Iterator[str]:
        """Texts of one to sixteen random pieces each: of those with equal scores, or of all where there are none.

        Chained, the last character of each piece is the first of the next where such a piece exists: the hardest texts that there are.
        """
        rng = random.Random(seed)
        pieces = [piece.text.replace(proto.SPACE, " ") for piece in tied(self._pieces) or self._pieces]
        beginning: dict[str, list[str]] = collections.defaultdict(list)
        for piece in pieces:
            beginning[piece[0]].append(piece)
        for _ in range(count):
            text = ""
            for piece in rng.choices(pieces, k=rng.randrange(1, 17)):
                fitting = beginning.get(text[-1:]) if chained else None
                text += rng.choice(fitting)[1:] if fitting else piece
            yield text

    def _spelled(self, symbol: str) -> list[str]:
        return [symbol] if symbol in self._known else [proto.BYTE_PIECES[byte] for byte in symbol.encode()]
