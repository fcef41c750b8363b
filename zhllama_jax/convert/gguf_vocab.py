"""A LLaMA's tokenizer in a GGUF file: pieces, scores and types as llama.cpp's own SentencePiece tokenizer reads them; both ways.

A file has as many pieces as the model has rows, or llama.cpp does not load it: rows behind the tokenizer's last piece become
`<dummy00001>`, `<dummy00002>` … of type UNUSED. The padding piece is a CONTROL piece whatever the `.model` file calls it (in released
Alpaca tokenizers it is NORMAL), so that no text can produce it. The numbers of the types are SentencePiece's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from zhllama_jax.convert import gguf_file
from zhllama_jax.tokenizer import processor, proto

_PREFIX = "tokenizer.ggml"
_MODEL = "llama"
_UNREACHABLE = -1e4
"""The score of a piece that stands for a row without a piece."""
_TREATMENT = {"add_bos_token": True, "add_eos_token": False, "add_space_prefix": True, "remove_extra_whitespaces": False}
"""How LLaMA's tokenizer treats texts; a file that says otherwise has another one."""


def keys(tokenizer: processor.Tokenizer, *, rows: int, chat_template: str | None) -> dict[str, gguf_file.Value]:
    """The metadata of a tokenizer.

    Args:
      tokenizer: of LLaMA's kind.
      rows: of the model; not fewer than the tokenizer has pieces.
      chat_template: Jinja, if the model has learnt to be asked in one.
    """
    pieces = proto.parse(tokenizer.serialized).pieces
    assert len(pieces) <= rows, "the tokenizer was held against the model before"
    types = [piece.type for piece in pieces]
    if tokenizer.pad_id is not None:
        types[tokenizer.pad_id] = proto.CONTROL
    names = [piece.piece for piece in pieces]
    spare = rows - len(names)
    free = _dummies(set(names))
    said: dict[str, gguf_file.Value] = {
        f"{_PREFIX}.model": _MODEL,
        f"{_PREFIX}.pre": "default",
        f"{_PREFIX}.tokens": [*names, *(next(free) for _ in range(spare))],
        f"{_PREFIX}.scores": np.array([*(piece.score for piece in pieces), *[_UNREACHABLE] * spare], np.float32),
        f"{_PREFIX}.token_type": np.array([*types, *[proto.UNUSED] * spare], np.int32),
        f"{_PREFIX}.bos_token_id": tokenizer.bos_id,
        f"{_PREFIX}.eos_token_id": tokenizer.eos_id,
        f"{_PREFIX}.unknown_token_id": tokenizer.unk_id,
    }
    if tokenizer.pad_id is not None:
        said[f"{_PREFIX}.padding_token_id"] = tokenizer.pad_id
    said |= {f"{_PREFIX}.{key}": value for key, value in _TREATMENT.items()}
    if chat_template is not None:
        said["tokenizer.chat_template"] = chat_template
    return said


def read_tokenizer(metadata: Mapping[str, Any]) -> processor.Tokenizer:
    """The tokenizer of a file: the pieces, scores and types of the `.model` file that it was made from, not its bytes.

    Raises:
      ValueError: it has none, or one of another kind.
    """
    kind = metadata.get(f"{_PREFIX}.model")
    if kind != _MODEL:
        raise ValueError(f"its tokenizer is of the kind {kind!r}: LLaMA with a SentencePiece tokenizer ({_MODEL!r}) is the scope")
    tokens, scores, types = (metadata.get(f"{_PREFIX}.{key}") for key in ("tokens", "scores", "token_type"))
    if not isinstance(tokens, list) or not all(isinstance(array, np.ndarray) and len(array) == len(tokens) for array in (scores, types)):
        raise ValueError(f"{_PREFIX}.tokens, scores and token_type must be three lists of one length")
    assert isinstance(scores, np.ndarray) and isinstance(types, np.ndarray), "they were checked"
    odd = [f"{key} = {metadata[name]}" for key, usual in _TREATMENT.items() if metadata.get(name := f"{_PREFIX}.{key}", usual) is not usual]
    if odd:
        raise ValueError(f"its tokenizer treats texts in another way than LLaMA's: {', '.join(odd)}")
    known = set(proto.Piece.Type.values())
    if not np.isin(types, list(known)).all():
        raise ValueError(f"{_PREFIX}.token_type holds numbers that are no types of pieces")
    end = len(tokens)
    while end and types[end - 1] == proto.UNUSED and tokens[end - 1].startswith("<dummy"):
        end -= 1
    model = proto.pb.ModelProto()
    for token, score, kind_of_piece in zip(tokens[:end], scores[:end].tolist(), types[:end].tolist(), strict=True):
        model.pieces.add(piece=token, score=score, type=kind_of_piece)
    model.trainer_spec.model_type = proto.BPE
    model.trainer_spec.vocab_size = end
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    pad = metadata.get(f"{_PREFIX}.padding_token_id")
    if type(pad) is int and pad < end and types[pad] == proto.CONTROL and pad > 2:
        model.trainer_spec.pad_id = pad
    return processor.Tokenizer(model.SerializeToString(), where="the tokenizer of the GGUF file")


def _dummies(taken: set[str]) -> Iterator[str]:
    """Names for rows without a piece, none of them a piece's."""
    number = 0
    while True:
        number += 1
        if (name := f"<dummy{number:05}>") not in taken:
            yield name
