"""Pieces, scores and types come back; padding is a control piece, and rows without a piece have names of their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zhllama_jax.convert import gguf_vocab
from zhllama_jax.tokenizer import processor, proto

gguf = pytest.importorskip("gguf")

TEXTS = ["", " ", "Rivers run", "  two  blanks ", "a\nb", "中文 and 😀", "</s>[PAD]<0x0A>", "▁"]


def test_keys_and_types_are_the_librarys(padded_tokenizer: processor.Tokenizer) -> None:
    said = gguf_vocab.keys(padded_tokenizer, rows=len(padded_tokenizer), chat_template="{{ x }}")
    keys = gguf.constants.Keys.Tokenizer
    assert set(said) == {
        keys.MODEL,
        keys.PRE,
        keys.LIST,
        keys.SCORES,
        keys.TOKEN_TYPE,
        keys.BOS_ID,
        keys.EOS_ID,
        keys.UNK_ID,
        keys.PAD_ID,
        keys.ADD_BOS,
        keys.ADD_EOS,
        keys.ADD_PREFIX,
        keys.REMOVE_EXTRA_WS,
        keys.CHAT_TEMPLATE,
    }
    types = gguf.TokenType
    for name in ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE"):
        assert getattr(proto, name) == types[name]
    assert (said[keys.BOS_ID], said[keys.EOS_ID], said[keys.UNK_ID], said[keys.PAD_ID]) == (1, 2, 0, len(padded_tokenizer) - 1)
    token_type = said[keys.TOKEN_TYPE]
    assert isinstance(token_type, np.ndarray)
    assert token_type[:3].tolist() == [types.UNKNOWN, types.CONTROL, types.CONTROL]
    assert token_type[padded_tokenizer.id("<0x41>")] == types.BYTE


def test_the_padding_piece_is_a_control_piece(padded_tokenizer: processor.Tokenizer) -> None:
    """In the `.model` file it is of type NORMAL, as in released Alpaca tokenizers."""
    assert proto.parse(padded_tokenizer.serialized).pieces[-1].type == proto.NORMAL
    said = gguf_vocab.keys(padded_tokenizer, rows=len(padded_tokenizer), chat_template=None)
    assert said["tokenizer.ggml.token_type"][-1] == proto.CONTROL  # type: ignore[index]
    assert said["tokenizer.ggml.tokens"][-1] == proto.PAD  # type: ignore[index]


@pytest.mark.parametrize("which", ["tokenizer", "padded_tokenizer"])
@pytest.mark.parametrize("spare", [0, 3])
def test_a_tokenizer_comes_back(which: str, spare: int, request: pytest.FixtureRequest) -> None:
    tokenizer: processor.Tokenizer = request.getfixturevalue(which)
    said = gguf_vocab.keys(tokenizer, rows=len(tokenizer) + spare, chat_template=None)
    again = gguf_vocab.read_tokenizer(said)
    assert (len(again), again.pad_id) == (len(tokenizer), tokenizer.pad_id)
    again.require_llama()
    first, second = (proto.parse(one.serialized).pieces for one in (tokenizer, again))
    assert [(piece.piece, piece.score) for piece in first] == [(piece.piece, piece.score) for piece in second]
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_rows_without_a_piece_have_unused_names_of_their_own(tokenizer: processor.Tokenizer) -> None:
    model = proto.parse(tokenizer.serialized)
    model.pieces.add(piece="<dummy00002>", score=-9)
    said = gguf_vocab.keys(processor.Tokenizer(model.SerializeToString()), rows=len(tokenizer) + 4, chat_template=None)
    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(types, np.ndarray)
    assert tokens[-4:] == ["<dummy00002>", "<dummy00001>", "<dummy00003>", "<dummy00004>"]
    assert types[-4:].tolist() == [proto.NORMAL, proto.UNUSED, proto.UNUSED, proto.UNUSED]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "none": (lambda said: said.clear(), "of the kind None"),
    "another kind": (lambda said: said.update({"tokenizer.ggml.model": "gpt2"}), "of the kind 'gpt2'"),
    "no tokens": (lambda said: said.pop("tokenizer.ggml.tokens"), "three lists of one length"),
    "tokens as numbers": (lambda said: said.update({"tokenizer.ggml.tokens": said["tokenizer.ggml.scores"]}), "three lists of one length"),
    "scores as text": (lambda said: said.update({"tokenizer.ggml.scores": said["tokenizer.ggml.tokens"]}), "three lists of one length"),
    "fewer types": (
        lambda said: said.update({"tokenizer.ggml.token_type": said["tokenizer.ggml.token_type"][1:]}),
        "three lists of one length",
    ),
    "no type": (lambda said: said["tokenizer.ggml.token_type"].__setitem__(9, 77), "no types of pieces"),
    "fraction as type": (
        lambda said: said.update({"tokenizer.ggml.token_type": said["tokenizer.ggml.scores"] + 0.5}),
        "no types of pieces",
    ),
    "no blank in front": (lambda said: said.update({"tokenizer.ggml.add_space_prefix": False}), "add_space_prefix = False"),
    "no beginning": (lambda said: said.update({"tokenizer.ggml.add_bos_token": False}), "add_bos_token = False"),
    "no number as score": (lambda said: said["tokenizer.ggml.scores"].__setitem__(9, np.nan), "has the score nan"),
    "the same piece twice": (lambda said: said["tokenizer.ggml.tokens"].__setitem__(9, "<s>"), "are both '<s>'"),
    "another end": (lambda said: said["tokenizer.ggml.token_type"].__setitem__(2, 1), "end-of-text piece"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_tokenizers_are_refused(case: str, tokenizer: processor.Tokenizer) -> None:
    change, message = WRONG[case]
    said = dict(gguf_vocab.keys(tokenizer, rows=len(tokenizer), chat_template=None))
    change(said)
    with pytest.raises(ValueError, match=message):
        gguf_vocab.read_tokenizer(said)
