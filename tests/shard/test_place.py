"""Placement: arrays come back whole from any mesh, and sizes that do not divide are named first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place, rules

CONFIG = model_config.named("micro", vocab_size=300, base_vocab_size=200)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)])
def test_weights_are_the_same_on_any_mesh(shape) -> None:
    weights = {"params": llama.init(CONFIG, jax.random.key(0))}
    placed = place.weights(weights, mesh_lib.make(*shape))
    jax.tree.map(np.testing.assert_array_equal, placed, weights)
    kernel = placed["params"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 32 // shape[1], 88 // shape[2])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 1, 8), (2, 1, 4), (1, 4, 2), (1, 8, 1), (2, 2, 2)])
def test_vocabulary_blocks_divide_on_every_mesh(shape, tied) -> None:
    """Both blocks are padded to a multiple of 128 rows, which every power of two up to 128 divides: an odd vocabulary is no obstacle."""
    config = model_config.named("micro", vocab_size=49_953, base_vocab_size=31_999, tie_word_embeddings=tied)
    matrices = [name for name in model_config.MATRICES if name == config.head_matrix or name == "embed_tokens"]
    leaves = {path: leaf for path, leaf in tree.flatten({"params": llama.abstract(config)}).items() if path.split("/")[1] in matrices}
    assert len(leaves) == 2 * len(matrices)
    mesh = mesh_lib.make(*shape)
    for path, sharding in place.shardings(leaves, rules.specs(leaves), mesh).items():
        rows, width = leaves[path].shape
        assert sharding.shard_shape((rows, width)) == (rows // shape[2], width // shape[1]), path


@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16, 32, 64, 128])
def test_padded_blocks_divide_by_powers_of_two_up_to_128(parts: int) -> None:
    assert all(model_config.padded_rows(rows) % parts == 0 for rows in (1, 127, 129, 17_953, 31_999, 49_953))


def test_sizes_that_do_not_divide_are_named_with_the_fix() -> None:
    mesh = mesh_lib.make(1, 1, 8)
    leaves = {"params/layers/mlp/up_proj/kernel": jax.ShapeDtypeStruct((2, 32, 84), jnp.float32), "params/norm/weight": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"mlp/up_proj/kernel \(2, 32, 84\): dimension 2 of 84 by tensor = 8.*Choose mesh axes"):
        place.shardings(leaves, rules.specs(leaves), mesh)


def test_a_tensor_axis_may_not_cut_a_head() -> None:
    with pytest.raises(ValueError, match=r"tensor=8 does not divide the model's 2 key/value heads; tensor may be one of \[1, 2\]"):
        place.check_heads(mesh_lib.make(1, 1, 8), num_kv_heads=2)


def test_batches_are_split_over_the_batch_axes() -> None:
    rows = {"tokens": np.arange(2 * 8 * 4).reshape(2, 8, 4)}
    placed = place.batch(rows, mesh_lib.make(2, 2, 2), rules.BATCH)["tokens"]
    np.testing.assert_array_equal(placed, rows["tokens"])
    assert placed.addressable_shards[0].data.shape == (2, 2, 4)


@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 8, 1), (2, 2, 2)])
def test_activations_lie_like_the_rows_that_they_come_from(shape) -> None:
    mesh = mesh_lib.make(*shape)
    sharding = place.tokens(mesh)
    assert sharding is not None and sharding.shard_shape((64, 32)) == (64 // mesh_lib.batch_shards(mesh), 32)
    assert place.tokens(mesh_lib.make(devices=jax.devices()[:1])) is None
