"""New pieces behind those of a base tokenizer; old ids never move.

Two modes:

*   "safe" takes pieces of the target script only, under distinct scores below every score of the base. Text without the
    script is encoded exactly as before, which is proven on the spot (see `invariance`), and of all other text first
    every merge of the base happens, then those of the new pieces, in an order that reaches as many of
    them as possible (see `reach`).
*   "reference" does byte for byte what Chinese-LLaMA-Alpaca's merge does: every piece that the base lacks goes to the end with score
    0. That is above every merge of the base, so digits, English and code are encoded differently too; adapters
    released for Chinese-LLaMA need it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from zhllama_jax.tokenizer import invariance, pieces, proto, reach, scripts

Mode = Literal["safe", "reference"]
PAD = proto.PAD

RELEASED = {
    "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0": "Chinese-LLaMA",
    "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8": "Chinese-Alpaca",
}
"""Digests of the tokenizers that Chinese-LLaMA-Alpaca released, and of which adapters."""


class Source(NamedTuple):
    """What became of one file's pieces, of a word list or of a model: offered = present + left_out + taken."""

    name: str
    offered: int
    present: int
    left_out: int
    taken: int
    is_list: bool


class Merged(NamedTuple):
    """A merged tokenizer and what is to be said about it.

    Attributes:
      serialized: the bytes of its `.model` file.
      mode: "safe" or "reference".
      script: the target script; None in reference mode.
      base_size: pieces of the base.
      size: pieces in all.
      sources: one entry for each added file.
      bridges: pieces added so that words of lists can be reached.
      foreign: new pieces, padding aside, without a character of the script; none in safe mode.
      unreachable: new pieces, padding aside, that no text is encoded as.
      stranded: those of them that stand in word lists.
      hopeless: how many of these are known to be out of reach under any order of the new pieces; None in reference mode, which orders
        nothing.
      pad_id: id of the padding piece, or None.
      proof: what was compared to show that other text is encoded as before; None in reference mode.
      unigrams: names of the added files that are unigram models, whose pieces need not be made of others.
      reference_size: pieces that reference mode makes of the same files.
      reference_name: of which released adapters that tokenizer is, or None.
    """

    serialized: bytes
    mode: Mode
    script: str | None
    base_size: int
    size: int
    sources: tuple[Source, ...]
    bridges: tuple[str, ...]
    foreign: int
    unreachable: tuple[str, ...]
    stranded: tuple[str, ...]
    hopeless: int | None
    pad_id: int | None
    proof: invariance.Proof | None
    unigrams: tuple[str, ...]
    reference_size: int
    reference_name: str | None

    @property
    def sha256(self) -> str:
        """The digest of `serialized`, in hex."""
        return hashlib.sha256(self.serialized).hexdigest()

    @property
    def added(self) -> int:
        """New pieces that stand for text: all but the padding piece."""
        new_pad = self.pad_id is not None and self.pad_id >= self.base_size
        return self.size - self.base_size - new_pad

    def summary(self) -> str:
        """What was made, in sentences, one a line; the first says how large it is and what the other mode would give."""
        return "\n".join(_sentences(self))


def merge(
    base: str | Path,
    added: Sequence[str | Path],
    *,
    mode: Mode = "safe",
    script: str = "han",
    pad_token: bool = False,
    proof_strings: int = 100_000,
    seed: int = 0,
) -> Merged:
    """Adds the pieces of models and word lists to a LLaMA tokenizer, which may have been extended before.

    Args:
      base: a `.model` file, or a model directory.
      added: SentencePiece models (any type) and `.txt` word lists.
      mode: see the module.
      script: the target script or scripts of safe mode, by the names of `scripts.NAMES`.
      pad_token: whether to add the piece `[PAD]` last: in safe mode as a control, which text cannot produce; in reference mode
        as the released tokenizers have it, a normal piece, from which `processor` guards.
      proof_strings: how many generated texts safe mode compares.
      seed: of those texts.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a base that is no LLaMA tokenizer, a damaged file, an unknown mode or script, or nothing to add.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if proof_strings < 1:
        raise ValueError(f"proof_strings must be at least 1, got {proof_strings}")
    if not added:
        raise ValueError("nothing to add: name at least one SentencePiece model or word list")
    target = scripts.named(script)
    model = proto.parse(proto.read(base), where=str(base))
    proto.require_llama(model, where=str(base))
    offers = [pieces.read(path, script=target) for path in added]

    faithful, faithful_sources = _reference(model, offers, pad_token=pad_token)
    if mode == "safe":
        merged, sources, bridges = _safe(model, offers, target, pad_token=pad_token)
    else:
        merged, sources, bridges = faithful, faithful_sources, []
    if not any(source.taken for source in sources):
        kind = f" that hold a {target.name} {_wanted(sources)}" if mode == "safe" else ""
        verb = "offers" if len(offers) == 1 else "offer"
        raise ValueError(f"nothing to add: {', '.join(offer.name for offer in offers)} {verb} no pieces{kind} beyond those of {base}")

    safe = mode == "safe"
    first = len(model.pieces)
    pad_id = proto.pad_id(merged)
    unreachable = [merged.pieces[number].piece for number in reach.unreachable(merged, first) if number != pad_id]
    new = [piece.piece for piece in merged.pieces[first:] if piece.type == proto.NORMAL]
    words = {word for offer in offers if offer.is_list for word in offer.pieces}
    return Merged(
        serialized=merged.SerializeToString(),
        mode=mode,
        script=target.name if safe else None,
        base_size=first,
        size=len(merged.pieces),
        sources=tuple(sources),
        bridges=tuple(bridges),
        foreign=sum(not target.has_character(piece) for piece in new if piece != PAD),
        unreachable=tuple(unreachable),
        stranded=tuple(piece for piece in unreachable if piece in words),
        hopeless=len(reach.hopeless(new, reach.priority(model))) if safe else None,
        pad_id=pad_id,
        proof=invariance.prove(model, merged, target, strings=proof_strings, seed=seed) if safe else None,
        unigrams=tuple(offer.name for offer in offers if offer.kind == "unigram"),
        reference_size=len(faithful.pieces),
        reference_name=RELEASED.get(hashlib.sha256(faithful.SerializeToString()).hexdigest()),
    )


def _reference(base: proto.Model, offers: Iterable[pieces.Offer], *, pad_token: bool) -> tuple[proto.Model, list[Source]]:
    """Every piece that is not there yet, of whatever type, as a normal one with score 0; nothing else is touched."""
    merged = _copy(base)
    known = {piece.piece for piece in base.pieces}
    sources = []
    for offer in offers:
        taken = [piece for piece in offer.pieces if piece not in known]
        known.update(taken)
        for piece in taken:
            merged.pieces.append(proto.Piece(piece=piece, score=0))
        sources.append(Source(offer.name, len(offer.pieces), len(offer.pieces) - len(taken), 0, len(taken), offer.is_list))
    if pad_token and PAD not in known:
        merged.pieces.append(proto.Piece(piece=PAD, score=0))
    return merged, sources


def _safe(
    base: proto.Model, offers: Iterable[pieces.Offer], script: scripts.Script, *, pad_token: bool
) -> tuple[proto.Model, list[Source], list[str]]:
    """The pieces of the script, ordered for reach, each with its own score below those before it."""
    merged = _copy(base)
    known = {piece.piece for piece in base.pieces}
    sources, new, words = [], [], []
    for offer in offers:
        chosen = offer.chosen(script)
        taken = [piece for piece in chosen if piece not in known]
        present = sum(piece in known for piece in offer.pieces)
        known.update(taken)
        new += taken
        words += taken if offer.is_list else []
        left_out = len(offer.pieces) - present - len(taken)
        sources.append(Source(offer.name, len(offer.pieces), present, left_out, len(taken), offer.is_list))

    first = reach.priority(base)
    bridges = reach.bridges(words, new, first, script)
    lowest = np.float32(min(piece.score for piece in base.pieces))
    for piece in reach.arrange([*new, *bridges], first):
        lowest = np.nextafter(lowest, np.float32(-np.inf))
        merged.pieces.append(proto.Piece(piece=piece, score=float(lowest), type=proto.NORMAL))
    if pad_token and proto.pad_id(base) is None:
        lowest = np.nextafter(lowest, np.float32(-np.inf))
        merged.pieces.append(proto.Piece(piece=PAD, score=float(lowest), type=proto.CONTROL))
        merged.trainer_spec.pad_id = len(merged.pieces) - 1
        merged.trainer_spec.pad_piece = PAD
    merged.trainer_spec.vocab_size = len(merged.pieces)
    return merged, sources, bridges


def _copy(model: proto.Model) -> proto.Model:
    twin = type(model)()
    twin.CopyFrom(model)
    return twin


def _sentences(merged: Merged) -> list[str]:
    made = f"{merged.size:,} pieces: {merged.base_size:,} of the base and {merged.size - merged.base_size:,} new ones"
    if merged.mode == "safe":
        name = merged.reference_name
        other = (
            f"gives the {merged.reference_size:,} that released {name} adapters need" if name else f"would give {merged.reference_size:,}"
        )
        result = [f"{made} (script {merged.script}); `--mode reference` {other}"]
    else:
        rule = f"exactly those that released {merged.reference_name} adapters need" if merged.reference_name else "by the reference's rule"
        result = [f"{made}, {rule}"]
        if merged.foreign:
            result[0] += (
                f"; {merged.foreign:,} of the new ones hold no character of the script, and English, numbers and code may be encoded "
                "differently where these occur: `--mode safe` leaves them as they were"
            )
    for source in merged.sources:
        left_out = f", {source.left_out:,} without a {_wanted([source])} of the script" if merged.mode == "safe" else ""
        result.append(
            f"{source.name}: {source.offered:,} pieces offered, {source.present:,} there already{left_out}, {source.taken:,} taken"
        )
    if merged.bridges:
        result.append(f"{len(merged.bridges):,} bridging pieces lead to words that no two pieces make up, e.g. {_some(merged.bridges)}")
    unreachable = len(merged.unreachable)
    reason = f", e.g. {_some(merged.unreachable)}" if unreachable else ""
    if unreachable and merged.hopeless == unreachable:
        reason = f" under any order, since no two pieces make them up{reason}"
    result.append(f"{merged.added - unreachable:,} of {merged.added:,} new pieces can be reached, {unreachable:,} cannot{reason}")
    if merged.hopeless and merged.unigrams:
        names = ", ".join(merged.unigrams)
        result.append(
            f"pieces of unigram models ({names}) need not be made of two others: far more of those of "
            "`zhllama tokenizer train --model_type bpe` can be reached"
        )
    if merged.proof:
        result.append(
            f"text without {merged.script} characters is encoded exactly as before: each new piece holds such a character, "
            f"and {merged.proof.strings:,} generated texts ({merged.proof.characters:,} characters) came out alike"
        )
    if merged.pad_id is not None:
        result.append(f"padding has the id {merged.pad_id:,}; `zhllama` never produces it from text")
    result.append(f"sha256 {merged.sha256}")
    return result


def _wanted(sources: Iterable[Source]) -> str:
    """What safe mode looks for in a piece, see `pieces.Offer.chosen`."""
    kinds = {source.is_list for source in sources}
    return "letter (in word lists, a character)" if len(kinds) > 1 else "character" if True in kinds else "letter"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return " ".join(names[:limit])
