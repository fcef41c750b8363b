"""One update, compiled once: gradients of the trainables alone, an optax step, and a way out for numbers that are not finite.

The mask has already parted the tree, so the gradient of a frozen leaf is not computed, then dropped: it is never asked for.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zhllama_jax import arrays, tree
from zhllama_jax.data import batches
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.model import loss as loss_lib
from zhllama_jax.train import optimizer
from zhllama_jax.train import state as state_lib


class Metrics(NamedTuple):
    """Scalars of one step, global over all devices.

    Attributes:
      loss: mean -ln p over the supervised tokens of the global batch.
      tokens: supervised tokens.
      seen: tokens that are not padding.
      grad_norm: global norm of the trainables' gradient, before the clip.
      learning_rate: of this update.
      skipped: updates left out up to now.
      streak: updates left out in a row up to now.
    """

    loss: arrays.Array
    tokens: arrays.Array
    seen: arrays.Array
    grad_norm: arrays.Array
    learning_rate: arrays.Array
    skipped: arrays.Array
    streak: arrays.Array


Step = Callable[[state_lib.State, arrays.Tree, batches.Batch], tuple[state_lib.State, Metrics]]
Evaluate = Callable[[arrays.Tree, arrays.Tree, batches.Batch], tuple[arrays.Array, arrays.Array]]


class Recipe(NamedTuple):
    """What the compiled functions are made from.

    Attributes:
      config: the model's shape.
      tx: the optax chain over the trainables.
      rate: learning rate by update, for the metrics.
      options: how the model computes.
      seed: of the dropout; the key of step t is fold_in(key(seed), t).
      chunk: tokens whose logits exist at a time, over all devices.
    """

    config: model_config.LlamaConfig
    tx: optax.GradientTransformation
    rate: optimizer.Schedule
    options: llama.Options
    seed: int = 0
    chunk: int = 512


def train(recipe: Recipe) -> Step:
    """The training step, to be compiled by `compiled`.

    It takes (state, frozen leaves, batch), where the batch's arrays are [A, B, T]: A micro-batches, one after another. Their
    gradients are added in float32. Each token's weight is 1 / supervised tokens of the whole batch, so the result does not depend
    on how it was split.
    """

    def step(state: state_lib.State, frozen: arrays.Tree, batch: batches.Batch) -> tuple[state_lib.State, Metrics]:
        tokens = jnp.sum(batch.loss_mask, dtype=jnp.float32)
        weight_ABT = batch.loss_mask.astype(jnp.float32) / jnp.maximum(tokens, 1.0)
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        loss, gradients = _gradients(recipe, state.trainable, frozen, batch, weight_ABT, key)
        grad_norm = optimizer.global_norm(gradients)
        updates, opt_state = recipe.tx.update(gradients, state.opt_state, state.trainable)
        # The update too: a rate that is far too high makes weights of finite gradients infinite, and no later step would mend them.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(optimizer.global_norm(updates))
        trainable = optax.apply_updates(state.trainable, updates)
        select = functools.partial(jnp.where, finite)
        bad = (~finite).astype(jnp.int32)
        streak = (state.streak + 1) * bad
        metrics = Metrics(
            loss=loss,
            tokens=tokens,
            seen=jnp.sum(batch.segment_ids != 0, dtype=jnp.float32),
            grad_norm=grad_norm,
            learning_rate=recipe.rate(state.step - state.skipped),
            skipped=state.skipped + bad,
            streak=streak,
        )
        new = state_lib.State(
            step=state.step + 1,
            trainable=jax.tree.map(select, trainable, state.trainable),
            opt_state=jax.tree.map(select, opt_state, state.opt_state),
            skipped=metrics.skipped,
            streak=streak,
        )
        return new, metrics

    return step


def evaluate(recipe: Recipe) -> Evaluate:
    """A function of (trainable, frozen, batch of [B, T]) that gives (sum of -ln p, supervised tokens), to be jitted."""

    def score(trainable: arrays.Tree, frozen: arrays.Tree, batch: batches.Batch) -> tuple[arrays.Array, arrays.Array]:
        weight_BT = batch.loss_mask.astype(jnp.float32)
        return _loss(recipe, trainable, frozen, batch, weight_BT, None), jnp.sum(weight_BT)

    return score


def compiled(function: Step, state: state_lib.State) -> Any:
    """Jits a training step: the state is donated and stays under its shardings; the frozen leaves are neither."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(function, donate_argnums=(0,), out_shardings=(places, None))


def _loss(
    recipe: Recipe,
    trainable: Mapping[str, Any],
    frozen: Mapping[str, Any],
    batch: batches.Batch,
    weight_BT: arrays.Array,
    key: arrays.Array | None,
) -> arrays.Array:
    """Σ weight · -ln p over one micro-batch."""
    weights = tree.combine(trainable, frozen)
    x_BTD, _ = llama.hidden_states(
        recipe.config,
        weights,
        batch.tokens,
        positions_BT=batch.positions,
        segment_ids_BT=batch.segment_ids,
        options=recipe.options,
        dropout_key=key if recipe.options.lora_dropout else None,
    )
    return loss_lib.next_token(recipe.config, weights["params"], x_BTD, batch.targets, weight_BT, chunk=recipe.chunk)


def _gradients(
    recipe: Recipe, trainable: arrays.Tree, frozen: arrays.Tree, batch: batches.Batch, weight_ABT: arrays.Array, key: arrays.Array
) -> tuple[arrays.Array, arrays.Tree]:
    """Loss and gradient of the trainables over all micro-batches."""
    of = jax.value_and_grad(functools.partial(_loss, recipe))
    accumulation = weight_ABT.shape[0]
    if accumulation == 1:
        first = jax.tree.map(lambda leaf: leaf[0], (batch, weight_ABT))
        return of(trainable, frozen, *first, jax.random.fold_in(key, 0))

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        index, micro, weight_BT = part
        return jax.tree.map(jnp.add, carry, of(trainable, frozen, micro, weight_BT, jax.random.fold_in(key, index))), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), (0.0 * weight_ABT[0, 0, 0], trainable))
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation), batch, weight_ABT))
    return total
