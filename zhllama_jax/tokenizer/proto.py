"""A SentencePiece model file as a message: read with distrust, checked, written canonically.

The parser is protobuf's own; sentencepiece itself sees only bytes that have passed `check`. A fifth of randomly damaged
models load without complaint there, so what a LLaMA relies on is verified here: the special ids, unique pieces, finite
scores, complete byte pieces.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as pb

from zhllama_jax import files

Model = Any
"""The message, a `ModelProto`; protobuf's classes carry no types."""
Piece: Any = pb.ModelProto.SentencePiece
"""The message of one piece: `piece`, `score`, `type`."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE, UNUSED = (
    Piece.NORMAL,
    Piece.UNKNOWN,
    Piece.CONTROL,
    Piece.USER_DEFINED,
    Piece.BYTE,
    Piece.UNUSED,
)
BPE, UNIGRAM = pb.TrainerSpec.BPE, pb.TrainerSpec.UNIGRAM

SPACE = "▁"
"""U+2581, which stands for a blank inside pieces."""

MAX_BYTES = 64 << 20
MAX_PIECES = 2_000_000
MAX_PIECE_BYTES = 1024
BYTE_PIECES = tuple(f"<0x{value:02X}>" for value in range(256))
PAD = "[PAD]"
"""The name of the padding piece in Alpaca tokenizers."""


def read(path: str | Path) -> bytes:
    """The bytes of a `.model` file, or of `tokenizer.model` in a directory.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: the directory holds another kind of tokenizer, or the file is too large, or a pointer (see `files.refuse_pointer`).
    """
    directory, path = Path(path), file(path)
    if path != directory and not path.is_file():
        if (directory / "tokenizer.json").is_file():
            raise ValueError(
                f"{directory} has a tokenizer.json but no tokenizer.model: LLaMA with a SentencePiece tokenizer is the scope of this "
                "program. Put the tokenizer.model that it was made from beside it (transformers 5 leaves it out when it saves); other "
                "tokenizers are not supported"
            )
        raise FileNotFoundError(f"{directory} has no tokenizer.model")
    if path.suffix == ".json":
        raise ValueError(
            f"{path} is not a SentencePiece model: LLaMA with a SentencePiece tokenizer (tokenizer.model) is the scope of this program"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected a SentencePiece model")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, more than the {MAX_BYTES:,} of any SentencePiece model accepted here")
    files.refuse_pointer(path)
    return path.read_bytes()


def file(path: str | Path) -> Path:
    """The `.model` file meant by `path`: itself, or `tokenizer.model` in a directory."""
    path = Path(path)
    return path / "tokenizer.model" if path.is_dir() else path


def parse(serialized: bytes, *, where: str = "the tokenizer", specials: bool = True) -> Model:
    """The message in `serialized`, checked.

    Args:
      serialized: the bytes of a `.model` file.
      where: what the bytes are, for messages.
      specials: whether unknown, beginning and end must have LLaMA's ids; not for a model that only lends its pieces.

    Raises:
      ValueError: the bytes are no SentencePiece model, or `check` finds faults.
    """
    model = pb.ModelProto()
    try:
        model.ParseFromString(serialized)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ValueError(f"{where} is not a SentencePiece model, or was cut short or damaged on its way here: {error}") from None
    faults = check(model, specials=specials)
    if faults:
        raise ValueError(f"{where} is not a usable SentencePiece model: {'; '.join(faults)}")
    return model


def check(model: Model, *, specials: bool = True) -> list[str]:
    """The faults of a model, as sentences; none for a sound one."""
    count = len(model.pieces)
    if not 3 <= count <= MAX_PIECES:
        return [f"it has {count:,} pieces, allowed are 3 to {MAX_PIECES:,}"]
    # protobuf hands out bytes where a string field is not UTF-8.
    wild = sum(not isinstance(piece.piece, str) for piece in model.pieces)
    if wild or not isinstance(model.trainer_spec.unk_surface, str):
        return [f"it has {wild:,} pieces that are not UTF-8" if wild else "its surface of unknown characters is not UTF-8"]
    return [
        *(_special_faults(model) if specials else ()),
        *_piece_faults(model),
        *_byte_faults(model),
    ]


def require_llama(model: Model, *, where: str = "the base") -> None:
    """Refuses what is not LLaMA's kind: BPE, byte fallback, text taken as it is behind a dummy blank.

    Raises:
      ValueError: with everything that differs.
    """
    refuse_strange(llama_faults(model), where=where)


def refuse_strange(faults: Sequence[str], *, where: str) -> None:
    """`require_llama` on faults that were found before."""
    if faults:
        raise ValueError(f"{where} is not a LLaMA tokenizer (SentencePiece BPE with byte fallback): {'; '.join(faults)}")


def llama_faults(model: Model) -> list[str]:
    """What makes a model another kind than LLaMA's, as phrases; nothing for one of its kind."""
    faults = []
    if model.trainer_spec.model_type != BPE:
        faults.append(f"its type is {model_type(model)}, not bpe")
    if not model.trainer_spec.byte_fallback:
        faults.append("it has no byte fallback")
    normalizer = model.normalizer_spec
    if normalizer.precompiled_charsmap:
        faults.append(f"it rewrites text by the rules {normalizer.name!r}, LLaMA's takes text as it is (identity)")
    if normalizer.remove_extra_whitespaces:
        faults.append("it removes extra blanks")
    if not normalizer.add_dummy_prefix:
        faults.append("it adds no dummy blank in front of the text")
    if not normalizer.escape_whitespaces or model.trainer_spec.treat_whitespace_as_suffix:
        faults.append("it marks blanks in another way")
    return faults


def model_type(model: Model) -> str:
    """`bpe`, `unigram`, `word` or `char`."""
    return pb.TrainerSpec.ModelType.Name(model.trainer_spec.model_type).lower()


def pad_id(model: Model) -> int | None:
    """The id of the padding piece: the one that the model declares, or else the piece named `[PAD]`; None without either."""
    declared = model.trainer_spec.pad_id
    if 0 <= declared < len(model.pieces) and model.pieces[declared].type == CONTROL:
        return declared
    return next((number for number, piece in enumerate(model.pieces) if piece.piece == PAD), None)


def _special_faults(model: Model) -> list[str]:
    """LLaMA's ids: 0 unknown, 1 beginning, 2 end of a text, each of its own type and nobody else of type UNKNOWN."""
    faults = []
    for number, (name, kind) in enumerate((("unknown", UNKNOWN), ("beginning-of-text", CONTROL), ("end-of-text", CONTROL))):
        piece = model.pieces[number]
        if piece.type != kind:
            faults.append(
                f"id {number} must be the {name} piece of type {_type_name(kind)}, found {piece.piece!r} of type {_type_name(piece.type)}"
            )
    spec = model.trainer_spec
    for name, expected in (("unk_id", 0), ("bos_id", 1), ("eos_id", 2)):
        if getattr(spec, name) != expected:
            faults.append(f"{name} must be {expected}, found {getattr(spec, name)}")
    others = sum(piece.type == UNKNOWN for piece in model.pieces) - 1
    if others > 0:
        faults.append(f"{others:,} more pieces are of type UNKNOWN")
    return faults


def _piece_faults(model: Model) -> list[str]:
    """Every piece has a name of its own, a finite score and, where it is a control, a name that no single character matches."""
    faults = []
    seen: dict[str, int] = {}
    for number, piece in enumerate(model.pieces):
        name = piece.piece
        if not name or len(name.encode("utf-8")) > MAX_PIECE_BYTES:
            faults.append(f"piece {number:,} is {'empty' if not name else 'too long'}")
        if "\0" in name:
            faults.append(f"piece {number:,} ({name!r}) holds the character 0")
        if name in seen:
            faults.append(f"pieces {seen[name]:,} and {number:,} are both {name!r}")
        seen.setdefault(name, number)
        if not math.isfinite(piece.score):
            faults.append(f"piece {number:,} ({name!r}) has the score {piece.score}")
        if piece.type == CONTROL and len(name) == 1:
            # sentencepiece looks characters that no merge took up by name, whatever their type.
            faults.append(f"the control piece {number:,} is the single character {name!r}, which text could produce")
    return _some(faults)


def _byte_faults(model: Model) -> list[str]:
    """With byte fallback there are exactly 256 byte pieces, by their names; without it none."""
    found = [piece.piece for piece in model.pieces if piece.type == BYTE]
    expected = BYTE_PIECES if model.trainer_spec.byte_fallback else ()
    missing, strange = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    faults = []
    if missing:
        faults.append(f"{len(missing)} of 256 byte pieces are missing, first {missing[0]}")
    if strange:
        faults.append(f"{len(strange)} pieces of type BYTE should not be there, first {strange[0]!r}")
    return faults


def _some(faults: list[str], limit: int = 5) -> list[str]:
    """The first few faults and how many more there are."""
    return faults if len(faults) <= limit else [*faults[:limit], f"and {len(faults) - limit:,} faults more"]


def _type_name(kind: int) -> str:
    return str(Piece.Type.Name(kind))
