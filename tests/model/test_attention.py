"""Attention equals a plain loop, masks say who sees whom, and looking nowhere is no disaster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import llama_numpy
from zhllama_jax.model import attention

B, T, S, H = 2, 3, 5, 8
attend = jax.jit(attention.attend)


def inputs(num_heads: int, num_kv_heads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_heads)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return 2 * draw(B, T, num_heads, H), draw(B, S, num_kv_heads, H), draw(B, S, num_kv_heads, H)


def naive(q_BTNH: np.ndarray, k_BSKH: np.ndarray, v_BSKH: np.ndarray, mask_BTS: np.ndarray) -> np.ndarray:
    """Float64, one query at a time, over the visible keys only."""
    y_BTNH = np.zeros(q_BTNH.shape)
    group = q_BTNH.shape[2] // k_BSKH.shape[2]
    for b, t, n in np.ndindex(*q_BTNH.shape[:3]):
        seen_S = np.flatnonzero(mask_BTS[b, t])
        keys, values = k_BSKH[b, seen_S, n // group].astype(np.float64), v_BSKH[b, seen_S, n // group].astype(np.float64)
        y_BTNH[b, t, n] = llama_numpy.softmax(keys @ q_BTNH[b, t, n] / np.sqrt(H)) @ values
    return y_BTNH


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (6, 2), (3, 1)])
def test_attend_equals_a_plain_loop(num_heads: int, num_kv_heads: int) -> None:
    qkv = inputs(num_heads, num_kv_heads)
    mask_BTS = np.random.default_rng(1).random((B, T, S)) < 0.6
    mask_BTS[..., 0] = True
    np.testing.assert_allclose(attend(*qkv, mask_BTS), naive(*qkv, mask_BTS), atol=1e-6)


def test_one_mask_serves_all_rows() -> None:
    qkv = inputs(4, 2)
    mask_1TS = np.tril(np.ones((1, T, S), bool), k=1)
    np.testing.assert_allclose(attend(*qkv, mask_1TS), naive(*qkv, np.repeat(mask_1TS, B, axis=0)), atol=1e-6)


def test_hidden_keys_and_values_have_no_influence_and_no_gradient() -> None:
    q_BTNH, k_BSKH, v_BSKH = map(jnp.asarray, inputs(4, 2))
    mask_BTS = np.ones((B, T, S), bool)
    mask_BTS[..., 3:] = False
    plain = attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
    changed = attend(q_BTNH, k_BSKH.at[:, 3:].set(1e4), v_BSKH.at[:, 3:].set(-1e4), mask_BTS)
    np.testing.assert_array_equal(plain, changed)
    square = lambda k_BSKH, v_BSKH: (attention.attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS) ** 2).sum()  # noqa: E731
    dk_BSKH, dv_BSKH = jax.jit(jax.grad(square, argnums=(0, 1)))(k_BSKH, v_BSKH)
    assert not dk_BSKH[:, 3:].any() and not dv_BSKH[:, 3:].any()
    assert dk_BSKH[:, :3].any() and dv_BSKH[:, :3].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_query_that_may_look_nowhere_is_finite_with_finite_gradients(dtype: jnp.dtype) -> None:
    qkv = [jnp.asarray(x, dtype) for x in inputs(4, 2)]
    mask_BTS = np.ones((B, T, S), bool)
    mask_BTS[0, 1] = False
    y_BTNH, pull_back = jax.jit(lambda *qkv: jax.vjp(lambda *qkv: attention.attend(*qkv, mask_BTS), *qkv))(*qkv)
    assert y_BTNH.dtype == dtype
    for array in (y_BTNH, *jax.jit(pull_back)(jnp.ones_like(y_BTNH))):
        assert np.isfinite(array.astype(jnp.float32)).all()


def test_scores_of_bfloat16_are_float32() -> None:
    """Scores of 100 and 100.25, which are one number in bfloat16: the weights are 1 / (1 + e^±0.25)."""
    rows = np.zeros((3, 16))
    rows[:, :2] = [[40, 4], [10, 0], [10, 0.25]]
    q_BTNH, k_BSKH = (jnp.asarray(part[None, :, None], jnp.bfloat16) for part in (rows[:1], rows[1:]))
    v_BSKH = jnp.eye(2, 16, dtype=jnp.bfloat16)[None, :, None]
    y_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, np.ones((1, 1, 2), bool))
    np.testing.assert_allclose(y_BTNH[0, 0, 0, :2].astype(jnp.float32), [1 / (1 + np.e**0.25), 1 / (1 + np.e**-0.25)], rtol=2**-8)


def test_queries_of_bfloat16_are_not_rounded_by_their_scale() -> None:
    """With the heads of 128 that LLaMA has, 1/√H is no power of two: scaling bfloat16 queries would round every one."""
    rng = np.random.default_rng(0)
    q_BTNH, k_BSKH = (jnp.asarray(4 * rng.standard_normal(shape), jnp.bfloat16) for shape in ((1, 64, 1, 128), (1, 4, 1, 128)))
    v_BSKH = jnp.eye(4, 128, dtype=jnp.float32)[None, :, None]
    weight_TS = attend(q_BTNH, k_BSKH, v_BSKH, np.ones((1, 1, 4), bool))[0, :, 0, :4]
    score_TS = np.asarray(q_BTNH, np.float64)[0, :, 0] @ np.asarray(k_BSKH, np.float64)[0, :, 0].T / np.sqrt(128)
    np.testing.assert_allclose(weight_TS, np.stack([llama_numpy.softmax(score_S) for score_S in score_TS]), atol=1e-5)


def test_causal_mask_is_the_lower_triangle() -> None:
    np.testing.assert_array_equal(attention.causal_mask(4), np.tril(np.ones((4, 4), bool))[None])


def test_segment_mask_is_the_one_drawn_in_its_docstring() -> None:
    expected = """
        1 . . . .
        1 1 . . .
        . . 1 . .
        . . 1 1 .
        . . . . 1"""
    assert expected in attention.segment_mask.__doc__
    drawn = np.array([line.split() for line in expected.split("\n")[1:]]) == "1"
    np.testing.assert_array_equal(attention.segment_mask(jnp.array([[1, 1, 2, 2, 0]]))[0], drawn)


def test_segment_mask_of_one_segment_is_causal() -> None:
    np.testing.assert_array_equal(attention.segment_mask(jnp.ones((2, 4), jnp.int32)), np.repeat(attention.causal_mask(4), 2, axis=0))


def test_cache_mask_shows_filled_real_and_not_later_slots() -> None:
    # Row 0 has a padding slot on the left; slots 0 to 2 were filled before, 3 and 4 hold the two new tokens, 5 is free.
    valid_BS = jnp.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]], bool)
    expected = [[[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]]
    np.testing.assert_array_equal(attention.cache_mask(valid_BS, jnp.int32(3), 2), np.array(expected, bool))
