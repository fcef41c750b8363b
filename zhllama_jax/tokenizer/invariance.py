"""Proof that a merged tokenizer leaves text without the target script exactly as it was.

The argument: merging starts from characters and joins adjacent symbols into pieces. A new piece holds a character of the
script, so no part of a text without such characters equals it, and it is never joined; pieces, scores and settings of
the base are the same; so every step is the same. `prove` verifies each premise on the two models, and then,
distrusting itself, compares the encodings of many texts.
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sentencepiece

from zhllama_jax.tokenizer import proto, scripts

BATCH = 10_000


class Proof(NamedTuple):
    """What was compared after the premises held.

    Attributes:
      script: the script whose absence leaves a text as it was.
      strings: generated texts encoded by both tokenizers, all alike.
      characters: their characters in all.
    """

    script: str
    strings: int
    characters: int


def prove(base: proto.Model, merged: proto.Model, script: scripts.Script, *, strings: int = 100_000, seed: int = 0) -> Proof:
    """Verifies the premises and compares `strings` generated texts.

    Raises:
      ValueError: a premise fails or a text is encoded differently, which the sentence names; or `strings` is below 1.
    """
    if strings < 1:
        raise ValueError(f"a proof compares at least 1 text, got {strings}")
    faults = premises(base, merged, script)
    if faults:
        raise ValueError(f"text without {script.name} characters is not safe: {'; '.join(faults)}")
    left, right = (sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()) for model in (base, merged))
    texts = generate(base, script, seed=seed)
    characters = 0
    for start in range(0, strings, BATCH):
        batch = [next(texts) for _ in range(min(BATCH, strings - start))]
        characters += sum(map(len, batch))
        for text, before, after in zip(batch, left.encode(batch), right.encode(batch), strict=True):
            if before != after:
                raise ValueError(f"the text {text!r}, free of {script.name} characters, was {before} and is now {after}")
    return Proof(script.name, strings, characters)


def premises(base: proto.Model, merged: proto.Model, script: scripts.Script) -> list[str]:
    """What stands against the argument, as sentences; nothing for a safe merge."""
    faults = []
    old, new = base.pieces, merged.pieces[len(base.pieces) :]
    if list(merged.pieces[: len(old)]) != list(old):
        faults.append("pieces of the base differ")
    strange = [piece.piece for piece in new if piece.type != proto.CONTROL and not script.has_character(piece.piece)]
    if strange:
        faults.append(f"{len(strange):,} new pieces hold no {script.name} character, first {strange[0]!r}")
    loose = [piece.piece for piece in new if piece.type not in (proto.NORMAL, proto.CONTROL)]
    if loose:
        faults.append(f"{len(loose):,} new pieces are neither normal nor controls, first {loose[0]!r}")
    if _settings(base) != _settings(merged):
        faults.append("the settings of the base differ")
    return faults


def generate(base: proto.Model, script: scripts.Script, *, seed: int) -> Iterator[str]:
    """Texts without end and without a character of the script: words of the base, code, numbers, blanks, any Unicode."""
    rng = random.Random(seed)
    normal = [piece.piece.replace(proto.SPACE, " ") for piece in base.pieces if piece.type == proto.NORMAL]
    words: Sequence[str] = [word for word in normal if not script.has_character(word)] or [" "]
    pattern: re.Pattern[str] = script.pattern()
    signs = " \n\t.,;:!?()[]{}<>/\\|@#$%^&*-_=+'\"`~0123456789"
    while True:
        parts = []
        for _ in range(rng.randrange(1, 16)):
            choice = rng.random()
            if choice < 0.6:
                parts.append(words[rng.randrange(len(words))])
            elif choice < 0.8:
                parts.append(signs[rng.randrange(len(signs))] * rng.randrange(1, 4))
            elif choice < 0.9:
                parts.append(str(rng.randrange(10 ** rng.randrange(1, 12))))
            else:
                code = rng.randrange(0x110000 - 0x800)
                parts.append(chr(code if code < 0xD800 else code + 0x800))
        yield pattern.sub("", "".join(parts))


def _settings(model: proto.Model) -> proto.Model:
    """A model's settings without pieces and without the fields that only describe it."""
    settings = type(model)()
    settings.CopyFrom(model)
    settings.ClearField("pieces")
    for field in ("vocab_size", "pad_id", "pad_piece"):
        settings.trainer_spec.ClearField(field)
    return settings
