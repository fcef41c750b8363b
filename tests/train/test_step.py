"""One update: nothing is computed for frozen kernels, splits do not matter, numbers that are not finite change nothing."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zhllama_jax import tree
from zhllama_jax.data import batches
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place, rules
from zhllama_jax.train import config, optimizer, stages
from zhllama_jax.train import state as state_lib
from zhllama_jax.train import step as step_lib

# Sizes that no other array of the program has, so that a kernel's shape in the HLO means a kernel.
CONFIG = model_config.LlamaConfig(
    vocab_size=300,
    base_vocab_size=140,
    hidden_size=48,
    intermediate_size=104,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=20,
)
KERNELS = {"48,80", "48,40", "80,48", "48,104", "104,48"}
BATCH, LENGTH = 8, 16


def make_batch(accumulation: int = 1, seed: int = 0) -> batches.Batch:
    """The same 8 rows of two documents and padding, as [A, 8 / A, T]."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, CONFIG.vocab_size, (BATCH, LENGTH + 1)).astype(np.int32)
    segments = np.repeat(np.array([[1] * 7 + [2] * 6 + [0] * 3], np.int32), BATCH, 0)
    mask = (segments > 0) * (generator.random((BATCH, LENGTH)) < 0.8)
    positions = np.array([[*range(7), *range(6), 0, 1, 2]], np.int32).repeat(BATCH, 0)
    fields = batches.Batch(tokens[:, :-1], tokens[:, 1:], mask.astype(np.float32), positions, segments)
    return jax.tree.map(lambda field: field.reshape(accumulation, -1, LENGTH), fields)


@functools.cache
def weights(preset: str) -> dict:
    """Random weights on the host, LoRA's B away from zero, so that everything has a gradient."""
    generator = np.random.default_rng(0)
    rows = {"base": CONFIG.base_rows, "extension": CONFIG.extension_rows}

    def fill(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path.endswith("/scale"):
            return np.full(leaf.shape, 2.0, np.float32)
        if path.endswith("norm/weight"):
            return np.ones(leaf.shape, np.float32)
        value = 0.02 * generator.normal(size=leaf.shape).astype(np.float32)
        value[rows.get(path.split("/")[-1], len(value)) :] = 0
        return value

    return tree.map_with_path(fill, stages.abstract(config.Stage(preset), CONFIG, config.Lora(rank=4, alpha=8)))


class Program(NamedTuple):
    """A compiled step and what it starts from; `start` makes a new state, since a step takes the old one with it."""

    recipe: step_lib.Recipe
    step: Any
    start: Any
    frozen: dict
    mesh: Any


@functools.cache
def program(preset: str, *, accumulation: int = 1, shape: tuple = (), clip_norm: float = 1.0, dropout: float = 0.0) -> Program:
    mesh = mesh_lib.make(*shape) if shape else mesh_lib.make(devices=jax.devices()[:1])
    plan = stages.plan(config.Stage(preset), weights(preset))
    trainable, frozen = tree.partition(weights(preset), plan.mask)
    rate = optimizer.schedule(config.Schedule(kind="constant", warmup_steps=0), peak=1e-2, steps=10)
    tx = optimizer.make(config.Optimizer(clip_norm=clip_norm), rate, plan.trainable)
    recipe = step_lib.Recipe(CONFIG, tx, rate, llama.Options(lora_dropout=dropout), chunk=32)
    frozen = place.weights(frozen, mesh)

    def start() -> state_lib.State:
        return state_lib.init(place.weights(trainable, mesh), tx, mesh)

    state = start()
    lowered = step_lib.compiled(step_lib.train(recipe), state).lower(
        state, frozen, place.batch(make_batch(accumulation), mesh, rules.BATCH)
    )
    return Program(recipe, lowered.compile(), start, frozen, mesh)


def run(preset: str, *, steps: int = 2, accumulation: int = 1, **choices) -> tuple:
    """(state, list of metrics) after some steps."""
    chosen = program(preset, accumulation=accumulation, **choices)
    state, history = chosen.start(), []
    for number in range(steps):
        state, metrics = chosen.step(state, chosen.frozen, place.batch(make_batch(accumulation, number), chosen.mesh, rules.BATCH))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@functools.cache
def single(preset: str) -> tuple:
    """The reference: one device, one micro-batch."""
    return run(preset)


def assert_same(left: tuple, right: tuple, rtol: float) -> None:
    """Losses agree to `rtol`, weights and moments to that share of their size."""
    for ours, theirs in zip(left[1], right[1], strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=rtol)
        np.testing.assert_allclose(ours.grad_norm, theirs.grad_norm, rtol=10 * rtol)
        assert ours.tokens == theirs.tokens
    for ours, theirs in zip(jax.tree.leaves(left[0].opt_state), jax.tree.leaves(right[0].opt_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=200 * rtol * np.abs(theirs).max())


@pytest.mark.parametrize("accumulation", [2, 4])
def test_any_split_into_micro_batches_gives_the_same_update(accumulation) -> None:
    assert_same(run("pretrain_lora", accumulation=accumulation), single("pretrain_lora"), rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=["data", "fsdp", "all three"])
def test_any_mesh_gives_the_same_update(shape) -> None:
    assert_same(run("pretrain_lora", shape=shape), single("pretrain_lora"), rtol=1e-5)


def test_loss_is_the_mean_over_supervised_tokens() -> None:
    recipe, batch = program("full").recipe, jax.tree.map(lambda field: field[0], make_batch())
    total, tokens = jax.jit(step_lib.evaluate(recipe))(weights("full"), {}, batch)

    @jax.jit
    def plain(weights: dict) -> jax.Array:
        x_BTD, _ = llama.hidden_states(CONFIG, weights, batch.tokens, positions_BT=batch.positions, segment_ids_BT=batch.segment_ids)
        nats_BTV = -jax.nn.log_softmax(llama.logits(CONFIG, weights["params"], x_BTD))
        nats_BT = jnp.take_along_axis(nats_BTV, batch.targets[..., None], axis=-1)[..., 0]
        return jnp.sum(nats_BT * batch.loss_mask) / batch.loss_mask.sum()

    metrics = single("full")[1][0]
    np.testing.assert_allclose(metrics.loss, plain(weights("full")), rtol=1e-5)
    np.testing.assert_allclose(total / tokens, metrics.loss, rtol=1e-5)
    assert metrics.tokens == batch.loss_mask.sum() and metrics.seen == 13 * BATCH


def test_updates_are_those_of_optax_masked_over_the_full_tree() -> None:
    """The partition is optax's mask, made so that frozen gradients are not even asked for."""
    preset = "pretrain_lora"
    recipe, start = program(preset).recipe, weights(preset)
    plan = stages.plan(config.Stage(preset), start)
    mask = tree.unflatten(plan.mask)
    inside = optimizer.make(config.Optimizer(), recipe.rate, plan.rules)
    outside = jax.tree.map(lambda learns: not learns, mask)
    full = optax.chain(optax.masked(inside, mask), optax.masked(optax.set_to_zero(), outside))

    @jax.jit
    def update(weights: dict, opt_state: Any, batch: batches.Batch) -> tuple:
        weight_ABT = batch.loss_mask / batch.loss_mask.sum()
        first = jax.tree.map(lambda leaf: leaf[0], (batch, weight_ABT))
        gradients = jax.grad(lambda weights: step_lib._loss(recipe, weights, {}, *first, None))(weights)
        updates, opt_state = full.update(gradients, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state

    theirs, opt_state = start, full.init(start)
    for number in range(2):
        theirs, opt_state = update(theirs, opt_state, make_batch(1, number))
    ours = tree.flatten(tree.combine(single(preset)[0].trainable, jax.device_get(program(preset).frozen)))
    for path, value in tree.flatten(theirs).items():
        np.testing.assert_allclose(ours[path], value, rtol=2e-4, atol=1e-6, err_msg=path)
        if not plan.mask[path]:
            np.testing.assert_array_equal(value, tree.flatten(start)[path])


def dot_shapes(compiled: Any) -> set[str]:
    """The last two sizes of every matrix product's result in the optimised HLO, and the same turned round."""
    text = compiled.as_text()
    shapes = re.findall(r"= \w+\[([\d,]+)\][^=]*? dot\(", text)
    shapes += re.findall(r"= \w+\[([\d,]+)\][^=]*? custom-call\([^\n]*(?:matmul|gemm|dot)", text, flags=re.IGNORECASE)
    assert shapes, "the program multiplies matrices"
    ends = [shape.split(",")[-2:] for shape in shapes]
    return {",".join(end) for end in ends} | {",".join(reversed(end)) for end in ends}


@pytest.mark.parametrize("preset", ["embeddings", "pretrain_lora", "new_rows"])
def test_no_product_of_a_frozen_kernels_shape(preset) -> None:
    chosen = program(preset)
    found = dot_shapes(chosen.step)
    assert not found & KERNELS, f"a frozen kernel's gradient is computed: {found}"
    # What comes out is the trainables, their moments and counters, and the metrics; nothing of the frozen tree.
    outputs = [leaf.shape for leaf in jax.tree.leaves(chosen.step.out_info)]
    own = [leaf.shape for leaf in jax.tree.leaves(chosen.start())] + [()] * len(step_lib.Metrics._fields)
    assert sorted(outputs) == sorted(own)
    assert not {leaf.shape for leaf in jax.tree.leaves(chosen.frozen) if leaf.ndim == 3} & set(outputs)


def test_full_training_has_the_products() -> None:
    assert dot_shapes(program("full").step) >= KERNELS


def test_a_logged_norm_of_the_full_tree_brings_the_products_back() -> None:
    """The negative control: the test of frozen kernels would see it."""
    recipe, _, start, frozen, _ = program("embeddings")

    def step(state: state_lib.State, frozen: dict, batch: batches.Batch) -> tuple:
        first = jax.tree.map(lambda leaf: leaf[0], (batch, batch.loss_mask))
        weights = tree.combine(state.trainable, frozen)
        gradients = jax.grad(lambda weights: step_lib._loss(recipe, weights, {}, *first, None))(weights)
        mine = {"params": {"embed_tokens": gradients["params"]["embed_tokens"]}}
        updates, opt_state = recipe.tx.update(mine, state.opt_state, state.trainable)
        return optax.apply_updates(state.trainable, updates), opt_state, optimizer.global_norm(gradients)

    assert dot_shapes(jax.jit(step).lower(start(), frozen, make_batch()).compile()) >= KERNELS


def test_frozen_leaves_stay_and_trainables_move() -> None:
    chosen = program("new_rows")
    before, start = jax.device_get(chosen.frozen), jax.device_get(chosen.start().trainable)
    state, _ = run("new_rows", steps=3)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(chosen.frozen))
    rows = CONFIG.extension_rows
    for matrix in ("embed_tokens", "lm_head"):
        old, new = (tree_["params"][matrix]["extension"] for tree_ in (start, state.trainable))
        assert np.any(old[:rows] != new[:rows])
        assert not np.any(new[rows:]), "spare rows stay zero"


def test_the_state_is_donated_and_the_base_is_not() -> None:
    chosen = program("embeddings")
    state = chosen.start()
    chosen.step(state, chosen.frozen, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(chosen.frozen))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    _, step, start, frozen, _ = program("embeddings")
    bad = make_batch()._replace(loss_mask=np.full((1, BATCH, LENGTH), np.inf, np.float32))
    state, _ = step(start(), frozen, make_batch(1, 0))
    before = jax.device_get(state)
    for streak in (1, 2):
        state, metrics = step(state, frozen, bad)
        assert (int(metrics.skipped), int(metrics.streak)) == (streak, streak)
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, (before.trainable, before.opt_state), (after.trainable, after.opt_state))
    assert int(after.step) == 3, "the batches are consumed"
    state, metrics = step(state, frozen, make_batch(1, 1))
    assert (int(metrics.skipped), int(metrics.streak)) == (2, 0)
    # The update is the one that would have come without the bad batches.
    assert metrics.loss == single("embeddings")[1][1].loss
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.trainable), single("embeddings")[0].trainable)


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    """Loss and gradient are fine; the learning rate alone makes the new weights infinite."""
    _, _, start, frozen, _ = chosen = program("embeddings")
    rules = stages.plan(config.Stage("embeddings"), weights("embeddings")).trainable
    rate = optimizer.schedule(config.Schedule(kind="constant", warmup_steps=0), peak=1e30, steps=10)
    recipe = chosen.recipe._replace(tx=optimizer.make(config.Optimizer(), rate, rules), rate=rate)
    before = jax.device_get(start())
    after, metrics = jax.jit(step_lib.train(recipe))(before, frozen, make_batch())
    assert np.isfinite(metrics.loss) and np.isfinite(metrics.grad_norm) and int(metrics.streak) == 1
    jax.tree.map(np.testing.assert_array_equal, (before.trainable, before.opt_state), jax.device_get((after.trainable, after.opt_state)))


def test_dropout_depends_on_seed_and_step_only() -> None:
    first, again = run("pretrain_lora", dropout=0.5), run("pretrain_lora", dropout=0.5)
    jax.tree.map(np.testing.assert_array_equal, first[0], again[0])
    assert first[1][0].loss != single("pretrain_lora")[1][0].loss


def test_a_batch_without_supervised_tokens_gives_no_nan() -> None:
    chosen = program("embeddings")
    empty = make_batch()._replace(loss_mask=np.zeros((1, BATCH, LENGTH), np.float32))
    _, metrics = chosen.step(chosen.start(), chosen.frozen, empty)
    assert metrics.loss == 0 and metrics.skipped == 0
