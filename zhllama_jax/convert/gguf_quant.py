"""The number formats of GGUF: what a tensor is stored as, to bytes and back.

F32, F16 and BF16 are plain numbers. Q8_0 and Q4_0 cut each row into blocks of 32 with one float16 scale d in front:

    Q8_0   d = max|x| / 127                       x ≈ d · q,        q in -127 … 127, a byte each      34 bytes, 8.5 bits a number
    Q4_0   d = (x of the largest |x|) / -8        x ≈ d · (q - 8),  q in 0 … 15, two in a byte        18 bytes, 4.5 bits a number

In Q4_0 byte i holds number i in its low half and number i + 16 in its high half. The quotients are taken by the float32 scale, before it
is rounded; halves round away from zero in Q8_0 and up in Q4_0. So the bytes are those of llama.cpp's reference code, and of its Python
library. Numbers are treated in pieces that stay in a processor's cache, on all processors; no temporary is larger than a piece.

What is stored how follows llama.cpp's own tools: vectors (norms) always as F32, matrices in the type asked for, and as F16 where a row is
no multiple of 32. The head is what `llama-quantize` spares most: under Q4_0 the head (or the embedding that is the head too) becomes Q6_K
there and Q8_0 here, the next better one of our types; an embedding of its own is Q4_0 like any matrix. What those tools make beyond
these types is read (`gguf_others`), not written.
"""

import os
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import NamedTuple

import ml_dtypes
import numpy as np

from zhllama_jax.convert import gguf_others

BLOCK = 32
_PIECE = 1 << 17
"""Numbers at a time: half a megabyte of float32."""

_Q8_0 = np.dtype([("scale", "<f2"), ("quants", "i1", BLOCK)])
_Q4_0 = np.dtype([("scale", "<f2"), ("quants", "u1", BLOCK // 2)])


class Type(NamedTuple):
    """How numbers are stored.

    Attributes:
      number: the type's number in a file.
      block: numbers that are stored together; a row is a multiple of it.
      size: bytes of a block.
    """

    number: int
    block: int
    size: int


# Every type that a file may hold, so that its layout can be checked; which of them are read and written say `READABLE` and `WRITABLE`.
TYPES: Mapping[str, Type] = {
    "F32": Type(0, 1, 4),
    "F16": Type(1, 1, 2),
    "Q4_0": Type(2, 32, 18),
    "Q4_1": Type(3, 32, 20),
    "Q5_0": Type(6, 32, 22),
    "Q5_1": Type(7, 32, 24),
    "Q8_0": Type(8, 32, 34),
    "Q8_1": Type(9, 32, 40),
    "Q2_K": Type(10, 256, 84),
    "Q3_K": Type(11, 256, 110),
    "Q4_K": Type(12, 256, 144),
    "Q5_K": Type(13, 256, 176),
    "Q6_K": Type(14, 256, 210),
    "Q8_K": Type(15, 256, 292),
    "IQ2_XXS": Type(16, 256, 66),
    "IQ2_XS": Type(17, 256, 74),
    "IQ3_XXS": Type(18, 256, 98),
    "IQ1_S": Type(19, 256, 50),
    "IQ4_NL": Type(20, 32, 18),
    "IQ3_S": Type(21, 256, 110),
    "IQ2_S": Type(22, 256, 82),
    "IQ4_XS": Type(23, 256, 136),
    "I8": Type(24, 1, 1),
    "I16": Type(25, 1, 2),
    "I32": Type(26, 1, 4),
    "I64": Type(27, 1, 8),
    "F64": Type(28, 1, 8),
    "IQ1_M": Type(29, 256, 56),
    "BF16": Type(30, 1, 2),
    "TQ1_0": Type(34, 256, 54),
    "TQ2_0": Type(35, 256, 66),
    "MXFP4": Type(39, 32, 17),
    "NVFP4": Type(40, 64, 36),
    "Q1_0": Type(41, 128, 18),
}
PLAIN: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
WRITABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0")


def check_writable(dtype: str) -> None:
    """Refuses a type that is not written here.

    Raises:
      ValueError: it is none of `WRITABLE`.
    """
    if dtype not in WRITABLE:
        raise ValueError(
            f"the type of a GGUF file must be one of {', '.join(WRITABLE)}, got {dtype!r}; llama.cpp's own llama-quantize makes all others "
            "from a file in F16"
        )


def storage(shape: tuple[int, ...], dtype: str, *, head: bool = False) -> str:
    """The type in which a tensor of a model in `dtype` is stored; see the module.

    Args:
      shape: of the tensor, the row's length last.
      dtype: one of `WRITABLE`.
      head: whether its rows make the logits.
    """
    if len(shape) < 2:
        return "F32"
    if dtype == "Q4_0" and head:
        dtype = "Q8_0"
    return dtype if shape[-1] % TYPES[dtype].block == 0 else "F16"


def num_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes that a tensor takes; the row's length, the last of `shape`, must be a multiple of the type's block."""
    _, block, size = TYPES[dtype]
    count = 1
    for length in shape:
        count *= length
    return count // block * size


def encode(array: np.ndarray, dtype: str, *, name: str = "a tensor") -> np.ndarray:
    """The bytes of a tensor.

    Args:
      array: float32, float16 or bfloat16, [..., I] with I a multiple of the type's block.
      dtype: one of `WRITABLE`.
      name: for messages.

    Returns:
      uint8, flat.

    Raises:
      ValueError: a number is not finite, or float16 (of the scales too) cannot hold one.
    """
    array = np.asarray(array, order="C")
    if dtype in PLAIN:
        return _plain(array.reshape(-1), PLAIN[dtype], name)
    form, quantize = (_Q8_0, _quantize_8) if dtype == "Q8_0" else (_Q4_0, _quantize_4)
    blocks_BE = array.reshape(-1, BLOCK)
    result_B = np.empty(len(blocks_BE), form)

    def work(piece: slice) -> None:
        numbers_BE = blocks_BE[piece].astype(np.float32, copy=False)
        # An infinite scale stands for numbers that are too large or infinite, a scale that is none for numbers that are none.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            quantize(numbers_BE, result_B[piece])
        if not np.isfinite(result_B[piece]["scale"]).all():
            raise ValueError(_beyond(name, numbers_BE, dtype))

    _in_pieces(work, len(blocks_BE), _PIECE // BLOCK)
    return result_B.view(np.uint8)


def decode(octets: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor from its bytes: F32, F16 and BF16 as they are, without a copy; the quantised types as float32.

    Args:
      octets: uint8, `num_bytes` of them.
      dtype: one of `READABLE`.
      shape: the row's length last.
    """
    if dtype in PLAIN:
        return octets.view(PLAIN[dtype]).reshape(shape)
    form, dequantize = READABLE[dtype]
    blocks_B = octets.view(form)
    block = TYPES[dtype].block
    result_BE = np.empty((len(blocks_B), block), np.float32)
    _in_pieces(lambda piece: dequantize(blocks_B[piece], result_BE[piece]), len(blocks_B), _PIECE // block)
    return result_BE.reshape(shape)


def _in_pieces(work: Callable[[slice], None], count: int, step: int) -> None:
    """Does the work on all of `count` things, `step` at a time; NumPy lets go of the interpreter's lock, so that threads help."""
    pieces = [slice(start, start + step) for start in range(0, count, step)]
    if len(pieces) == 1:
        work(pieces[0])
        return
    with futures.ThreadPoolExecutor(min(len(pieces), os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, pieces):
            pass


def _plain(numbers: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The bytes of numbers in a plain type, rounded to nearest even."""
    result = numbers if numbers.dtype == dtype else np.empty(len(numbers), dtype)

    def work(piece: slice) -> None:
        if result is not numbers:
            with np.errstate(over="ignore"):
                result[piece] = numbers[piece]
        if not np.isfinite(result[piece]).all():
            raise ValueError(_beyond(name, numbers[piece], next(known for known, plain in PLAIN.items() if plain == dtype)))

    _in_pieces(work, len(numbers), _PIECE)
    return result.view(np.uint8)


def _beyond(name: str, numbers: np.ndarray, dtype: str) -> str:
    """What is wrong with numbers that do not fit a type."""
    numbers = numbers.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        return f"{name} holds numbers that are not finite: no type of GGUF is right for them"
    return f"{name} holds numbers up to {np.abs(numbers).max():g}, beyond {dtype}'s range: store the model as BF16 or F32"


def _reciprocal(scale_B: np.ndarray) -> np.ndarray:
    """1 / scale, and 0 where that is beyond float32: such a block is stored as zeros."""
    inverse_B = 1 / scale_B
    return np.where(np.isinf(inverse_B), np.float32(0), inverse_B)


def _quantize_8(numbers_BE: np.ndarray, blocks_B: np.ndarray) -> None:
    scale_B = np.abs(numbers_BE).max(axis=1) / np.float32(127)
    quotient_BE = numbers_BE * _reciprocal(scale_B)[:, None]
    whole_BE = np.trunc(quotient_BE)
    # Twice what is left of the point: its own whole part is the step away from zero. Adding a half first would round 0.49999997 up.
    quotient_BE -= whole_BE
    quotient_BE *= 2
    whole_BE += np.trunc(quotient_BE, out=quotient_BE)
    blocks_B["scale"] = scale_B
    blocks_B["quants"] = whole_BE.astype(np.int8)


def _quantize_4(numbers_BE: np.ndarray, blocks_B: np.ndarray) -> None:
    largest_B1 = np.abs(numbers_BE).argmax(axis=1, keepdims=True)
    scale_B = np.take_along_axis(numbers_BE, largest_B1, axis=1)[:, 0] / np.float32(-8)
    quotient_BE = numbers_BE * _reciprocal(scale_B)[:, None]
    quotient_BE += np.float32(8.5)
    # All are from 0.5 to 16.5, so the cast cuts them off as `trunc` would.
    quants_BE = np.minimum(quotient_BE.astype(np.uint8), np.uint8(15))
    blocks_B["scale"] = scale_B
    blocks_B["quants"] = quants_BE[:, : BLOCK // 2] | quants_BE[:, BLOCK // 2 :] << np.uint8(4)


def _dequantize_8(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    np.multiply(blocks_B["quants"], blocks_B["scale"].astype(np.float32)[:, None], out=numbers_BE)


def _dequantize_4(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    low_BE, high_BE = blocks_B["quants"] & np.uint8(15), blocks_B["quants"] >> np.uint8(4)
    scale_B1 = blocks_B["scale"].astype(np.float32)[:, None]
    for half_BE, target_BE in ((low_BE, numbers_BE[:, : BLOCK // 2]), (high_BE, numbers_BE[:, BLOCK // 2 :])):
        np.multiply(half_BE.view(np.int8) - np.int8(8), scale_B1, out=target_BE)


READABLE: Mapping[str, tuple[np.dtype, Callable[[np.ndarray, np.ndarray], None]]] = {
    "Q8_0": (_Q8_0, _dequantize_8),
    "Q4_0": (_Q4_0, _dequantize_4),
    **gguf_others.READABLE,
}
"""The quantised types that are read: form of a block, and what turns blocks into numbers."""
