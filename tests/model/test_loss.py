"""The loss: value and gradients of the plain formula, no logits of the whole batch, no product for a frozen block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama, loss

CONFIG = model_config.named("micro", vocab_size=300, base_vocab_size=200)
PLAIN = model_config.named("micro", vocab_size=256)
TIED = model_config.named("micro", vocab_size=300, base_vocab_size=200, tie_word_embeddings=True)


def case(config: model_config.LlamaConfig, batch: int = 4, length: int = 12, seed: int = 0) -> tuple:
    """(params with a scaled-up head, hidden states, targets in both blocks, weights with zeros)."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params = jax.tree.map(lambda leaf: 20 * leaf, llama.init(config, keys[0]))
    x_BTD = jax.random.normal(keys[1], (batch, length, config.hidden_size))
    targets_BT = jax.random.randint(keys[2], (batch, length), 0, config.vocab_size)
    weight_BT = jax.random.bernoulli(keys[3], 0.7, (batch, length)).astype(jnp.float32)
    return params, x_BTD, targets_BT, weight_BT / weight_BT.sum()


def plain(config, params, x_BTD, targets_BT, weight_BT) -> jax.Array:
    """The formula, on whole logits."""
    nats_BTV = -jax.nn.log_softmax(llama.logits(config, params, x_BTD))
    return jnp.sum(jnp.take_along_axis(nats_BTV, targets_BT[..., None], axis=-1)[..., 0] * weight_BT)


@pytest.mark.parametrize("config", [CONFIG, PLAIN, TIED], ids=["two blocks", "one block", "tied"])
@pytest.mark.parametrize("chunk", [4, 16, 1000])
def test_value_and_gradients_are_those_of_the_formula(config, chunk) -> None:
    params, x_BTD, targets_BT, weight_BT = case(config)
    ours = jax.value_and_grad(functools.partial(loss.next_token, config, chunk=chunk), argnums=(0, 1))(params, x_BTD, targets_BT, weight_BT)
    theirs = jax.value_and_grad(functools.partial(plain, config), argnums=(0, 1))(params, x_BTD, targets_BT, weight_BT)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.parametrize(("length", "chunk"), [(13, 16), (13, 20), (7, 8), (3, 1)])
def test_a_prime_length_is_filled_up_without_a_trace(length: int, chunk: int) -> None:
    """Value and gradients of the formula, from pieces as large as the chunk allows."""
    params, x_BTD, targets_BT, weight_BT = case(CONFIG, length=length)
    ours = functools.partial(loss.next_token, CONFIG, chunk=chunk)
    found = jax.value_and_grad(ours, argnums=(0, 1))(params, x_BTD, targets_BT, weight_BT)
    expected = jax.value_and_grad(functools.partial(plain, CONFIG), argnums=(0, 1))(params, x_BTD, targets_BT, weight_BT)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    tokens = 4 * -(-length // loss._num_chunks(4, length, chunk))
    logits = [shape for shape in shapes_of_dots(ours, params, x_BTD, targets_BT, weight_BT) if shape[-1] in (256, 128)]
    assert logits and {shape[0] for shape in logits} == {tokens} and tokens <= max(chunk, 4)


@pytest.mark.parametrize("length", [12, 13])
def test_without_gradients_the_value_is_the_same(length: int) -> None:
    params, *rest = case(CONFIG, length=length)
    np.testing.assert_allclose(loss.next_token(CONFIG, params, *rest, chunk=8), plain(CONFIG, params, *rest), rtol=1e-6)


def test_spare_rows_take_no_probability_and_no_gradient() -> None:
    params, *rest = case(CONFIG)
    value, gradient = jax.value_and_grad(functools.partial(loss.next_token, CONFIG))(params, *rest)
    for matrix in ("embed_tokens", "lm_head"):
        for block, rows in (("base", 200), ("extension", 100)):
            assert not np.any(gradient[matrix][block][rows:])
            params[matrix][block] = params[matrix][block].at[rows:].set(100.0)
    assert loss.next_token(CONFIG, params, *rest) == value


def test_weights_of_zero_hide_a_target() -> None:
    params, x_BTD, targets_BT, weight_BT = case(CONFIG)
    elsewhere_BT = jnp.where(weight_BT == 0, 0, targets_BT)
    same = [loss.next_token(CONFIG, params, x_BTD, targets, weight_BT) for targets in (targets_BT, elsewhere_BT)]
    assert same[0] == same[1]


def shapes_of_dots(function, *arguments) -> list[tuple[int, ...]]:
    """Result shapes of all dot_generals in a function's jaxpr, inner ones too."""
    found = []

    def visit(jaxpr) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation.outvars[0].aval.shape)
            for value in equation.params.values():
                if hasattr(value, "eqns"):
                    visit(value)
                elif hasattr(value, "jaxpr"):
                    visit(value.jaxpr)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def test_a_frozen_block_gets_no_product_of_its_shape() -> None:
    params, *rest = case(CONFIG)
    shape = {name: params["lm_head"][name].shape for name in ("base", "extension")}
    assert shape["base"] != shape["extension"]

    def of(trained: dict, x_BTD: jax.Array) -> jax.Array:
        return loss.next_token(CONFIG, {**params, "lm_head": {**params["lm_head"], **trained}}, x_BTD, *rest[1:], chunk=8)

    everything = shapes_of_dots(jax.grad(of, argnums=(0, 1)), params["lm_head"], rest[0])
    assert {shape["base"], shape["extension"]} <= set(everything)
    new_rows = shapes_of_dots(jax.grad(of, argnums=(0, 1)), {"extension": params["lm_head"]["extension"]}, rest[0])
    assert shape["base"] not in new_rows and shape["extension"] in new_rows
    nothing = shapes_of_dots(jax.grad(lambda x_BTD: of({}, x_BTD)), rest[0])
    assert not {shape["base"], shape["extension"]} & set(nothing)
    # One product for the logits of each block, one for the slope of x: nothing is computed twice.
    assert len(nothing) == 4


def test_logits_of_the_whole_batch_never_exist() -> None:
    params, *rest = case(CONFIG, batch=4, length=16)
    compiled = jax.jit(jax.grad(functools.partial(loss.next_token, CONFIG, chunk=8), argnums=1)).lower(params, *rest).compile()
    text = compiled.as_text()
    assert "[8,256]" in text, "the logits of one chunk are there"
    assert "[64,256]" not in text and "[4,16,256]" not in text


def test_bfloat16_states_keep_a_float32_loss() -> None:
    params, x_BTD, targets_BT, weight_BT = case(CONFIG)
    value, (dparams, dx) = jax.value_and_grad(functools.partial(loss.next_token, CONFIG), argnums=(0, 1))(
        params, x_BTD.astype(jnp.bfloat16), targets_BT, weight_BT
    )
    assert value.dtype == jnp.float32 and dx.dtype == jnp.bfloat16
    assert dparams["lm_head"]["base"].dtype == jnp.float32
    np.testing.assert_allclose(value, plain(CONFIG, params, x_BTD, targets_BT, weight_BT), rtol=2e-2)


@pytest.mark.parametrize(
    ("batch", "length", "chunk", "expected"),
    [
        (4, 12, 1000, 1),
        (4, 12, 24, 2),
        (4, 12, 20, 3),
        (4, 12, 1, 12),
        (4, 7, 8, 4),
        (4, 509, 512, 4),
        (32, 256, 512, 16),
        (600, 5, 512, 5),
    ],
)
def test_pieces_are_as_few_as_the_chunk_allows(batch, length, chunk, expected) -> None:
    assert loss._num_chunks(batch, length, chunk) == expected
