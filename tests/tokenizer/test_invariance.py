"""The proof accepts safe merges and finds every breach of a premise."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from zhllama_jax.tokenizer import invariance, proto, scripts

HAN = scripts.named("han")


def pair(base_model: Path, *pieces: proto.Piece) -> tuple[proto.Model, proto.Model]:
    base, merged = proto.parse(base_model.read_bytes()), proto.parse(base_model.read_bytes())
    merged.pieces.extend(pieces)
    return base, merged


def test_generated_texts_are_many_kinds_and_free_of_the_script(base_model: Path) -> None:
    base = proto.parse(base_model.read_bytes())
    texts = list(itertools.islice(invariance.generate(base, HAN, seed=0), 5_000))
    whole = "".join(texts)
    assert not HAN.has_character(whole)
    assert len(set(texts)) > 4_900
    assert all(part in whole for part in (" the", " weather", "12", "\n", "  ", "  ")) and max(whole) > "\U0001f000"
    assert texts == list(itertools.islice(invariance.generate(base, HAN, seed=0), 5_000))
    assert texts != list(itertools.islice(invariance.generate(base, HAN, seed=1), 5_000))


def test_a_safe_merge_is_proven(base_model: Path) -> None:
    base, merged = pair(base_model, proto.Piece(piece="天气", score=0), proto.Piece(piece="[PAD]", score=0, type=proto.CONTROL))
    merged.trainer_spec.vocab_size = len(merged.pieces)
    merged.trainer_spec.pad_id = len(merged.pieces) - 1
    proof = invariance.prove(base, merged, HAN, strings=3_000)
    assert (proof.script, proof.strings) == ("han", 3_000)
    assert proof.characters > 30_000


@pytest.mark.parametrize("strings", [0, -1])
def test_nothing_compared_is_no_proof(base_model: Path, strings: int) -> None:
    with pytest.raises(ValueError, match=f"a proof compares at least 1 text, got {strings}"):
        invariance.prove(*pair(base_model), HAN, strings=strings)


BREACHES: dict[str, tuple[Callable[[proto.Model], object], str]] = {
    "another script": (lambda m: m.pieces.append(proto.Piece(piece="fox", score=0)), "1 new pieces hold no han character, first 'fox'"),
    "user defined": (
        lambda m: m.pieces.append(proto.Piece(piece="天气", score=0, type=proto.USER_DEFINED)),
        "neither normal nor controls, first '天气'",
    ),
    "a score of the base": (lambda m: setattr(m.pieces[300], "score", -7.5), "pieces of the base differ"),
    "a piece less": (lambda m: m.pieces.pop(), "pieces of the base differ"),
    "settings": (lambda m: setattr(m.normalizer_spec, "add_dummy_prefix", False), "the settings of the base differ"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_breaches_are_found(base_model: Path, name: str) -> None:
    base, merged = pair(base_model)
    breach, message = BREACHES[name]
    breach(merged)
    with pytest.raises(ValueError, match=f"text without han characters is not safe: .*{message}"):
        invariance.prove(base, merged, HAN, strings=1)


def test_the_comparison_would_find_what_the_premises_missed(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, merged = pair(base_model, proto.Piece(piece="▁the▁river", score=9))
    monkeypatch.setattr(invariance, "premises", lambda *_: [])
    with pytest.raises(ValueError, match=r"free of han characters, was .* and is now"):
        invariance.prove(base, merged, HAN, strings=50_000)
