"""The cache is written where the cursor stands and nowhere else."""

import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.model import cache as cache_lib
from zhllama_jax.model import config as config_lib

CONFIG = config_lib.named("micro", vocab_size=100)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_empty_cache_has_room_for_every_layer_row_and_slot(dtype: jnp.dtype) -> None:
    cache = cache_lib.init(CONFIG, 3, 7, dtype)
    assert cache.k_LBSKH.shape == cache.v_LBSKH.shape == (2, 3, 7, 2, 8)
    assert cache.k_LBSKH.dtype == cache.v_LBSKH.dtype == dtype
    assert cache.valid_BS.shape == (3, 7) and not cache.valid_BS.any()
    assert cache.cursor == 0 and cache.cursor.dtype == jnp.int32 and cache.cursor.shape == ()


def test_mark_notes_the_slots_from_the_cursor_on_and_leaves_the_cursor() -> None:
    cache = cache_lib.init(CONFIG, 2, 5)._replace(cursor=jnp.int32(2), valid_BS=jnp.array([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0]], bool))
    marked = cache_lib.mark(cache, jnp.array([[True, True], [False, True]]))
    np.testing.assert_array_equal(marked.valid_BS, np.array([[0, 1, 1, 1, 0], [1, 1, 0, 1, 0]], bool))
    assert marked.cursor == 2


def test_write_fills_one_layer_from_the_cursor_on_and_returns_it() -> None:
    before_LBSKH = np.random.default_rng(0).standard_normal((3, 2, 6, 2, 8)).astype(np.float32)
    new_BTKH = np.full((2, 2, 2, 8), 9, np.float32)
    after_LBSKH, layer_BSKH = cache_lib.write(jnp.asarray(before_LBSKH), jnp.asarray(new_BTKH), jnp.int32(1), jnp.int32(3))
    expected = before_LBSKH.copy()
    expected[1, :, 3:5] = 9
    np.testing.assert_array_equal(after_LBSKH, expected)
    np.testing.assert_array_equal(layer_BSKH, expected[1])


def test_write_keeps_the_dtype_of_the_cache() -> None:
    block_LBSKH = jnp.zeros((1, 1, 4, 2, 8), jnp.bfloat16)
    after_LBSKH, layer_BSKH = cache_lib.write(block_LBSKH, jnp.ones((1, 1, 2, 8), jnp.float32), jnp.int32(0), jnp.int32(0))
    assert after_LBSKH.dtype == layer_BSKH.dtype == jnp.bfloat16
