"""Which pieces a merge-by-score tokenizer can reach, and the order of new pieces that reaches the most.

SentencePiece BPE starts from characters and joins, again and again, the adjacent pair whose joint piece has the best score, the leftmost
among equals. A piece is reachable if encoding its own text gives it as the single token. For that some
tree of pairs must end in it, every node of which is a piece (else no order helps), and no other pair may be joined first
inside it (that depends on the order). So

*   `arrange` orders new pieces below a base: as given, then moving the nodes of a blocked piece's tree before what blocks
    it, as long as more pieces become reachable;
*   `hopeless` names the pieces that no order reaches: what `arrange` leaves beyond them could in principle still be gained;
*   `bridges` names the fewest further pieces that make words reachable.

Strings are in piece form, U+2581 for a blank.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from zhllama_jax.tokenizer import processor, proto, scripts

MAX_ATOMS = 48
"""Symbols of the longest piece that is looked into; a word of a list has at most as many characters."""
MAX_TREES = 12
MAX_ORDERS = 24
MAX_TRIALS = 400

Priority = dict[str, int]
"""For each piece when it is joined: the smaller the sooner, equal ones from left to right."""


def priority(model: proto.Model) -> Priority:
    """The priority of every piece that merges can build: the number of better scores."""
    pieces = [piece for piece in model.pieces if piece.type in (proto.NORMAL, proto.USER_DEFINED)]
    place = {score: number for number, score in enumerate(sorted({piece.score for piece in pieces}, reverse=True))}
    return {piece.piece: place[piece.score] for piece in pieces}


def joined(text: str | Sequence[str], order: Mapping[str, int]) -> list[str]:
    """What merging makes of `text` (characters, or symbols joined before), in quadratic time: meant for pieces.

    >>> joined("abab", {"ab": 1, "ba": 0})
    ['a', 'ba', 'b']
    """
    symbols = list(text)
    while len(symbols) > 1:
        pairs = (left + right for left, right in itertools.pairwise(symbols))
        best, where = min(((order[pair], number) for number, pair in enumerate(pairs) if pair in order), default=(None, 0))
        if best is None:
            break
        symbols[where : where + 2] = [symbols[where] + symbols[where + 1]]
    return symbols


def unreachable(model: proto.Model, first: int = 0) -> list[int]:
    """The ids from `first` on of normal pieces whose own text is not encoded as them; sentencepiece itself is asked."""
    ids = [number for number in range(first, len(model.pieces)) if model.pieces[number].type == proto.NORMAL]
    found = processor.bare(model).encode([model.pieces[number].piece.replace(proto.SPACE, " ") for number in ids])
    return [number for number, encoded in zip(ids, found, strict=True) if encoded != [number]]


def hopeless(pieces: Iterable[str], base: Mapping[str, int]) -> list[str]:
    """Those of `pieces`, added below the pieces of `base`, that no order of them reaches.

    All merges of the base come first, whatever follows: a new piece is built from the symbols that they leave, its atoms. Pieces of more
    than `MAX_ATOMS` atoms are not tried, so nothing is claimed of them.
    """
    pieces = list(pieces)
    known = {*base, *pieces}
    atoms = {piece: joined(piece, base) for piece in pieces}
    return [piece for piece in pieces if len(atoms[piece]) <= MAX_ATOMS and not _plans(atoms[piece], known)]


def arrange(pieces: Sequence[str], base: Priority) -> list[str]:
    """`pieces`, to be added below the pieces of `base`, in an order that reaches as many of them as can be found.

    Stays close to the order given, which for a trained model is that of frequency. Deterministic.
    """
    below = max(base.values(), default=-1) + 1
    order = list(pieces)
    ranks = {piece: below + number for number, piece in enumerate(order)}
    atoms = {piece: joined(piece, base) for piece in order}
    known = {*base, *order}

    def is_blocked(piece: str, ranks: Priority) -> bool:
        return len(joined(atoms[piece], collections.ChainMap(ranks, base))) > 1

    plans = {piece: plan for piece in order if is_blocked(piece, ranks) and (plan := _plans(atoms[piece], known))}
    trials = 0
    progress = True
    while progress and plans and trials < MAX_TRIALS:
        progress = False
        for piece in list(plans):
            for movers in _ways(piece, plans[piece], ranks):
                trials += 1
                moved = _to_front(piece, movers, order, ranks)
                new_ranks = {entry: below + number for number, entry in enumerate(moved)}
                touched = [entry for entry in order if any(mover in entry for mover in movers)]
                if sum(is_blocked(entry, ranks) - is_blocked(entry, new_ranks) for entry in touched) > 0:
                    order, ranks, progress = moved, new_ranks, True
                    break
            if trials >= MAX_TRIALS:
                break
        plans = {piece: plan for piece, plan in plans.items() if is_blocked(piece, ranks)}
    return order


def bridges(words: Iterable[str], pieces: Iterable[str], base: Mapping[str, int], script: scripts.Script) -> list[str]:
    """The fewest further pieces, word by word, that give each word a tree of pieces; each holds a character of the script.

    Args:
      words: the words to be reached; those of more than `MAX_ATOMS` atoms are passed over.
      pieces: all new pieces, the words among them.
      base: the priorities of the base.
      script: what every new piece must hold a character of.

    Returns:
      The bridges, none of which is a piece already, shorter ones of a word first.

    >>> bridges(["中华人民"], ["中华人民", "中华"], {}, scripts.named("han"))
    ['中华人']
    """
    known = {*base, *pieces}
    added: list[str] = []
    for word in words:
        atoms = joined(word, base)
        if len(atoms) > MAX_ATOMS:
            continue
        missing = _cheapest_tree(atoms, known, script)
        added += missing
        known.update(missing)
    return added


def _plans(atoms: Sequence[str], known: set[str]) -> list[frozenset[str]]:
    """The trees that build the joint piece of `atoms`, each as the set of its nodes; at most `MAX_TREES`, none if there is none."""
    count = len(atoms)
    if count > MAX_ATOMS:
        return []
    table: dict[tuple[int, int], list[frozenset[str]]] = {(start, start + 1): [frozenset()] for start in range(count)}
    for length in range(2, count + 1):
        for start in range(count - length + 1):
            end = start + length
            node = "".join(atoms[start:end])
            trees: list[frozenset[str]] = []
            if node in known:
                for middle in range(start + 1, end):
                    for left in table[start, middle]:
                        trees += [left | right | {node} for right in table[middle, end]]
                        if len(trees) >= MAX_TREES:
                            break
                    if len(trees) >= MAX_TREES:
                        break
            table[start, end] = trees[:MAX_TREES]
    return table[0, count]


def _ways(piece: str, trees: Sequence[frozenset[str]], ranks: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Sequences of new pieces which, joined before anything else inside `piece`, may lead to it; the most natural ones first."""
    for tree in trees:
        nodes = sorted((node for node in tree if node in ranks and node != piece), key=lambda node: (len(node), ranks[node]))
        yield from itertools.islice(itertools.permutations(nodes), MAX_ORDERS)


def _to_front(piece: str, movers: Sequence[str], order: Sequence[str], ranks: Mapping[str, int]) -> list[str]:
    """`order` with `movers`, in their sequence, before every other new piece inside `piece`."""
    inside = {piece[start:end] for start in range(len(piece)) for end in range(start + 2, len(piece) + 1)}
    front = min(ranks[entry] for entry in inside if entry in ranks) - ranks[order[0]]
    moving = set(movers)
    before = [entry for entry in order[:front] if entry not in moving]
    return [*before, *movers, *(entry for entry in order[front:] if entry not in moving)]


def _cheapest_tree(atoms: Sequence[str], known: set[str], script: scripts.Script) -> list[str]:
    """The pieces missing from the tree of `atoms` that misses the fewest, shorter ones first; none if no tree is allowed."""
    count = len(atoms)
    table: dict[tuple[int, int], frozenset[str] | None] = {(start, start + 1): frozenset() for start in range(count)}
    for length in range(2, count + 1):
        for start in range(count - length + 1):
            end = start + length
            node = "".join(atoms[start:end])
            choices = []
            if node in known or script.has_character(node):
                for middle in range(start + 1, end):
                    left, right = table[start, middle], table[middle, end]
                    if left is not None and right is not None:
                        choices.append(left | right)
            best = min(choices, key=len, default=None)
            table[start, end] = best if best is None or node in known else best | {node}
    return sorted(table[0, count] or (), key=lambda node: (len(node), node))
