"""Reachability agrees with sentencepiece, no order does better, bridges lead to every word and are no more than needed."""

import itertools
import random
from collections.abc import Sequence

from zhllama_jax.tokenizer import processor, proto, reach, scripts

HAN = scripts.named("han")


def model_of(base: dict[str, float], new: list[str]) -> proto.Model:
    """A bare BPE model: specials, bytes, the base's pieces with their scores and `new` below them, best first."""
    model = proto.parse(EMPTY)
    scores = {**base, **{piece: min(base.values(), default=0.0) - 1 - number for number, piece in enumerate(new)}}
    for piece, score in scores.items():
        model.pieces.append(proto.Piece(piece=piece, score=score, type=proto.NORMAL))
    return model


def _empty() -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    model.trainer_spec.model_type = proto.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for name, kind in (("<unk>", proto.UNKNOWN), ("<s>", proto.CONTROL), ("</s>", proto.CONTROL)):
        model.pieces.append(proto.Piece(piece=name, score=0, type=kind))
    for name in proto.BYTE_PIECES:
        model.pieces.append(proto.Piece(piece=name, score=0, type=proto.BYTE))
    return bytes(model.SerializeToString())


EMPTY = _empty()


def random_vocabulary(rng: random.Random, letters: str, count: int, longest: int) -> list[str]:
    return list(dict.fromkeys("".join(rng.choices(letters, k=rng.randrange(2, longest + 1))) for _ in range(count)))


def test_joining_is_what_sentencepiece_does() -> None:
    rng = random.Random(0)
    for _ in range(60):
        entries = random_vocabulary(rng, "abcd", 14, 5)
        base = {entry: float(-rng.randrange(6)) for entry in [*"abcd", *entries[:7]]}
        model = model_of(base, entries[7:])
        order = reach.priority(model)
        texts = ["".join(rng.choices("abcd", k=rng.randrange(1, 12))) for _ in range(40)]
        theirs = processor.bare(model).encode(texts, out_type=str)
        assert [reach.joined(text, order) for text in texts] == theirs


def test_unreachable_pieces_are_those_that_no_text_gives() -> None:
    model = model_of({"a": -1.0, "b": -2.0, "c": -3.0}, ["ab", "bc", "bcc", "abcc"])
    first = len(model.pieces) - 4
    assert [model.pieces[number].piece for number in reach.unreachable(model, first)] == ["abcc"]
    texts = ["".join(letters) for length in range(1, 7) for letters in itertools.product("abc", repeat=length)]
    seen = {number for ids in processor.bare(model).encode(texts) for number in ids}
    assert set(range(first, len(model.pieces))) - seen == set(reach.unreachable(model, first))


def reached(base: reach.Priority, order: Sequence[str]) -> int:
    below = max(base.values()) + 1
    table = {**base, **{piece: below + number for number, piece in enumerate(order)}}
    return sum(reach.joined(piece, table) == [piece] for piece in order)


def test_arranging_reaches_as_much_as_the_best_of_all_orders() -> None:
    """On vocabularies small enough to try every order, full of rivals."""
    rng = random.Random(3)
    improved = 0
    for _ in range(100):
        letters = rng.choice(["山水", "山水人", "山水人天"])
        entries = random_vocabulary(rng, letters, rng.randrange(3, 6), 5)
        base = {letter: 9 for letter in letters}
        if rng.random() < 0.5:
            base[entries.pop()] = 1
        # Halves of the entries make trees likelier.
        entries = list(dict.fromkeys([*entries, *(entry[: len(entry) // 2] for entry in entries if len(entry) > 3)]))
        entries = [entry for entry in entries if entry not in base][:5]
        arranged = reach.arrange(entries, base)
        assert sorted(arranged) == sorted(entries)
        best = max(reached(base, permutation) for permutation in itertools.permutations(entries))
        assert best <= len(entries) - len(reach.hopeless(entries, base))
        assert reached(base, arranged) == best, entries
        improved += reached(base, arranged) > reached(base, entries)
    assert improved >= 3, improved


def test_an_order_that_reaches_everything_stays_as_it_is() -> None:
    entries = ["山水", "水人", "山水人", "人山"]
    assert reach.arrange(entries, {}) == entries


def test_hopeless_pieces_have_no_tree() -> None:
    assert reach.hopeless(["越来越", "来越南", "越南", "山水"], {"山": 0}) == ["越来越"]
    # A base that joins 来越 first leaves no other way than over it.
    assert reach.hopeless(["越来", "越南", "越来越南"], {}) == []
    assert reach.hopeless(["越来", "越南", "越来越南"], {"来越": 0}) == ["越来越南"]


def test_bridges_lead_to_every_word_and_are_as_few_as_can_be() -> None:
    rng = random.Random(5)
    for _ in range(200):
        base = reach.priority(model_of({"G": -1.0, "P": -2.0, "GP": -3.0, "山水": -4.0}, []))
        words = random_vocabulary(rng, "山水人GP", 3, 6)
        words = [word for word in words if HAN.has_character(word) and word not in base]
        pieces = [*words, *[entry for entry in random_vocabulary(rng, "山水人", 4, 3) if entry not in base]]
        pieces = list(dict.fromkeys(pieces))
        added = reach.bridges(words, pieces, base, HAN)
        assert len(set(added)) == len(added) and not set(added) & {*pieces, *base}
        assert all(HAN.has_character(entry) for entry in added)
        assert not set(words) & set(reach.hopeless([*pieces, *added], base))
        # One word alone: no smaller set of its parts would do.
        word = words[0]
        alone = reach.bridges([word], pieces, base, HAN)
        parts = {word[start:end] for start in range(len(word)) for end in range(start + 2, len(word))} - {*pieces, *base}
        if len(parts) < 12 and alone:
            for smaller in itertools.combinations(sorted(parts), len(alone) - 1):
                if all(HAN.has_character(part) for part in smaller):
                    assert word in reach.hopeless([*pieces, *smaller], base)


def test_bridges_only_where_needed() -> None:
    assert reach.bridges(["深度学习"], ["深度学习", "深度", "学习"], {}, HAN) == []
    assert reach.bridges(["深度学习"], ["深度学习", "深度"], {}, HAN) in (["深度学"], ["学习"])
    assert reach.bridges(["字" * 100], ["字" * 100], {}, HAN) == []


def test_nothing_is_claimed_of_pieces_too_long_to_be_tried() -> None:
    """A run of one character that is joined pair by pair can be reached, however long it is."""
    longest = ["山" * length for length in range(2, reach.MAX_ATOMS + 2)]
    assert reach.hopeless(longest, {}) == []
    assert reach.hopeless(["山" * reach.MAX_ATOMS, "山" * (reach.MAX_ATOMS + 1)], {}) == ["山" * reach.MAX_ATOMS]
