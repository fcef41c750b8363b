"""Numbers from blocks that llama.cpp's tools make are, to the last bit, the library's."""

import numpy as np
import pytest

from zhllama_jax.convert import gguf_others, gguf_quant

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("dtype", gguf_others.READABLE)
def test_numbers_are_the_librarys(dtype: str) -> None:
    """From random bits with scales that are numbers: every field of a block matters. More blocks than are treated at a time."""
    form, _ = gguf_others.READABLE[dtype]
    kind = gguf_quant.TYPES[dtype]
    assert form.itemsize == kind.size
    rng = np.random.default_rng(0)
    count = 1.5 * gguf_quant._PIECE / kind.block
    rows_RB = rng.integers(0, 256, (3, int(count) // 3 * kind.size), np.uint8)
    blocks = rows_RB.reshape(-1).view(form)
    for field in {"d", "m"} & set(form.names or ()):
        blocks[field] = rng.normal(size=len(blocks)).astype(np.float16)
    numbers = gguf_quant.decode(rows_RB.reshape(-1), dtype, (3, rows_RB.shape[1] // kind.size * kind.block))
    np.testing.assert_array_equal(numbers, gguf.quants.dequantize(rows_RB, gguf.GGMLQuantizationType[dtype]))


def test_nothing_is_said_to_be_written_that_is_only_read() -> None:
    assert not set(gguf_quant.WRITABLE) & gguf_others.READABLE.keys()
