"""RoPE turns by position in float32, in the half layout, so that scores depend on distances only; scaled, it turns as in transformers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import llama_numpy, transformers_llama
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope, rope_config

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


SIZES = {"vocab_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}

# As released with LLaMA 3.1 and 3.2, Yarn-Llama-2, DeepSeek-like yarn, vicuna-16k; then settings that reach corners of the formulas.
RELEASED = {
    "llama 3.1": (128, 500_000.0, 131_072, rope_config.RopeScaling("llama3", 8, 8192, 1, 4)),
    "llama 3.2": (64, 500_000.0, 131_072, rope_config.RopeScaling("llama3", 32, 8192, 1, 4)),
    "yarn 64k": (128, 10_000.0, 65_536, rope_config.RopeScaling("yarn", 16, 4096)),
    "yarn with mscale": (64, 10_000.0, 163_840, rope_config.RopeScaling("yarn", 40, 4096, mscale=1.0, mscale_all_dim=0.7)),
    "linear": (128, 10_000.0, 4096, rope_config.RopeScaling("linear", 4)),
    "dynamic": (128, 10_000.0, 2048, rope_config.RopeScaling("dynamic", 4)),
    "yarn whose ends meet": (64, 10_000.0, 4096, rope_config.RopeScaling("yarn", 4, 4096, beta_fast=3, beta_slow=3, truncate=False)),
    "yarn of a short text": (64, 10_000.0, 8, rope_config.RopeScaling("yarn", 2, 4)),
    "yarn that keeps all": (16, 1e8, 1 << 20, rope_config.RopeScaling("yarn", 2, 1 << 19, beta_fast=0.002, beta_slow=0.001)),
    "llama3 with a steep fade": (128, 1e6, 4096, rope_config.RopeScaling("llama3", 3.7, 1000, 2.0, 2.01)),
}


def hugging_face(head_dim: int, theta: float, length: int, scaling: rope_config.RopeScaling) -> Any:
    """The rotary module of transformers, which knows how long a text it has seen: a fresh one."""
    modeling_llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    ours = config_lib.LlamaConfig(**SIZES, hidden_size=head_dim, rope_theta=theta, max_position_embeddings=length)
    rope_parameters = {"rope_type": scaling.kind, **scaling.parameters}
    return modeling_llama.LlamaRotaryEmbedding(transformers_llama.config(ours, rope_parameters))


@pytest.mark.parametrize("name", RELEASED)
def test_frequencies_equal_transformers_to_the_last_bits(name: str) -> None:
    head_dim, theta, length, scaling = RELEASED[name]
    theirs = hugging_face(head_dim, theta, length, scaling)
    ours = rope.frequencies(head_dim=head_dim, theta=theta, scaling=scaling)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=1e-6)
    assert scaling.attention_scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


def test_the_released_settings_stretch_some_frequencies_and_keep_others() -> None:
    for name in ("llama 3.1", "yarn 64k"):
        head_dim, theta, _, scaling = RELEASED[name]
        ratio_h = rope.frequencies(head_dim=head_dim, theta=theta) / rope.frequencies(head_dim=head_dim, theta=theta, scaling=scaling)
        np.testing.assert_allclose((ratio_h[0], ratio_h[-1]), (1, scaling.factor), rtol=1e-6, err_msg=name)
        assert (np.diff(ratio_h) > -1e-6).all() and ((ratio_h > 1.01) & (ratio_h < scaling.factor - 0.01)).any(), name


@pytest.mark.parametrize("name", transformers_llama.SCALINGS)
def test_scaled_rotations_equal_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    config = transformers_llama.scaled(config_lib.named("micro"), name)
    positions_BT = np.array([[0, 1, 23, 24, 40], [3, 30, 7, 90, 2]])
    for row in positions_BT[:, None]:
        cos_BTH, sin_BTH = hugging_face(8, config.rope_theta, config.max_position_embeddings, config.rope_scaling)(
            torch.zeros(1), torch.from_numpy(row)
        )
        ours = scaled_rotation(config, row)
        np.testing.assert_allclose(ours.cos_BTh, cos_BTH[..., :4].numpy(), atol=2e-5)
        np.testing.assert_allclose(ours.sin_BTh, sin_BTH[..., :4].numpy(), atol=2e-5)


def scaled_rotation(config: config_lib.LlamaConfig, positions_BT: np.ndarray, **more: np.ndarray) -> rope.Rotation:
    return rope.rotation(
        jnp.asarray(positions_BT),
        head_dim=config.head_width,
        theta=config.rope_theta,
        scaling=config.rope_scaling,
        trained=config.max_position_embeddings,
        **more,
    )


def test_dynamic_scaling_turns_each_text_by_its_own_length() -> None:
    config = transformers_llama.scaled(config_lib.named("micro"), "dynamic")
    long_T, short_T = np.arange(40), np.arange(24)
    alone = {length: scaled_rotation(config, np.arange(length)[None]) for length in (24, 40)}
    in_rows = scaled_rotation(config, np.stack([long_T, np.pad(short_T, (0, 16))]))
    packed = scaled_rotation(config, np.concatenate([short_T, long_T])[None], segment_ids_BT=np.repeat([1, 2], [24, 40])[None])
    for part in range(2):
        np.testing.assert_array_equal(in_rows[part][0], alone[40][part][0])
        np.testing.assert_array_equal(in_rows[part][1, :24], alone[24][part][0])
        np.testing.assert_array_equal(packed[part][0, :24], alone[24][part][0])
        np.testing.assert_array_equal(packed[part][0, 24:], alone[40][part][0])
    assert np.abs(alone[40].cos_BTh[:, :24] - alone[24].cos_BTh).max() > 0.1
    plain = rope.rotation(jnp.arange(24)[None], head_dim=8, theta=config.rope_theta)
    np.testing.assert_allclose(alone[24].cos_BTh, plain.cos_BTh, atol=1e-6)


def test_a_model_without_scaling_pays_nothing() -> None:
    """Letter for letter the program of the plain formula."""

    def formula(positions_BT: jax.Array, segment_ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        exponent_h = jnp.arange(0, 8, 2, dtype=jnp.float32) / 8
        angle_BTh = positions_BT[..., None].astype(jnp.float32) * THETA ** -exponent_h[None, None, :]
        return jnp.cos(angle_BTh), jnp.sin(angle_BTh)

    def ours(positions_BT: jax.Array, segment_ids_BT: jax.Array) -> rope.Rotation:
        return rope.rotation(positions_BT, head_dim=8, theta=THETA, trained=4, segment_ids_BT=segment_ids_BT)

    arguments = [jax.ShapeDtypeStruct((2, 9), jnp.int32)] * 2
    programs = [jax.jit(function).lower(*arguments).as_text().split("\n", 1)[1] for function in (formula, ours)]
    bodies = ["\n".join(line for line in program.split("\n") if "func.func" not in line) for program in programs]
    assert bodies[0] == bodies[1]
