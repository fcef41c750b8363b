"""Chunked likelihoods equal the softmax over whole logits, in values and gradients, without ever making them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import weights as reference_weights
from zhllama_jax import arrays
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import likelihood

EXTENDED = config_lib.named("micro", vocab_size=260, base_vocab_size=200)
CONFIGS = {
    "plain": config_lib.named("micro", vocab_size=200),
    "extended": EXTENDED,
    "tied and extended": EXTENDED.replace(tie_word_embeddings=True),
}
TARGETS_M = np.array([0, 199, 7, 7, 131, 64, 198, 1, 2, 150])
NEW_TARGETS_M = np.array([0, 199, 200, 259, 131, 201, 198, 258, 2, 230])


def case(config: config_lib.LlamaConfig) -> tuple[arrays.Tree, np.ndarray, np.ndarray]:
    """(params, x_MD, targets_M) of ten tokens, with targets at both ends of both blocks."""
    x_MD = 2 * np.random.default_rng(0).standard_normal((10, 32)).astype(np.float32)
    return reference_weights.lively(config), x_MD, NEW_TARGETS_M if config.extension_rows else TARGETS_M


def whole(head_VD: np.ndarray, x_MD: np.ndarray, targets_M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-ln p in float64, and the gradients of its mean by (probability - one hot)."""
    head_VD, x_MD = head_VD.astype(np.float64), x_MD.astype(np.float64)
    score_MV = x_MD @ head_VD.T
    p_MV = np.exp(score_MV - score_MV.max(axis=1, keepdims=True))
    p_MV /= p_MV.sum(axis=1, keepdims=True)
    nats_M = -np.log(p_MV[np.arange(len(x_MD)), targets_M])
    p_MV[np.arange(len(x_MD)), targets_M] -= 1
    return nats_M, p_MV.T @ x_MD / len(x_MD), p_MV @ head_VD / len(x_MD)


@pytest.mark.parametrize(("name", "chunk"), [("plain", 4), ("extended", 4), ("tied and extended", 4), ("extended", 512)])
def test_equals_the_softmax_over_whole_logits(name: str, chunk: int) -> None:
    config = CONFIGS[name]
    params, x_MD, targets_M = case(config)
    matrix = "embed_tokens" if config.tie_word_embeddings else "lm_head"

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradients_and_nats(blocks: arrays.Tree, x_MD: arrays.Array) -> tuple[arrays.Array, arrays.Array]:
        nats_M = likelihood.token_nats(config, {**params, matrix: blocks}, x_MD, targets_M, chunk=chunk)
        return nats_M.mean(), nats_M

    (head, dx_MD), nats_M = gradients_and_nats(params[matrix], x_MD)
    state = reference_weights.hf_state(config, params)
    expected_M, dhead_VD, expected_dx_MD = whole(state.get("lm_head.weight", state["model.embed_tokens.weight"]), x_MD, targets_M)
    assert nats_M.shape == (10,) and nats_M.dtype == jnp.float32
    np.testing.assert_allclose(nats_M, expected_M, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx_MD, expected_dx_MD, atol=1e-5)
    for block, first, rows in (("base", 0, 200), ("extension", 200, config.extension_rows)):
        if rows:
            np.testing.assert_allclose(head[block][:rows], dhead_VD[first : first + rows], atol=1e-5)
            assert not head[block][rows:].any(), "spare rows never learn"


def test_what_stands_in_spare_rows_changes_no_bit() -> None:
    params, x_MD, targets_M = case(EXTENDED)
    head = params["lm_head"]
    spoilt = {"base": head["base"].copy(), "extension": head["extension"].copy()}
    spoilt["base"][200:], spoilt["extension"][60:] = 1e6, -1e6
    nats = jax.jit(lambda blocks: likelihood.token_nats(EXTENDED, {"lm_head": blocks}, x_MD, targets_M, chunk=4))
    np.testing.assert_array_equal(nats(spoilt), nats(head))


def test_no_array_of_all_tokens_by_the_vocabulary_exists_forward_or_backward() -> None:
    config, tokens = config_lib.named("micro", vocab_size=700, base_vocab_size=400), 1024
    params = reference_weights.lively(config)
    shapes = jax.ShapeDtypeStruct((tokens, 32), jnp.float32), jax.ShapeDtypeStruct((tokens,), jnp.int32)

    def largest(chunk: int) -> int:
        """Elements of the largest array in the lowered program of the gradient."""

        def loss(params: arrays.Tree, x_MD: arrays.Array, targets_M: arrays.Array) -> arrays.Array:
            return likelihood.token_nats(config, params, x_MD, targets_M, chunk=chunk).mean()

        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, *shapes).as_text()
        return max(math.prod(map(int, dims.rstrip("x").split("x"))) for dims in re.findall(r"tensor<((?:\d+x)+)", program))

    assert largest(chunk=64) == tokens * 32, "the hidden states themselves"
    assert largest(chunk=tokens) == tokens * 512, "the negative control: one chunk makes all logits of the base block"
