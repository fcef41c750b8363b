"""Text to ids and back, as LLaMA's SentencePiece tokenizer does it; user text can never produce a control id.

Two promises beyond sentencepiece:

*   Names of special pieces inside a text (`</s>`, `<0x0A>`, `[PAD]`) are ordinary characters. sentencepiece keeps that promise for
    CONTROL and BYTE pieces. The padding piece of released Alpaca tokenizers is of type NORMAL, so this class works on a
    copy in which it is CONTROL; `serialized` and `sha256` stay those of the file.
*   Streaming gives, piece by piece, exactly the text that `decode` gives for all ids together, in linear time, and never
    half a character.

decode(encode(text)) == text for every text, with one exception: U+2581 stands for a blank inside pieces and comes back as a blank.
Surrogates, which are no characters, come back as U+FFFD (pairs as the character that they spell).
"""

import hashlib
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

import sentencepiece

from zhllama_jax.tokenizer import proto

REPLACEMENT = "\ufffd"


class Tokenizer:
    """A LLaMA tokenizer.

    Attributes:
      serialized: the bytes of the `.model` file.
      sha256: their digest, in hex.
      vocab_size: the number of pieces.
      unk_id, bos_id, eos_id: always 0, 1, 2.
      pad_id: the id of the padding piece, or None.
    """

    def __init__(self, serialized: bytes, *, where: str = "the tokenizer") -> None:
        model = proto.parse(serialized, where=where)
        self._where = where
        self._strange = proto.llama_faults(model)
        self.serialized = serialized
        self.sha256 = hashlib.sha256(serialized).hexdigest()
        self.vocab_size = len(model.pieces)
        self.unk_id, self.bos_id, self.eos_id = 0, 1, 2
        self.pad_id = proto.pad_id(model)
        self._guarded = self.pad_id is not None and model.pieces[self.pad_id].type != proto.CONTROL
        if self._guarded:
            model.pieces[self.pad_id].type = proto.CONTROL
        self._pieces = [piece.piece for piece in model.pieces]
        self._types = bytes(piece.type for piece in model.pieces)
        self._removes_blanks = model.normalizer_spec.remove_extra_whitespaces
        self._adds_blank = model.normalizer_spec.add_dummy_prefix or self._removes_blanks
        self._ids = {piece: number for number, piece in enumerate(self._pieces)}
        self._unk_surface = model.trainer_spec.unk_surface
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model.SerializeToString() if self._guarded else serialized)
        except RuntimeError as error:  # a fault that `proto.check` does not know
            raise ValueError(f"{where} is refused by SentencePiece: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a `.model` file, or the `tokenizer.model` of a model directory.

        Raises:
          FileNotFoundError: nothing there.
          ValueError: another kind of tokenizer, or a damaged one.
        """
        return cls(proto.read(path), where=str(proto.file(path)))

    @classmethod
    def from_bytes(cls, serialized: bytes) -> "Tokenizer":
        """The tokenizer whose `.model` file has these bytes."""
        return cls(serialized)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        """Pickles as the model's bytes, for worker processes."""
        return (Tokenizer, (self.serialized,))

    def __len__(self) -> int:
        return self.vocab_size

    def same_pieces(self, other: "Tokenizer") -> bool:
        """Whether another one has the same pieces, scores and types, that of the padding piece aside: not all call it a control piece."""

        def told(one: Tokenizer) -> list[tuple[str, float, int]]:
            pieces = proto.parse(one.serialized).pieces
            return [(each.piece, each.score, proto.CONTROL if id_ == one.pad_id else each.type) for id_, each in enumerate(pieces)]

        return self.serialized == other.serialized or told(self) == told(other)

    def require_llama(self) -> None:
        """Refuses a tokenizer that no model of ours can have, see `proto.require_llama`.

        Raises:
          ValueError: with everything that differs.
        """
        proto.refuse_strange(self._strange, where=self._where)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, after BOS and before EOS where asked for; never another control id."""
        return [*([self.bos_id] * bos), *self._processor.encode(scalar(text)), *([self.eos_id] * eos)]

    def encode_batch(self, texts: Iterable[str], *, bos: bool = False, eos: bool = False, threads: int = -1) -> list[list[int]]:
        """`encode` of each text, on several threads (-1: one a core)."""
        before, after = [self.bos_id] * bos, [self.eos_id] * eos
        batch = self._processor.encode([scalar(text) for text in texts], num_threads=threads)
        return [[*before, *ids, *after] for ids in batch] if bos or eos else batch

    def decode(self, ids: Iterable[SupportsIndex], *, after: Sequence[SupportsIndex] = ()) -> str:
        """The text of `ids`; control ids are left out, impossible bytes become U+FFFD.

        Args:
          ids: token ids.
          after: ids before the first one. The blank in front of a text's first word is not part of the text, but that
            of a continuation is: encode("a b") = [▁a, ▁b], decode([▁b]) = "b", decode([▁b], after=[▁a]) = " b".

        Raises:
          ValueError: an id outside the vocabulary.
          TypeError: an id that is no integer.
        """
        if not after:
            return str(self._processor.decode([self._checked(number) for number in ids]))
        stream = self.stream(after=after)
        return "".join([*(stream.push(number) for number in ids), stream.flush()])

    def stream(self, *, after: Iterable[SupportsIndex] = ()) -> "StreamDecoder":
        """A decoder for ids that arrive one by one, the text of `after` being there already (see `decode`)."""
        stream = StreamDecoder(self)
        for number in after:
            stream.push(number)
        return stream

    def piece(self, number: SupportsIndex) -> str:
        """The piece with this id, blanks as U+2581."""
        return self._pieces[self._checked(number)]

    def id(self, piece: str) -> int | None:
        """The id of a piece by its exact name (also a control's), or None."""
        return self._ids.get(piece)

    def is_control(self, number: SupportsIndex) -> bool:
        """Whether the id steers and has no text: BOS, EOS, padding and other CONTROL pieces."""
        return self._types[self._checked(number)] == proto.CONTROL

    def is_byte(self, number: SupportsIndex) -> bool:
        """Whether the id is one byte of a character that has no piece."""
        return self._types[self._checked(number)] == proto.BYTE

    def _checked(self, number: SupportsIndex) -> int:
        """`number` as an int that is an id."""
        try:
            value = operator.index(number)
        except TypeError:
            raise TypeError(f"a token id must be an integer, found {number!r}") from None
        if not 0 <= value < self.vocab_size:
            raise ValueError(f"token id {value} is outside the vocabulary: ids run from 0 to {self.vocab_size - 1}")
        return value


class StreamDecoder:
    """Turns ids into text one by one: `push` gives what is certain by now, `flush` the rest.

    All that `push` and `flush` gave, joined, is `Tokenizer.decode` of all ids. Each step costs time in
    proportion to the text that it gives. `push` never gives a part of a character: bytes wait, at most
    three, until they are a character or cannot become one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = b""
        self._at_start = tokenizer._adds_blank

    def push(self, number: SupportsIndex) -> str:
        """The text that this id completes, often empty for bytes and controls."""
        tokenizer = self._tokenizer
        number = tokenizer._checked(number)
        kind = tokenizer._types[number]
        if kind == proto.BYTE:
            self._bytes += bytes([int(tokenizer._pieces[number][3:5], 16)])
            self._at_start = False
            text, self._bytes = _characters(self._bytes)
            return text
        text = self.flush()
        if kind == proto.CONTROL:
            return text
        if kind == proto.UNKNOWN:
            self._at_start = False
            return text + tokenizer._unk_surface
        surface = tokenizer._pieces[number]
        if self._at_start:
            surface = surface.removeprefix(proto.SPACE)
            self._at_start = tokenizer._removes_blanks and not surface
        return text + surface.replace(proto.SPACE, " ")

    def flush(self) -> str:
        """The text of the bytes that still wait: they cannot become characters any more, so one U+FFFD each."""
        text, self._bytes = REPLACEMENT * len(self._bytes), b""
        return text


def scalar(text: str) -> str:
    """`text` with surrogates put right: sentencepiece takes Unicode scalar values only."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _characters(pending: bytes) -> tuple[str, bytes]:
    """(text of the characters complete or impossible at the front of `pending`, bytes that may still become one).

    As sentencepiece does, each byte that belongs to no character is one U+FFFD.
    """
    text = ""
    while pending:
        try:
            return text + pending.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return text + pending[: error.start].decode("utf-8"), pending[error.start :]
            text += pending[: error.start].decode("utf-8") + REPLACEMENT
            pending = pending[error.start + 1 :]
    return text, b""


def bare(model: proto.Model) -> sentencepiece.SentencePieceProcessor:
    """sentencepiece's own processor for a model, without the blank that is put in front of a text: for the text of pieces."""
    verbatim = type(model)()
    verbatim.CopyFrom(model)
    verbatim.normalizer_spec.add_dummy_prefix = False
    bare_processor = sentencepiece.SentencePieceProcessor()
    bare_processor.LoadFromSerializedProto(verbatim.SerializeToString())
    return bare_processor
