"""The tokenizer files of a Hugging Face directory, with a `tokenizer.json` that gives SentencePiece's own ids.

transformers rebuilds a LLaMA tokenizer from `tokenizer.model` in ways that change ids (leading blanks, pieces with equal scores).
Our `tokenizer.json` says everything outright and is read by the generic class, which changes nothing: merges are all splits of every
piece, best score first; the text gets one "▁" in front and "▁" for blanks; unknown characters fall back to bytes. It is plain
JSON, written without the tokenizers library.

Two limits lie in the format. Pieces with equal scores (the reference merge gives all new pieces the score 0) are merged leftmost
first by SentencePiece and in the order of the list there, which no order can make equal (see `ranked`); the page of a model tells
how often. And the text of a special piece inside a text ("</s>") becomes that piece there, never in our own encoder.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from zhllama_jax import files, templates
from zhllama_jax.convert import manifest
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor, proto, ranked

MODEL = "tokenizer.model"
JSON = "tokenizer.json"
CONFIG = "tokenizer_config.json"
LLAMA_PIECES = "0f97b4337921e6e7e9b4620fc73338ee570aecd3c16038bc23870a887e995045"
"""sha256 of the 32,000 pieces of LLaMA's tokenizer.model, joined by line feeds."""

_FOREIGN = (JSON, "vocab.json", "vocab.txt", "tiktoken.model", "spiece.model")


def write(
    directory: str | Path, tokenizer: processor.Tokenizer, *, max_length: int, prompt: manifest.Prompt | None, pad_id: int | None = None
) -> None:
    """Writes `tokenizer.model`, `tokenizer.json` and the small files that transformers, llama.cpp and servers look for.

    Args:
      directory: an existing folder.
      tokenizer: what to write.
      max_length: the model's context length in tokens.
      prompt: gives the chat template, where its template has one.
      pad_id: the model's id of padding, whose piece pads where the tokenizer has none for it: `<unk>` of many a LLaMA.

    Raises:
      ValueError: the tokenizer is not of LLaMA's kind (see `to_json`).
    """
    directory = Path(directory)
    specials = {"bos_token": tokenizer.piece(tokenizer.bos_id), "eos_token": tokenizer.piece(tokenizer.eos_id)}
    specials["unk_token"] = tokenizer.piece(tokenizer.unk_id)
    if tokenizer.pad_id is not None:
        specials["pad_token"] = tokenizer.piece(tokenizer.pad_id)
        files.write_json(directory / "added_tokens.json", {specials["pad_token"]: tokenizer.pad_id})
    elif pad_id is not None and pad_id < tokenizer.vocab_size:
        specials["pad_token"] = tokenizer.piece(pad_id)
    contents = to_json(tokenizer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(token.pop("id")): token for token in json.loads(json.dumps(contents["added_tokens"]))},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "padding_side": "left",
        **specials,
    }
    (directory / MODEL).write_bytes(tokenizer.serialized)
    (directory / JSON).write_text(json.dumps(contents, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    files.write_json(directory / CONFIG, settings)
    files.write_json(directory / "special_tokens_map.json", specials)
    if prompt is not None and templates.puts_text(prompt.template):
        (directory / "chat_template.jinja").write_text(chat_template(prompt), encoding="utf-8")


def chat_template(prompt: manifest.Prompt) -> str:
    """The Jinja template that renders turns as `data.chat.render_prompt` does; a system message takes the place of the head.

    With the boundary "joined" the blank that ends the closing stands before an answer only, with "faithful" at the end of a prompt too.
    With the turns "closed" EOS stands behind every answer.
    """
    form = templates.named(prompt.template)
    plain = form.closing.rstrip(" ")
    parts = (form.head, form.opening, plain, form.closing[len(plain) :], form.between)
    head, opening, joint, blank, between = map(json.dumps, parts)
    end = "" if prompt.boundary == "joined" else "{% if turns[-1]['role'] == 'user' %}{{ " + blank + " }}{% endif %}"
    eos = "{{ eos_token }}" if prompt.turns == "closed" else ""
    return (
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{{ bos_token + messages[0]['content'] + \"\\n\\n\" }}"
        "{% else %}{% set turns = messages %}{{ bos_token + " + head + " }}{% endif %}"
        "{% for message in turns %}"
        "{% if message['role'] == 'user' %}"
        "{% if not loop.first %}{{ " + between + " }}{% endif %}"
        "{{ " + opening + " + message['content'] + " + joint + " }}"
        "{% else %}{{ " + blank + " + message['content'] }}" + eos + "{% endif %}"
        "{% endfor %}" + end
    )


def require_sentencepiece(directory: str | Path) -> bool:
    """Whether a model directory has a SentencePiece tokenizer; false where it has no tokenizer at all.

    Raises:
      ValueError: it has a tokenizer of another kind.
    """
    directory = Path(directory)
    if (directory / MODEL).is_file():
        return True
    foreign = [name for name in _FOREIGN if (directory / name).is_file()]
    if foreign:
        raise ValueError(
            f"{directory} has {foreign[0]} but no {MODEL}: LLaMA with a SentencePiece tokenizer is the scope; put the {MODEL} that it was "
            "made from beside it (transformers 5 leaves it out when it saves). Other tokenizers (LLaMA-3's, for one) are not supported"
        )
    return False


def begins_with_llama(tokenizer: processor.Tokenizer) -> bool:
    """Whether a tokenizer's first 32,000 pieces are the original LLaMA's, in their order."""
    pieces = (tokenizer.piece(id_) for id_ in range(min(config_lib.LLAMA_VOCAB_SIZE, tokenizer.vocab_size)))
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest() == LLAMA_PIECES


def how_to_grow(adapter: Path, model: str | Path | None, own: processor.Tokenizer | None) -> str:
    """How a model with a tokenizer of its `own` comes to that in an adapter's directory, as the end of a sentence."""
    command = "with `zhllama resize --model MODEL --tokenizer {} --output GROWN`"
    if not (adapter / MODEL).is_file():
        lacking = "and the tokenizer that the adapter was trained with, which its directory lacks"
        return f"grow the model first, {command.format('TOKENIZER')} {lacking}"
    command = command.format(adapter / MODEL)
    if own is None or goes_on(processor.Tokenizer.load(adapter / MODEL), own):
        return f"grow the model first, {command}"
    return (
        f"its tokenizer does not begin with the pieces of the tokenizer of {model}, so this model never grows to it: take the model from "
        f"before its vocabulary grew (for released adapters LLaMA's own, of 32,000 rows) and grow that, {command}"
    )


def goes_on(tokenizer: processor.Tokenizer, former: processor.Tokenizer) -> bool:
    """Whether a tokenizer begins with the pieces of a former one."""
    return len(tokenizer) >= len(former) and all(tokenizer.piece(id_) == former.piece(id_) for id_ in range(len(former)))


def to_json(tokenizer: processor.Tokenizer) -> dict[str, Any]:
    """The `tokenizer.json` of a LLaMA tokenizer.

    Raises:
      ValueError: the model is not of LLaMA's kind (BPE, byte fallback, text taken as it is); the sentence names what differs.
    """
    model = proto.parse(tokenizer.serialized)
    proto.require_llama(model, where="the tokenizer to export")
    bos = tokenizer.piece(tokenizer.bos_id)
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(model, tokenizer),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": proto.SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": proto.SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": proto.SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.piece(tokenizer.unk_id),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.piece: id_ for id_, piece in enumerate(model.pieces)},
            "merges": [" ".join(pair) for pair in ranked.merges(ranked.normal(model, tokenizer.pad_id))],
        },
    }


def tied_pieces(tokenizer: processor.Tokenizer) -> int:
    """How many pieces share their score: where this is not 0, transformers may order merges differently (see `ranked`)."""
    return len(ranked.tied(ranked.normal(proto.parse(tokenizer.serialized), tokenizer.pad_id)))


def _added(model: Any, tokenizer: processor.Tokenizer) -> list[dict[str, Any]]:
    """The pieces that are matched before any merge: the special ones, and those that a user defined."""
    special = {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
    special |= {id_ for id_, piece in enumerate(model.pieces) if piece.type in (proto.CONTROL, proto.UNKNOWN)}
    return [
        {
            "id": id_,
            "content": piece.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": id_ in special,
        }
        for id_, piece in enumerate(model.pieces)
        if id_ in special or piece.type == proto.USER_DEFINED
    ]
