"""AdamW with a schedule, over the trainable leaves only; learning-rate scale and decay by rule.

One update of a leaf with rule r, where m and v are Adam's bias-corrected moments of the clipped gradient:

    w ← w - lr(t) · r.lr_scale · (m / (√v + eps) + decay_r · w)

The clip's norm is that of the trainables alone: the chain never sees a frozen leaf.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from zhllama_jax import arrays
from zhllama_jax.train import config as config_lib

Schedule = Callable[[arrays.Array], arrays.Array]


def schedule(config: config_lib.Schedule, *, peak: float, steps: int) -> Schedule:
    """The learning rate of update t = 0 … steps - 1, as in the reference (transformers' `get_cosine_schedule_with_warmup`).

    lr(t) = peak · t / W while t < W; after that, with p = (t - W) / (steps - W), peak · (1 + cos πp) / 2, peak · (1 - p) or peak.

    Args:
      config: kind and length W of the warm-up.
      peak: the highest learning rate.
      steps: updates in all.
    """
    warmup = warmup_steps(config, steps)

    def rate(count: arrays.Array) -> arrays.Array:
        t = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((t - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        decayed = {
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(progress),
        }[config.kind]
        return peak * jnp.where(t < warmup, t / max(warmup, 1), decayed)

    return rate


def warmup_steps(config: config_lib.Schedule, steps: int) -> int:
    """The warm-up's length in steps; a ratio is rounded up, as in the reference."""
    return math.ceil(config.warmup_ratio * steps) if config.warmup_steps is None else config.warmup_steps


def make(config: config_lib.Optimizer, rate: Schedule, rules: Mapping[str, config_lib.Rule]) -> optax.GradientTransformation:
    """The optax chain for a tree of trainables.

    Args:
      config: AdamW's constants.
      rate: learning rate by update.
      rules: the rule of every trainable leaf by path.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        _decay_and_scale(rules, config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def global_norm(gradients: arrays.Tree) -> arrays.Array:
    """The Euclidean norm of all leaves together, in float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(gradients)))


def _decay_and_scale(rules: Mapping[str, config_lib.Rule], weight_decay: float) -> optax.GradientTransformation:
    """Adds each leaf's decay and multiplies by its learning-rate scale."""

    def leaf(path: tuple[jax.tree_util.DictKey, ...], update: arrays.Array, weight: arrays.Array) -> arrays.Array:
        rule = rules["/".join(key.key for key in path)]
        decay = weight_decay if rule.weight_decay is None else rule.weight_decay
        decayed = update + decay * weight if decay else update
        return decayed * rule.lr_scale if rule.lr_scale != 1.0 else decayed

    def update(updates: arrays.Tree, weights: arrays.Tree | None) -> arrays.Tree:
        assert weights is not None, "the step passes the trainables: decay needs them"
        return jax.tree_util.tree_map_with_path(leaf, updates, weights)

    return optax.stateless(update)
