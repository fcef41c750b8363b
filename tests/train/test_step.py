"""One update: nothing is computed for frozen kernels, splits do not matter, numbers that are not finite change nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zhllama_jax import tree
from zhllama_jax.data import batches
from zhllama_jax.lora import adapters
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


def make(stage: config.Stage, *, clip_norm: float = 1.0, dropout: float = 0.0, mesh=None) -> tuple:
    """(recipe, state, frozen) of a stage on random weights, LoRA factors away from zero, so that all have a gradient."""
    mesh = mesh or mesh_lib.make(devices=jax.devices()[:1])
    keys = jax.random.split(jax.random.key(0), 3)
    weights = {"params": llama.init(CONFIG, keys[0])}
    if stage.lora_targets:
        lora = adapters.init(keys[1], weights["params"], config.Lora(rank=4, alpha=8).targeting(stage.lora_targets))
        nudge = functools.partial(jax.random.normal, keys[2])
        weights["lora"] = tree.map_with_path(lambda path, leaf: 0.02 * nudge(leaf.shape) if path.endswith("/b") else leaf, lora)
    plan = stages.plan(stage, weights)
    trainable, frozen = tree.partition(place.weights(weights, mesh), plan.mask)
    rate = optimizer.schedule(config.Schedule(kind="constant", warmup_steps=0), peak=1e-2, steps=10)
    tx = optimizer.make(config.Optimizer(clip_norm=clip_norm), rate, plan.trainable)
    recipe = step_lib.Recipe(CONFIG, tx, rate, llama.Options(lora_dropout=dropout), chunk=32)
    return recipe, state_lib.init(trainable, tx, mesh), frozen


def run(stage: config.Stage, *, steps: int = 2, accumulation: int = 1, mesh=None, **options) -> tuple:
    """(state, list of metrics) after some steps."""
    recipe, state, frozen = make(stage, mesh=mesh, **options)
    step = step_lib.compiled(step_lib.train(recipe), state)
    history = []
    for number in range(steps):
        batch = make_batch(accumulation, number)
        batch = place.batch(batch, mesh, rules.BATCH) if mesh else batch
        state, metrics = step(state, frozen, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


@functools.cache
def single(preset: str) -> tuple:
    """The reference: one device, one micro-batch."""
    return run(config.Stage(preset))


def assert_same(left: tuple, right: tuple, rtol: float) -> None:
    """Losses agree to `rtol`, weights and moments to that share of their size."""
    for ours, theirs in zip(left[1], right[1], strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=rtol)
        np.testing.assert_allclose(ours.grad_norm, theirs.grad_norm, rtol=10 * rtol)
        assert ours.tokens == theirs.tokens
    for ours, theirs in zip(jax.tree.leaves(left[0].opt_state), jax.tree.leaves(right[0].opt_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=100 * rtol, atol=10 * rtol * max(np.abs(theirs).max(), 1e-30))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_any_split_into_micro_batches_gives_the_same_update(accumulation) -> None:
    assert_same(run(config.Stage("sft"), accumulation=accumulation), single("sft"), rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=["data", "fsdp", "all three"])
def test_any_mesh_gives_the_same_update(shape) -> None:
    assert_same(run(config.Stage("sft"), mesh=mesh_lib.make(*shape)), single("sft"), rtol=1e-5)


def test_loss_is_the_mean_over_supervised_tokens() -> None:
    recipe, state, frozen = make(config.Stage("full"))
    batch = jax.tree.map(lambda field: field[0], make_batch())
    weights = tree.combine(state.trainable, frozen)
    x_BTD, _ = llama.hidden_states(CONFIG, weights, batch.tokens, positions_BT=batch.positions, segment_ids_BT=batch.segment_ids)
    nats_BTV = -jax.nn.log_softmax(llama.logits(CONFIG, weights["params"], x_BTD))
    nats_BT = jnp.take_along_axis(nats_BTV, batch.targets[..., None], axis=-1)[..., 0]
    expected = jnp.sum(nats_BT * batch.loss_mask) / batch.loss_mask.sum()
    metrics = single("full")[1][0]
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    assert metrics.tokens == batch.loss_mask.sum() and metrics.seen == 13 * BATCH
    total, tokens = jax.jit(step_lib.evaluate(recipe))(state.trainable, frozen, batch)
    np.testing.assert_allclose(total / tokens, expected, rtol=1e-5)


def test_updates_are_those_of_optax_masked_over_the_full_tree() -> None:
    """The partition is optax's mask, made so that frozen gradients are not even asked for."""
    recipe, state, frozen = make(config.Stage("pretrain_lora"), clip_norm=0.1)
    weights = tree.combine(jax.device_get(state.trainable), jax.device_get(frozen))
    plan = stages.plan(config.Stage("pretrain_lora"), weights)
    mask = tree.unflatten(plan.mask)
    inside = optimizer.make(config.Optimizer(clip_norm=0.1), recipe.rate, plan.rules)
    full = optax.chain(
        optax.masked(inside, mask), optax.masked(optax.set_to_zero(), jax.tree.map(lambda learns: not learns, mask))
    )
    batch = make_batch()
    weight_ABT = batch.loss_mask / batch.loss_mask.sum()
    first = jax.tree.map(lambda leaf: leaf[0], (batch, weight_ABT))

    @jax.jit
    def update(weights):
        gradients = jax.grad(lambda weights: step_lib._loss(recipe, weights, {}, *first, None))(weights)
        return optax.apply_updates(weights, full.update(gradients, full.init(weights), weights)[0])

    new, _ = step_lib.compiled(step_lib.train(recipe), state)(state, frozen, batch)
    ours, theirs = tree.flatten(tree.combine(new.trainable, frozen)), tree.flatten(update(weights))
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, rtol=1e-5, atol=1e-7, err_msg=path)
        if not plan.mask[path]:
            np.testing.assert_array_equal(value, tree.flatten(frozen)[path])


def dot_shapes(compiled) -> set[str]:
    """The last two sizes of every matrix product's result in the optimised HLO."""
    text = compiled.as_text()
    shapes = re.findall(r"= \w+\[([\d,]+)\][^=]*? dot\(", text)
    shapes += re.findall(r'= \w+\[([\d,]+)\][^=]*? custom-call\([^\n]*(?:matmul|gemm|dot)', text, flags=re.IGNORECASE)
    assert shapes, "the program multiplies matrices"
    return {",".join(shape.split(",")[-2:]) for shape in shapes}


def transposed(shapes: set[str]) -> set[str]:
    return {",".join(reversed(shape.split(","))) for shape in shapes}


@pytest.mark.parametrize("preset", ["embeddings", "pretrain_lora", "new_rows"])
def test_no_product_of_a_frozen_kernels_shape(preset) -> None:
    recipe, state, frozen = make(config.Stage(preset))
    step = step_lib.compiled(step_lib.train(recipe), state)
    lowered = step.lower(state, frozen, make_batch())
    found = dot_shapes(lowered.compile())
    assert not found & (KERNELS | transposed(KERNELS)), f"a frozen kernel's gradient is computed: {found}"
    # What comes out is the trainables, their moments and counters, and the metrics; nothing of the frozen tree.
    outputs = [leaf.shape for leaf in jax.tree.leaves(lowered.out_info)]
    own = [leaf.shape for leaf in jax.tree.leaves(state)] + [()] * len(step_lib.Metrics._fields)
    assert sorted(outputs) == sorted(own)
    assert not {leaf.shape for leaf in jax.tree.leaves(frozen) if leaf.ndim == 3} & set(outputs)


def test_a_logged_norm_of_the_full_tree_brings_the_products_back() -> None:
    """The negative control: the test above would see it."""
    recipe, state, frozen = make(config.Stage("embeddings"))
    batch = make_batch()
    first = jax.tree.map(lambda leaf: leaf[0], (batch, batch.loss_mask))

    def step(state, frozen):
        weights = tree.combine(state.trainable, frozen)
        gradients = jax.grad(lambda weights: step_lib._loss(recipe, weights, {}, *first, None))(weights)
        mine = {"params": {"embed_tokens": gradients["params"]["embed_tokens"]}}
        updates, opt_state = recipe.tx.update(mine, state.opt_state, state.trainable)
        return optax.apply_updates(state.trainable, updates), opt_state, optimizer.global_norm(gradients)

    found = dot_shapes(jax.jit(step).lower(state, frozen).compile())
    assert found & (KERNELS | transposed(KERNELS))


def test_full_training_has_the_products() -> None:
    recipe, state, frozen = make(config.Stage("full"))
    found = dot_shapes(step_lib.compiled(step_lib.train(recipe), state).lower(state, frozen, make_batch()).compile())
    assert found & (KERNELS | transposed(KERNELS))


def test_frozen_leaves_stay_and_trainables_move() -> None:
    recipe, state, frozen = make(config.Stage("new_rows"))
    before, start = jax.device_get(frozen), jax.device_get(state.trainable)
    step = step_lib.compiled(step_lib.train(recipe), state)
    for number in range(3):
        state, _ = step(state, frozen, make_batch(1, number))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))
    rows = CONFIG.extension_rows
    for matrix in ("embed_tokens", "lm_head"):
        old, new = start["params"][matrix]["extension"], np.asarray(state.trainable["params"][matrix]["extension"])
        assert np.any(old[:rows] != new[:rows])
        assert not np.any(new[rows:]), "spare rows stay zero"


def test_the_state_is_donated_and_the_base_is_not() -> None:
    recipe, state, frozen = make(config.Stage("embeddings"))
    step_lib.compiled(step_lib.train(recipe), state)(state, frozen, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(frozen))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    recipe, state, frozen = make(config.Stage("embeddings"))
    step = step_lib.compiled(step_lib.train(recipe), state)
    bad = make_batch()._replace(loss_mask=np.full((1, BATCH, LENGTH), np.inf, np.float32))
    state, _ = step(state, frozen, make_batch(1, 0))
    before = jax.device_get(state)
    for streak in (1, 2):
        state, metrics = step(state, frozen, bad)
        assert (int(metrics.skipped), int(metrics.streak)) == (streak, streak)
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, (before.trainable, before.opt_state), (after.trainable, after.opt_state))
    assert int(after.step) == 3, "the batches are consumed"
    state, metrics = step(state, frozen, make_batch(1, 1))
    assert (int(metrics.skipped), int(metrics.streak)) == (2, 0)
    assert np.isfinite(metrics.loss)
    # The update is the one that would have come without the bad batches.
    np.testing.assert_allclose(metrics.loss, single("embeddings")[1][1].loss, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), jax.device_get(state.trainable), single("embeddings")[0].trainable)


def test_dropout_depends_on_seed_and_step_only() -> None:
    stage = config.Stage("sft")
    first, again = run(stage, dropout=0.5), run(stage, dropout=0.5)
    jax.tree.map(np.testing.assert_array_equal, first[0], again[0])
    assert first[1][0].loss != single("sft")[1][0].loss


def test_a_batch_without_supervised_tokens_gives_no_nan() -> None:
    recipe, state, frozen = make(config.Stage("embeddings"))
    empty = make_batch()._replace(loss_mask=np.zeros((1, BATCH, LENGTH), np.float32))
    _, metrics = step_lib.compiled(step_lib.train(recipe), state)(state, frozen, empty)
    assert metrics.loss == 0 and metrics.skipped == 0
