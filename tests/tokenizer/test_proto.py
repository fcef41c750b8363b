"""Only sound LLaMA-like models pass; each fault has its sentence."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from zhllama_jax.tokenizer import proto


def damaged(path: Path, damage: Callable[[proto.Model], object]) -> bytes:
    model = proto.parse(path.read_bytes())
    damage(model)
    return model.SerializeToString()


FAULTS: dict[str, tuple[Callable[[proto.Model], object], str]] = {
    "duplicate": (lambda model: setattr(model.pieces[300], "piece", model.pieces[290].piece), "pieces 290 and 300 are both"),
    "empty": (lambda model: setattr(model.pieces[300], "piece", ""), "piece 300 is empty"),
    "huge": (lambda model: setattr(model.pieces[300], "piece", "x" * 2000), "piece 300 is too long"),
    "a null": (lambda model: setattr(model.pieces[300], "piece", "a\0"), "piece 300 .* holds the character 0"),
    "nan": (lambda model: setattr(model.pieces[300], "score", float("nan")), "has the score nan"),
    "infinite": (lambda model: setattr(model.pieces[300], "score", float("inf")), "has the score inf"),
    "swapped specials": (
        lambda model: model.pieces[1].CopyFrom(model.pieces[300]),
        "id 1 must be the beginning-of-text piece of type CONTROL",
    ),
    "normal end": (lambda model: setattr(model.pieces[2], "type", proto.NORMAL), "id 2 must be the end-of-text piece"),
    "moved bos": (lambda model: setattr(model.trainer_spec, "bos_id", 5), "bos_id must be 1, found 5"),
    "two unknowns": (lambda model: setattr(model.pieces[300], "type", proto.UNKNOWN), "1 more pieces are of type UNKNOWN"),
    "missing byte": (lambda model: setattr(model.pieces[13], "type", proto.NORMAL), "1 of 256 byte pieces are missing, first <0x0A>"),
    "strange byte": (lambda model: setattr(model.pieces[300], "type", proto.BYTE), "should not be there"),
    "byte names without fallback": (lambda model: setattr(model.trainer_spec, "byte_fallback", False), "256 pieces of type BYTE"),
    "one-letter control": (
        lambda model: model.pieces.append(proto.Piece(piece="¤", score=0, type=proto.CONTROL)),
        "the control piece .* is the single character '¤'",
    ),
    "no pieces": (lambda model: model.ClearField("pieces"), "it has 0 pieces"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(english_pieces: Path, name: str) -> None:
    damage, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        proto.parse(damaged(english_pieces, damage), where="a.model")


def test_faults_are_listed_together_and_not_endlessly(english_pieces: Path) -> None:
    def ruin(model: proto.Model) -> None:
        model.trainer_spec.eos_id = 7
        for number in range(270, 300):
            model.pieces[number].score = float("nan")

    with pytest.raises(ValueError, match=r"eos_id must be 2.*score nan.*and 25 faults more"):
        proto.parse(damaged(english_pieces, ruin))


NOT_LLAMA: dict[str, tuple[Callable[[proto.Model], object], str]] = {
    "unigram": (lambda model: setattr(model.trainer_spec, "model_type", proto.UNIGRAM), "its type is unigram, not bpe"),
    "rewriting": (lambda model: setattr(model.normalizer_spec, "precompiled_charsmap", b"x"), "it rewrites text"),
    "squeezing": (lambda model: setattr(model.normalizer_spec, "remove_extra_whitespaces", True), "it removes extra blanks"),
    "no dummy blank": (lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", False), "no dummy blank"),
    "blanks behind": (lambda model: setattr(model.trainer_spec, "treat_whitespace_as_suffix", True), "marks blanks in another way"),
}


@pytest.mark.parametrize("name", NOT_LLAMA)
def test_other_kinds_are_refused(english_pieces: Path, name: str) -> None:
    change, message = NOT_LLAMA[name]
    model = proto.parse(damaged(english_pieces, change))
    with pytest.raises(ValueError, match=f"base.model is not a LLaMA tokenizer.*{message}"):
        proto.require_llama(model, where="base.model")


def test_sound_models_pass(english_pieces: Path, chinese_pieces: Path) -> None:
    proto.require_llama(proto.parse(english_pieces.read_bytes()))
    assert proto.model_type(proto.parse(chinese_pieces.read_bytes())) == "unigram"


def test_random_damage_is_an_answer_and_never_a_crash(english_pieces: Path) -> None:
    """What still parses after damage is a sound model by `check`."""
    rng = random.Random(0)
    sound = english_pieces.read_bytes()
    for _ in range(2_000):
        data = bytearray(sound)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.choice([len(data), rng.randrange(len(data))]) :]
        try:
            model = proto.parse(bytes(data))
        except ValueError as error:
            assert "SentencePiece model" in str(error)
        else:
            assert proto.check(model) == []


def test_the_padding_piece(english_pieces: Path) -> None:
    model = proto.parse(english_pieces.read_bytes())
    assert proto.pad_id(model) is None
    model.pieces.append(proto.Piece(piece="[PAD]", score=0, type=proto.NORMAL))
    model.pieces.append(proto.Piece(piece="<pad>", score=0, type=proto.CONTROL))
    assert proto.pad_id(model) == len(model.pieces) - 2
    model.trainer_spec.pad_id = len(model.pieces) - 1
    assert proto.pad_id(model) == len(model.pieces) - 1


def test_oversize_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proto, "MAX_BYTES", 10)
    (tmp_path / "a.model").write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="11 bytes, more than the 10"):
        proto.read(tmp_path / "a.model")
