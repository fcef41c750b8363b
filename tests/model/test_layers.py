"""The three modules with weights compute what their docstrings say, and adapters only add."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import llama_numpy
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import layers

M, I, O, R = 5, 16, 24, 4


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X_MI, KERNEL_IO = normal(0, M, I), normal(1, I, O)
ADAPTER = {"a": normal(2, I, R), "b": normal(3, R, O), "scale": np.full((), 4.0, np.float32)}


def test_linear_without_an_adapter_is_a_product() -> None:
    y_MO = layers.Linear(O, jnp.float32).apply({"params": {"kernel": KERNEL_IO}}, X_MI, deterministic=True)
    np.testing.assert_allclose(y_MO, X_MI.astype(np.float64) @ KERNEL_IO, atol=1e-5)


def test_linear_adds_its_adapter_times_the_scale() -> None:
    y_MO = layers.Linear(O, jnp.float32).apply({"params": {"kernel": KERNEL_IO}, "lora": ADAPTER}, X_MI, deterministic=True)
    x_MI = X_MI.astype(np.float64)
    np.testing.assert_allclose(y_MO, x_MI @ KERNEL_IO + 4.0 * (x_MI @ ADAPTER["a"]) @ ADAPTER["b"], rtol=1e-5, atol=1e-4)


def test_linear_computes_in_its_dtype_and_its_weights_stay_float32() -> None:
    module = layers.Linear(O, jnp.bfloat16)
    params = module.init(jax.random.key(0), X_MI, deterministic=True)
    assert params["params"]["kernel"].dtype == jnp.float32
    apply = functools.partial(module.apply, deterministic=True)
    y_MO = jax.eval_shape(apply, {**params, "lora": ADAPTER}, X_MI.astype(jnp.bfloat16))
    assert y_MO.dtype == jnp.bfloat16


def test_dropout_zeroes_inputs_of_the_adapter_alone_and_scales_the_rest() -> None:
    """With W = 8 and A, B, scale = 1 the output is eight times the input plus the dropped input."""
    rate, x_MI = 0.25, np.abs(normal(4, 500, I)) + 0.1
    eye_II = np.eye(I, dtype=np.float32)
    weights = {"params": {"kernel": 8 * eye_II}, "lora": {"a": eye_II, "b": eye_II, "scale": np.ones(())}}
    module = layers.Linear(I, jnp.float32, lora_dropout=rate)
    dropped_MI = module.apply(weights, x_MI, deterministic=False, rngs={"dropout": jax.random.key(0)}) - 8 * x_MI
    kept_MI = np.asarray(dropped_MI) > 0.01
    np.testing.assert_allclose(dropped_MI, np.where(kept_MI, x_MI / (1 - rate), 0), atol=1e-5)
    assert abs(kept_MI.mean() - (1 - rate)) < 0.02
    np.testing.assert_array_equal(module.apply(weights, x_MI, deterministic=True), 9 * x_MI)


def blocks(base_rows: int, extension_rows: int) -> tuple[config_lib.Block, ...]:
    return config_lib.named("micro", vocab_size=base_rows + extension_rows, base_vocab_size=base_rows).blocks


@pytest.mark.parametrize(("base_rows", "extension_rows"), [(200, 0), (128, 0), (200, 60), (128, 128)])
def test_embed_looks_up_logical_ids_in_two_blocks(base_rows: int, extension_rows: int) -> None:
    logical_VD = normal(0, base_rows + extension_rows, 8)
    params = {"base": np.full((-(-base_rows // 128) * 128, 8), np.nan, np.float32)}
    params["base"][:base_rows] = logical_VD[:base_rows]
    if extension_rows:
        params["extension"] = np.full((128, 8), np.nan, np.float32)
        params["extension"][:extension_rows] = logical_VD[base_rows:]
    module = layers.Embed(blocks(base_rows, extension_rows), 8, jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1,), jnp.int32))["params"]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {name: leaf.shape for name, leaf in params.items()}
    tokens_M = jnp.arange(base_rows + extension_rows)
    np.testing.assert_array_equal(module.apply({"params": params}, tokens_M), logical_VD)


def test_embed_sends_a_gradient_to_the_rows_of_the_tokens_only() -> None:
    module = layers.Embed(blocks(200, 60), 8, jnp.float32)
    tokens_M = jnp.array([3, 199, 200, 259, 3])
    params = module.init(jax.random.key(0), tokens_M)["params"]
    gradient = jax.grad(lambda params: module.apply({"params": params}, tokens_M).sum())(params)
    expected = {"base": np.zeros((256, 8)), "extension": np.zeros((128, 8))}
    for block, row, times in (("base", 3, 2), ("base", 199, 1), ("extension", 0, 1), ("extension", 59, 1)):
        expected[block][row] = times
    for block in expected:
        np.testing.assert_array_equal(gradient[block], expected[block])


def test_rms_norm_equals_the_formula() -> None:
    x_MD, weight_D = 3 * normal(0, M, I), normal(1, I)
    y_MD = layers.RMSNorm(1e-2, jnp.float32).apply({"params": {"weight": weight_D}}, x_MD)
    np.testing.assert_allclose(y_MD, llama_numpy.rms_norm(x_MD.astype(np.float64), weight_D, 1e-2), atol=1e-6)


def test_rms_norm_of_bfloat16_is_taken_in_float32_and_rounded_once() -> None:
    x_MD, weight_D = jnp.asarray(normal(0, M, I), jnp.bfloat16), normal(1, I)
    y_MD = layers.RMSNorm(1e-6, jnp.bfloat16).apply({"params": {"weight": weight_D}}, x_MD)
    exact = layers.RMSNorm(1e-6, jnp.float32).apply({"params": {"weight": weight_D}}, x_MD.astype(jnp.float32))
    assert y_MD.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y_MD, exact.astype(jnp.bfloat16))
