"""RoPE turns by position in float32, in the half layout, so that scores depend on distances only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import llama_numpy
from zhllama_jax.model import rope

THETA = 10_000.0


@functools.partial(jax.jit, static_argnames="theta")
def turned(x_BTNH: np.ndarray, positions_BT: np.ndarray, theta: float = THETA) -> jax.Array:
    return rope.apply(jnp.asarray(x_BTNH), rope.rotation(jnp.asarray(positions_BT), head_dim=x_BTNH.shape[-1], theta=theta))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("theta", [THETA, 500_000.0])
def test_equals_complex_multiplication(theta: float) -> None:
    x_BTNH = normal(1, 4, 3, 16)
    positions_BT = np.array([[0, 1, 7, 2047]])
    expected = np.zeros(x_BTNH.shape)
    for _, t, n in np.ndindex(*x_BTNH.shape[:3]):
        expected[0, t, n] = llama_numpy.rotate(x_BTNH[0, t, n], positions_BT[0, t], theta)
    # A float32 angle of 2047 radians is known to 1.2e-4 at best.
    np.testing.assert_allclose(turned(x_BTNH, positions_BT, theta)[:, :3], expected[:, :3], atol=2e-6)
    np.testing.assert_allclose(turned(x_BTNH, positions_BT, theta), expected, atol=4e-4)


def test_scores_depend_on_the_difference_of_positions_only() -> None:
    q_H, k_H = normal(2, 64)
    near_TS = [[4, 0], [5, 1], [104, 100], [1004, 1000]]
    far_TS = [[9, 0], [1009, 1000]]

    def scores(pairs: list[list[int]]) -> np.ndarray:
        positions_BT = np.array(pairs)
        x_BTNH = np.broadcast_to(np.stack([q_H, k_H])[None, :, None], (len(pairs), 2, 1, 64))
        rotated = np.asarray(turned(x_BTNH, positions_BT))
        return np.einsum("BH,BH->B", rotated[:, 0, 0], rotated[:, 1, 0])

    near, far = scores(near_TS), scores(far_TS)
    np.testing.assert_allclose(near, near[0], atol=1e-3)
    np.testing.assert_allclose(far, far[0], atol=1e-3)
    assert abs(near[0] - far[0]) > 0.1


def test_position_zero_is_the_identity_and_no_position_changes_a_length() -> None:
    x_BTNH = normal(1, 3, 2, 8)
    np.testing.assert_array_equal(turned(x_BTNH, np.zeros((1, 3), np.int32)), x_BTNH)
    lengths = np.linalg.norm(turned(x_BTNH, np.array([[3, 500, 2000]])), axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(x_BTNH, axis=-1), rtol=1e-6)


def test_equals_transformers_half_layout() -> None:
    torch = pytest.importorskip("torch")
    modeling_llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    q_BTNH, k_BTKH = normal(2, 5, 4, 16), normal(2, 5, 2, 16)
    positions_BT = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 0, 1]])
    frequency_h = 1.0 / THETA ** (np.arange(0, 16, 2) / 16)
    angle_BTH = np.concatenate([positions_BT[..., None] * frequency_h] * 2, axis=-1).astype(np.float32)
    theirs = modeling_llama.apply_rotary_pos_emb(
        *(torch.from_numpy(x).transpose(1, 2) for x in (q_BTNH, k_BTKH)),
        torch.from_numpy(np.cos(angle_BTH)),
        torch.from_numpy(np.sin(angle_BTH)),
    )
    for ours, other in zip((turned(q_BTNH, positions_BT), turned(k_BTKH, positions_BT)), theirs, strict=True):
        np.testing.assert_allclose(ours, other.transpose(1, 2).numpy(), atol=2e-6)


def test_bfloat16_is_turned_in_float32_and_rounded_once() -> None:
    x_BTNH = jnp.asarray(normal(1, 6, 2, 32), jnp.bfloat16)
    positions_BT = np.array([[0, 1, 255, 1024, 2040, 2041]])
    ours = turned(x_BTNH, positions_BT)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, turned(x_BTNH.astype(jnp.float32), positions_BT).astype(jnp.bfloat16))
    turn = rope.rotation(jnp.asarray(positions_BT), head_dim=32, theta=THETA)
    assert turn.cos_BTh.dtype == turn.sin_BTh.dtype == jnp.float32
    # In bfloat16 2040 and 2041 are the same number.
    assert np.abs(turn.cos_BTh[0, -1] - turn.cos_BTh[0, -2]).max() > 0.1
