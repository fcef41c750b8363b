"""Random choices that stay on one side of the train / held-out split.

What is held out is a COMBINATION of parts: an unordered set of words, on a side fixed by a hash of the set and the seed. English
text, Chinese text and instructions ask the same hash, so a held-out combination is new in every language and in every task, while
each of its parts is met in training among other company.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from zhllama_jax.demo.lexicon import Word

T = TypeVar("T")


class Draw:
    """A seeded source of choices for one side of the split."""

    def __init__(self, seed: int, *, held_out: bool, stream: str, share: int = 8) -> None:
        """Opens stream `stream` of world `seed`; one combination in `share` is held out."""
        self.held_out = held_out
        self._salt = f"{seed}|"
        self._share = share
        self._random = random.Random(f"{seed}/{stream}/{'held out' if held_out else 'train'}")
        self._decks: dict[str, list[Any]] = {}
        self._sides: dict[str, list[Any]] = {}

    def accepts(self, parts: Iterable[Word | str]) -> bool:
        """Says whether the unordered combination of words (or other names) lies on this side."""
        key = "|".join(sorted(part.en if isinstance(part, Word) else part for part in parts))
        return (self._hash(key, size=1)[0] % self._share == 0) == self.held_out

    def side(self, name: str, pool: Sequence[T]) -> Sequence[T]:
        """Returns the elements of `pool` on this side: of n, n // share (at least one) are held out, by hash; `name` names the pool.

        `accepts` holds out one in `share` on average, which of a small pool may be none; here the number is exact.
        """
        if name not in self._sides:
            assert len(pool) > 1, f"{name} has {len(pool)} elements, too few to split"
            ordered = sorted(pool, key=lambda element: self._hash(f"{name}|{element!r}", size=8))
            cut = max(1, len(pool) // self._share)
            self._sides[name] = ordered[:cut] if self.held_out else ordered[cut:]
        return self._sides[name]

    def _hash(self, key: str, *, size: int) -> bytes:
        return hashlib.blake2b((self._salt + key).encode(), digest_size=size).digest()

    def one(self, pool: Sequence[T]) -> T:
        """Draws one element, free of the split."""
        return pool[int(self._random.random() * len(pool))]

    def deal(self, deck: str, pool: Sequence[T]) -> T:
        """Draws one element so that every one comes up once before any comes up again; `deck` names the pool."""
        left = self._decks.get(deck) or self.some(pool, len(pool))
        self._decks[deck] = left[:-1]
        return cast(T, left[-1])

    def some(self, pool: Sequence[T], count: int) -> list[T]:
        """Draws distinct elements in random order, free of the split."""
        return self._random.sample(pool, count)

    def between(self, low: int, high: int) -> int:
        """Draws an integer, both ends included."""
        return low + int(self._random.random() * (high - low + 1))

    def combination(self, *pools: Sequence[Word]) -> tuple[Word, ...]:
        """Draws one word per pool until together they are a combination on this side."""
        for _ in range(10_000):
            words = tuple(self.one(pool) for pool in pools)
            if self.accepts(words):
                return words
        raise AssertionError(f"no combination of {[len(pool) for pool in pools]} words lies on this side")

    def subset(self, pool: Sequence[Word], count: int) -> tuple[Word, ...]:
        """Draws `count` distinct words in random order whose set lies on this side."""
        for _ in range(10_000):
            words = tuple(self.some(pool, count))
            if self.accepts(words):
                return words
        raise AssertionError(f"no set of {count} of {len(pool)} words lies on this side")
