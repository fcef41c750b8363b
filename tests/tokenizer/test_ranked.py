"""Ranks: the order of merges, what it cannot do, and the counts of what differs."""

import json
from pathlib import Path

import pytest

from zhllama_jax.convert import tokenizer_hf
from zhllama_jax.tokenizer import merge, processor, proto, ranked


def pieces(*names: str, scores: list[float] | None = None) -> list[ranked.Normal]:
    return [ranked.Normal(number, scores[number] if scores else 0.0, name) for number, name in enumerate(names)]


@pytest.fixture(scope="module")
def reference(base_model: Path, chinese_model: Path) -> processor.Tokenizer:
    """All new pieces have the score 0."""
    return processor.Tokenizer.from_bytes(merge.merge(base_model, [chinese_model], mode="reference", proof_strings=100).serialized)


def made(base_model: Path, *names: str) -> processor.Tokenizer:
    """The base with more pieces of one score."""
    model = proto.parse(base_model.read_bytes())
    for name in names:
        model.pieces.append(proto.Piece(piece=name, score=0.0, type=proto.NORMAL))
    return processor.Tokenizer.from_bytes(model.SerializeToString())


def test_merges_are_all_splits_best_score_first() -> None:
    found = ranked.merges(pieces("a", "b", "ab", "abb", "bb", "cd", scores=[0, 0, -2, -3, -1, -0.5]))
    assert found == [("b", "b"), ("a", "b"), ("a", "bb"), ("ab", "b")]


def test_among_equals_what_begins_pairs_comes_first_then_the_longest() -> None:
    found = ranked.merges(pieces("国", "家", "人", "家人", "国家", "国家人"))
    assert found == [("国", "家人"), ("国家", "人"), ("国", "家"), ("家", "人")]


def test_only_pieces_that_are_merged_can_be_tied() -> None:
    found = ranked.tied(pieces("a", "b", "▁▁", "▁▁▁", "ab", "ba", "aa", scores=[0, 0, 0, 0, 0, 0, -1]))
    assert [piece.text for piece in found] == ["ab", "ba"]


def test_pieces_both_ways_round_are_counted() -> None:
    assert ranked.both_ways(pieces("ab", "ba", "aa", "cd", "dc", scores=[0, 0, 0, 0, -1])) == 2


def test_no_order_is_right_for_pieces_both_ways_round(base_model: Path) -> None:
    tokenizer = made(base_model, *"龘靐", "龘靐", "靐龘")
    assert ranked.both_ways(ranked.normal(proto.parse(tokenizer.serialized), None)) == 2
    assert ranked.Ranked(tokenizer).differing(["龘靐龘", "靐龘靐"]) == 1


def test_splits_as_the_library_does(base_model: Path, reference: processor.Tokenizer, chinese_lines: list[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    rare = "龘靐齉麤"
    pairs = [left + right for left in rare for right in rare]
    tangled = made(base_model, *rare, *pairs, *(pair + rare[0] for pair in pairs))
    for tokenizer in (reference, tangled):
        theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_hf.to_json(tokenizer)))
        by_rank = ranked.Ranked(tokenizer)
        texts = [
            *chinese_lines[:300],
            "",
            " ",
            "   a",
            "a\nb",
            "\x00龘🏽",
            "====",
            "▁",
            *by_rank.drawn(300),
            *by_rank.drawn(300, chained=True),
        ]
        found = theirs.encode_batch(texts, add_special_tokens=False)
        assert [by_rank.encode(text) for text in texts] == [encoding.tokens for encoding in found]
        ids = tokenizer.encode_batch(texts)
        assert by_rank.differing(texts) == sum(left != right.ids for left, right in zip(ids, found, strict=True))
    assert by_rank.differing(texts) > 100


def test_distinct_scores_differ_nowhere(base_model: Path, chinese_model: Path, chinese_lines: list[str]) -> None:
    safe = processor.Tokenizer.from_bytes(merge.merge(base_model, [chinese_model], proof_strings=100).serialized)
    by_rank = ranked.Ranked(safe)
    assert by_rank.differing([*chinese_lines[:300], *by_rank.drawn(300), *by_rank.drawn(300, chained=True)]) == 0


def test_drawn_texts_are_the_same_each_time(reference: processor.Tokenizer) -> None:
    by_rank = ranked.Ranked(reference)
    assert list(by_rank.drawn(5)) == list(by_rank.drawn(5)) != list(by_rank.drawn(5, seed=1))
