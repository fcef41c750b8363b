"""Bytes and numbers are those of llama.cpp's own Python library."""

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zhllama_jax.convert import gguf_quant

gguf = pytest.importorskip("gguf")

WIDE = 3 * gguf_quant._PIECE
KINDS = gguf_quant.WRITABLE


def theirs(array: np.ndarray, dtype: str) -> np.ndarray:
    """The library's bytes of an array."""
    return np.ascontiguousarray(gguf.quants.quantize(array, gguf.GGMLQuantizationType[dtype])).view(np.uint8).reshape(-1)


def rows(case: str) -> np.ndarray:
    """Float32 rows that are hard in some way."""
    rng = np.random.default_rng(0)
    if case == "normal":
        return rng.standard_normal((7, 96)).astype(np.float32)
    if case == "many":
        return (0.02 * rng.standard_normal((3, WIDE // 2 + 32))).astype(np.float32)
    if case == "zeros":
        return np.zeros((2, 64), np.float32) * np.array([[1], [-1]], np.float32)
    if case == "one block of zeros":
        return np.concatenate([np.zeros((3, 32)), rng.standard_normal((3, 32))], axis=1).astype(np.float32)
    if case == "ties":
        # Quotients at and beside halves; the largest number once positive and once negative.
        halves = np.arange(-15.5, 16.5, 1, dtype=np.float32)
        near = np.stack([halves, np.nextafter(halves, np.float32(99)), np.nextafter(halves, np.float32(-99))])
        near[:, -1], near[1, 0] = 127, -127
        return near
    if case == "equal and opposite":
        return np.tile(np.array([1, -1, -1, 1], np.float32), (4, 8)) * np.array([[1], [-1], [3], [1e-6]], np.float32)
    if case == "wide":
        return (np.float32(10) ** rng.uniform(-30, 4, (5, 128))).astype(np.float32) * rng.choice([-1, 1], (5, 128)).astype(np.float32)
    assert case == "just above nothing", case
    return np.full((1, 32), 1e-30, np.float32)


CASES = ("normal", "many", "zeros", "one block of zeros", "ties", "equal and opposite", "wide", "just above nothing")


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_bytes_and_numbers_are_the_librarys(case: str, dtype: str) -> None:
    array = rows(case)
    octets = gguf_quant.encode(array, dtype)
    np.testing.assert_array_equal(octets, theirs(array, dtype))
    assert octets.size == gguf_quant.num_bytes(array.shape, dtype)
    numbers = gguf_quant.decode(octets, dtype, array.shape)
    expected = gguf.quants.dequantize(octets.reshape(len(array), -1), gguf.GGMLQuantizationType[dtype])
    np.testing.assert_array_equal(numbers.astype(np.float32), expected)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
def test_narrow_numbers_are_taken_as_their_float32(stored: Any, dtype: str) -> None:
    narrow = rows("normal").astype(stored)
    np.testing.assert_array_equal(gguf_quant.encode(narrow, dtype), theirs(narrow.astype(np.float32), dtype))


def test_blocks_too_small_for_a_scale_are_zeros() -> None:
    """The scale's reciprocal is beyond float32, where the library divides by nothing."""
    tiny = np.full((1, 32), 1e-42, np.float32)
    for dtype in ("Q8_0", "Q4_0"):
        assert not gguf_quant.decode(gguf_quant.encode(tiny, dtype), dtype, tiny.shape).any()


@pytest.mark.parametrize(("dtype", "steps"), [("Q8_0", 127), ("Q4_0", 8)])
def test_numbers_come_back_within_half_a_step(dtype: str, steps: int) -> None:
    array = rows("normal")
    back = gguf_quant.decode(gguf_quant.encode(array, dtype), dtype, array.shape)
    blocks, again = array.reshape(-1, 32), back.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / steps
    # Q4_0 has eight steps on the side of the largest number and seven on the other: there the last may be missed by a whole one.
    assert (np.abs(blocks - again) <= (0.51 if dtype == "Q8_0" else 1.01) * step).all()


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_name(bad: float, dtype: str) -> None:
    array = rows("many")
    array[-1, -3] = bad
    with pytest.raises(ValueError, match="lm_head holds numbers that are not finite"):
        gguf_quant.encode(array, dtype, name="lm_head")


@pytest.mark.parametrize(("dtype", "large"), [("F16", 7e4), ("Q8_0", 1e7), ("Q4_0", 1e6)])
def test_numbers_beyond_a_type_are_refused_with_the_largest(dtype: str, large: float) -> None:
    array = rows("many")
    array[0, 0] = -large
    message = f"a holds numbers up to {large:g}, beyond {dtype}'s range: store the model as BF16 or F32"
    with pytest.raises(ValueError, match=re.escape(message)):
        gguf_quant.encode(array, dtype, name="a")
    gguf_quant.encode(array, "BF16")


def test_plain_numbers_are_not_copied_on_the_way_in() -> None:
    array = rows("normal")
    octets = gguf_quant.encode(array, "F32")
    assert np.shares_memory(octets, array)
    assert np.shares_memory(gguf_quant.decode(octets, "F32", array.shape), array)


def test_the_table_of_types_is_the_librarys() -> None:
    known = {kind.name: (kind.value, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {name: tuple(kind) for name, kind in gguf_quant.TYPES.items() if name in known} == {
        name: said for name, said in known.items() if name in gguf_quant.TYPES
    }
    assert known.keys() >= {"F32", *KINDS}


@pytest.mark.parametrize(
    ("shape", "dtype", "head", "expected"),
    [
        ((64,), "Q4_0", False, "F32"),
        ((64,), "F16", False, "F32"),
        ((8, 64), "BF16", False, "BF16"),
        ((8, 64), "Q4_0", False, "Q4_0"),
        ((8, 64), "Q4_0", True, "Q8_0"),
        ((8, 64), "Q8_0", True, "Q8_0"),
        ((8, 40), "Q4_0", False, "F16"),
        ((8, 40), "Q8_0", True, "F16"),
        ((8, 40), "F32", True, "F32"),
    ],
)
def test_what_is_stored_how(shape: tuple[int, ...], dtype: str, head: bool, expected: str) -> None:
    assert gguf_quant.storage(shape, dtype, head=head) == expected


def test_other_types_are_refused_with_the_tool_that_makes_them() -> None:
    with pytest.raises(ValueError, match=r"F32, F16, BF16, Q8_0, Q4_0, got 'Q4_K_M'; llama\.cpp's own llama-quantize"):
        gguf_quant.check_writable("Q4_K_M")
