"""Folded weights compute what the adapters computed, summed in float32 in order and rounded once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.reference import peft_llama
from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters, merge
from zhllama_jax.lora import config as config_lib
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

MICRO = model_config.named("micro", vocab_size=200)


@functools.cache
def trained(seed: int, targets: tuple[str, ...] = config_lib.ATTENTION + config_lib.MLP) -> arrays.Tree:
    """Adapters as after some training: both factors of an order that clearly moves the model, scale 4."""
    shapes = jax.eval_shape(lambda: adapters.init(jax.random.key(0), llama.abstract(MICRO), config_lib.LoraConfig(targets=targets)))
    rng = np.random.default_rng(seed)

    def draw(path: str, leaf: arrays.Array) -> np.ndarray:
        return np.full(leaf.shape, 4, np.float32) if path.endswith("/scale") else 0.05 * rng.standard_normal(leaf.shape).astype(np.float32)

    return tree.map_with_path(draw, shapes)


def float64_changes(*loras: arrays.Tree) -> dict[str, Any]:
    """The exact sum of the changes by kernel path."""
    changes: dict[str, Any] = {}
    for lora in loras:
        leaves = tree.flatten(lora)
        for path in [path.removesuffix("/a") for path in leaves if path.endswith("/a")]:
            a_LIR, b_LRO, scale_L = (leaves[f"{path}/{name}"].astype(np.float64) for name in ("a", "b", "scale"))
            change_LIO = np.stack([a_IR @ b_RO * scale for a_IR, b_RO, scale in zip(a_LIR, b_LRO, scale_L, strict=True)])
            changes[f"{path}/kernel"] = changes.get(f"{path}/kernel", 0) + change_LIO
    return changes


@jax.jit
def logits(weights: arrays.Tree) -> arrays.Array:
    x_BTD, _ = llama.hidden_states(MICRO, weights, jnp.arange(20).reshape(2, 10))
    return llama.logits(MICRO, weights["params"], x_BTD)


def test_folded_equals_adapted() -> None:
    params, lora = reference_weights.lively(MICRO), trained(1)
    base, adapted = logits({"params": params}), logits({"params": params, "lora": lora})
    assert np.abs(adapted - base).max() > 0.5
    np.testing.assert_allclose(logits({"params": merge.fold(params, lora)}), adapted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", [config_lib.ATTENTION, config_lib.ATTENTION + config_lib.MLP], ids=["attention", "all"])
def test_folded_is_what_peft_merges(targets: tuple[str, ...]) -> None:
    pytest.importorskip("peft")
    params, lora = reference_weights.lively(MICRO), trained(1, targets)
    theirs = peft_llama.model(MICRO, {"params": params, "lora": lora}, r=8, lora_alpha=32, target_modules=list(targets))
    merged = theirs.merge_and_unload().state_dict()
    before, folded = reference_weights.hf_state(MICRO, params), reference_weights.hf_state(MICRO, merge.fold(params, lora))
    assert folded.keys() == merged.keys()
    for name, value in folded.items():
        np.testing.assert_allclose(value, merged[name].numpy(), atol=1e-6, rtol=0, err_msg=name)
        assert np.abs(value - before[name]).any() == any(target in name for target in targets), name


def test_only_the_adapted_kernels_change_and_nothing_in_place() -> None:
    params, lora = reference_weights.lively(MICRO), trained(1, ("q_proj", "down_proj"))
    before = {path: leaf.copy() for path, leaf in tree.flatten(params).items()}
    folded = tree.flatten(merge.fold(params, lora))
    assert folded.keys() == before.keys()
    changed = {path for path in before if not np.array_equal(folded[path], before[path])}
    assert changed == {"layers/self_attn/q_proj/kernel", "layers/mlp/down_proj/kernel"}
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(leaf, before[path])


def test_each_layer_is_scaled_by_its_own_scale() -> None:
    params, lora = reference_weights.lively(MICRO), trained(1, ("q_proj",))
    scaled = tree.map_with_path(lambda path, leaf: np.array([0.0, 3.0], np.float32) if path.endswith("/scale") else leaf, lora)
    change_LIO = merge.fold(params, scaled)["layers"]["self_attn"]["q_proj"]["kernel"] - params["layers"]["self_attn"]["q_proj"]["kernel"]
    assert not change_LIO[0].any()
    np.testing.assert_allclose(change_LIO[1], float64_changes(scaled)["layers/self_attn/q_proj/kernel"][1], atol=1e-6)


def test_several_adapters_add_up_wherever_they_stand() -> None:
    params = reference_weights.lively(MICRO)
    loras = trained(1, ("q_proj", "v_proj")), trained(2), trained(3, ("v_proj", "up_proj"))
    folded = tree.flatten(merge.fold(params, *loras))
    changes = float64_changes(*loras)
    assert len(changes) == 7
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_allclose(folded[path], leaf + changes.get(path, 0), atol=1e-6, err_msg=path)
    in_turn = merge.fold(merge.fold(merge.fold(params, loras[0]), loras[1]), loras[2])
    for path, leaf in tree.flatten(in_turn).items():
        np.testing.assert_array_equal(folded[path], leaf, err_msg=f"{path}: order of float32 sums")


def test_a_bfloat16_base_is_rounded_once_however_many_adapters() -> None:
    """Ten adapters, each of whose changes alone would be lost to rounding: folded one after the other nothing would move."""
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, ml_dtypes.bfloat16), llama.abstract(MICRO))
    a_LIR, b_LRO = np.full((2, 32, 1), 2**-5, np.float32), np.full((2, 1, 32), 2**-5, np.float32)
    lora = {"layers": {"self_attn": {"q_proj": {"a": a_LIR, "b": b_LRO, "scale": np.ones(2, np.float32)}}}}
    kernel_LIO = merge.fold(params, *[lora] * 10)["layers"]["self_attn"]["q_proj"]["kernel"]
    assert kernel_LIO.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel_LIO.astype(jnp.float32), np.full((2, 32, 32), 1 + 2**-7, np.float32))  # 1 + 10/1024, rounded
    alone = merge.fold(params, lora)["layers"]["self_attn"]["q_proj"]["kernel"]
    np.testing.assert_array_equal(alone.astype(jnp.float32), np.ones((2, 32, 32), np.float32))


def test_a_bfloat16_base_gets_the_nearest_bfloat16_of_the_exact_sum() -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), reference_weights.lively(MICRO))
    loras = trained(1), trained(2)
    folded = tree.flatten(merge.fold(params, *loras))
    for path, change_LIO in float64_changes(*loras).items():
        exact = tree.flatten(params)[path].astype(np.float64) + change_LIO
        wrong = np.asarray(folded[path]) != exact.astype(ml_dtypes.bfloat16)
        assert wrong.mean() < 1e-3, f"{path}: only ties within float32 rounding may fall the other way"
        assert folded[path].dtype == jnp.bfloat16


def test_bfloat16_factors_are_multiplied_in_float32() -> None:
    lora = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), trained(1, ("q_proj",))["layers"]["self_attn"]["q_proj"])
    change_LIO = merge.delta(lora["a"], lora["b"], lora["scale"])
    assert change_LIO.dtype == jnp.float32
    exact = float64_changes({"x": lora})["x/kernel"]
    np.testing.assert_allclose(change_LIO, exact, atol=1e-6)


def test_without_adapters_nothing_changes() -> None:
    params = reference_weights.lively(MICRO)
    for path, leaf in tree.flatten(merge.fold(params)).items():
        assert leaf is tree.flatten(params)[path]


def test_adapters_that_name_no_kernel_are_refused_together() -> None:
    factors = {"a": np.zeros((2, 32, 1)), "b": np.zeros((2, 1, 32)), "scale": np.zeros(2)}
    with pytest.raises(ValueError, match="the adapter does not fit the model: layers/attn/q_proj, norm name no kernel"):
        merge.fold(llama.abstract(MICRO), {"layers": {"attn": {"q_proj": factors}}, "norm": factors})


@pytest.mark.parametrize("missing", ["a", "b", "scale"])
def test_an_incomplete_adapter_is_refused(missing: str) -> None:
    factors = {"a": np.zeros((2, 32, 1)), "b": np.zeros((2, 1, 32)), "scale": np.zeros(2)}
    del factors[missing]
    with pytest.raises(ValueError, match="q_proj must hold a, b, scale, and holds"):
        merge.fold(llama.abstract(MICRO), {"layers": {"self_attn": {"q_proj": factors}}})
