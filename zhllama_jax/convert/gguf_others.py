"""Block formats of GGUF that llama.cpp's own tools make and this package only reads.

    Q4_1 Q5_1          x = d · q + m                  32 numbers, q of 4 or 5 bits
    Q5_0               x = d · (q - 16)               32 numbers, q of 5 bits
    Q4_K Q5_K          x = (d · s) · q - (d' · s')    256 numbers in eight parts, whose s and s' are of 6 bits
    Q6_K               x = (d · s) · (q - 32)         256 numbers in sixteen parts, whose s are of 8 bits

Low bits of q lie in halves of bytes: in a run of 2n numbers byte i holds number i in its low half and number i + n in its high half. The
products are taken in llama.cpp's order, so that the numbers are the same to the last bit.
"""

from collections.abc import Callable, Mapping

import numpy as np

_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("low", "u1", 16)])
_Q5_0 = np.dtype([("d", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
_Q5_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("low", "u1", 16)])
_Q4_K = np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("low", "u1", 128)])
_Q5_K = np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("high", "u1", 32), ("low", "u1", 128)])
_Q6_K = np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])


def _wide(half_B: np.ndarray) -> np.ndarray:
    """Scales of blocks as a float32 column."""
    return half_B.astype(np.float32)[:, None]


def _nibbles(octets_BN: np.ndarray, run: int) -> np.ndarray:
    """The numbers [B, 2N] of 4 bits in bytes [B, N]: of each `run` bytes first the low halves, then the high ones."""
    parts_BPR = octets_BN.reshape(len(octets_BN), -1, run)
    return np.stack([parts_BPR & np.uint8(15), parts_BPR >> np.uint8(4)], axis=2).reshape(len(octets_BN), -1)


def _fifth_bits(octets_B4: np.ndarray) -> np.ndarray:
    """Bit i of four bytes, moved to where it is worth 16, for the 32 numbers of a block."""
    return np.unpackbits(octets_B4, axis=1, bitorder="little") << np.uint8(4)


def _dequantize_4_1(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    np.multiply(_nibbles(blocks_B["low"], 16), _wide(blocks_B["d"]), out=numbers_BE)
    numbers_BE += _wide(blocks_B["m"])


def _dequantize_5_0(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    quants_BE = (_nibbles(blocks_B["low"], 16) | _fifth_bits(blocks_B["high"])).view(np.int8) - np.int8(16)
    np.multiply(quants_BE, _wide(blocks_B["d"]), out=numbers_BE)


def _dequantize_5_1(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    np.multiply(_nibbles(blocks_B["low"], 16) | _fifth_bits(blocks_B["high"]), _wide(blocks_B["d"]), out=numbers_BE)
    numbers_BE += _wide(blocks_B["m"])


def _six_bits(packed_B12: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight s and eight s' [B, 8] of blocks.

    The first four of each are the low 6 bits of bytes 0 to 3 and 4 to 7; of the others the low 4 bits are the halves of bytes 8 to 11, and
    the high 2 bits what those bytes have left.
    """
    first_B4, second_B4, third_B4 = packed_B12[:, :4], packed_B12[:, 4:8], packed_B12[:, 8:]
    low, four, six = np.uint8(63), np.uint8(4), np.uint8(6)
    scales_B8 = np.concatenate([first_B4 & low, (third_B4 & np.uint8(15)) | (first_B4 >> six << four)], axis=1)
    minima_B8 = np.concatenate([second_B4 & low, (third_B4 >> four) | (second_B4 >> six << four)], axis=1)
    return scales_B8, minima_B8


def _eight_parts(blocks_B: np.ndarray, quants_BE: np.ndarray, numbers_BE: np.ndarray) -> None:
    scales_B8, minima_B8 = _six_bits(blocks_B["scales"])
    parts_B8P = numbers_BE.reshape(len(blocks_B), 8, 32)
    np.multiply(quants_BE.reshape(parts_B8P.shape), (_wide(blocks_B["d"]) * scales_B8)[:, :, None], out=parts_B8P)
    parts_B8P -= (_wide(blocks_B["m"]) * minima_B8)[:, :, None]


def _dequantize_4_k(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    _eight_parts(blocks_B, _nibbles(blocks_B["low"], 32), numbers_BE)


def _dequantize_5_k(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    # Bit p of byte i belongs to number i of part p.
    bits_B8P = (blocks_B["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[None, :, None]) & np.uint8(1)
    quants_BE = _nibbles(blocks_B["low"], 32) | (bits_B8P << np.uint8(4)).reshape(len(blocks_B), -1)
    _eight_parts(blocks_B, quants_BE, numbers_BE)


def _dequantize_6_k(blocks_B: np.ndarray, numbers_BE: np.ndarray) -> None:
    # Two bits each: of 32 bytes the lowest for numbers 0 to 31 of a half, the next for 32 to 63, and so on.
    high_B24P = (blocks_B["high"].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[None, None, :, None]) & np.uint8(3)
    quants_BE = _nibbles(blocks_B["low"], 64) | (high_B24P << np.uint8(4)).reshape(len(blocks_B), -1)
    parts_BPE = numbers_BE.reshape(len(blocks_B), 16, 16)
    scales_BP = _wide(blocks_B["d"]) * blocks_B["scales"]
    np.multiply((quants_BE.view(np.int8) - np.int8(32)).reshape(parts_BPE.shape), scales_BP[:, :, None], out=parts_BPE)


READABLE: Mapping[str, tuple[np.dtype, Callable[[np.ndarray, np.ndarray], None]]] = {
    "Q4_1": (_Q4_1, _dequantize_4_1),
    "Q5_0": (_Q5_0, _dequantize_5_0),
    "Q5_1": (_Q5_1, _dequantize_5_1),
    "Q4_K": (_Q4_K, _dequantize_4_k),
    "Q5_K": (_Q5_K, _dequantize_5_k),
    "Q6_K": (_Q6_K, _dequantize_6_k),
}
"""Form of a block, and what turns blocks [B] into numbers [B, E]."""
