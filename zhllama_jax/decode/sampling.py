"""Logits to ids: pure functions of arrays, every parameter an array of one value a row, so that no value causes a compilation.

The order is Hugging Face's: repetition penalty → temperature → top-k → top-p → min-p. The filters work on candidates, the
likeliest tokens of a row in falling order, `score_BC` and `id_BC`: a nucleus inside the forty likeliest needs no sort of fifty
thousand. Only the number of candidates C is static (`num_candidates`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zhllama_jax import arrays
from zhllama_jax.decode import config as config_lib

# Candidates beyond top_k that are looked at, since tokens that tie with the last of the k stay in, as in transformers.
TIES = 24


class Controls(NamedTuple):
    """`config.Sampling` of every row, each [B]: float32, but `top_k_B` int32."""

    temperature_B: arrays.Array
    top_k_B: arrays.Array
    top_p_B: arrays.Array
    repetition_penalty_B: arrays.Array
    min_p_B: arrays.Array


def controls(rows: Sequence[config_lib.Sampling]) -> Controls:
    """The controls of a batch, one `Sampling` a row."""

    def column(name: str, dtype: type) -> np.ndarray:
        return np.asarray([getattr(row, name) for row in rows], dtype)

    return Controls(
        temperature_B=column("temperature", np.float32),
        top_k_B=column("top_k", np.int32),
        top_p_B=column("top_p", np.float32),
        repetition_penalty_B=column("repetition_penalty", np.float32),
        min_p_B=column("min_p", np.float32),
    )


def num_candidates(rows: Sequence[config_lib.Sampling], vocab_size: int) -> int:
    """C for a batch: 1 when all rows are greedy, all of the vocabulary when one has no top_k, else a power of two with room for ties."""
    drawn = [row for row in rows if not row.greedy]
    if not drawn:
        return 1
    if any(row.top_k == 0 for row in drawn):
        return vocab_size
    return min(vocab_size, 1 << (max(row.top_k for row in drawn) + TIES - 1).bit_length())


def repetition_penalty(logits_BV: arrays.Array, seen_BV: arrays.Array, penalty_B: arrays.Array) -> arrays.Array:
    """Makes seen ids less likely: positive logits are divided by the penalty, negative ones multiplied."""
    penalty_B1 = jnp.asarray(penalty_B)[:, None]
    penalized_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, penalized_BV, logits_BV)


def temperature(score_BC: arrays.Array, temperature_B: arrays.Array) -> arrays.Array:
    """Divides by the temperature; rows of temperature 0 are left as they are."""
    temperature_B1 = jnp.asarray(temperature_B)[:, None]
    return score_BC / jnp.where(temperature_B1 > 0, temperature_B1, 1)


def top_k(score_BC: arrays.Array, k_B: arrays.Array) -> arrays.Array:
    """-inf for candidates below the k-th, whose ties stay; k = 0 keeps all. Scores fall along a row."""
    last_B1 = jnp.clip(jnp.asarray(k_B)[:, None] - 1, 0, score_BC.shape[1] - 1)
    least_B1 = jnp.take_along_axis(score_BC, last_B1, axis=1)
    return jnp.where((score_BC >= least_B1) | (jnp.asarray(k_B)[:, None] == 0), score_BC, -jnp.inf)


def top_p(score_BC: arrays.Array, p_B: arrays.Array) -> arrays.Array:
    """-inf for candidates before which probability p is already reached. Scores fall along a row.

    With p = 0.8 and probabilities 0.5 0.2 0.2 0.1, the sums before each are 0 0.5 0.7 0.9: the first three stay.
    """
    p_B1 = jnp.asarray(p_B)[:, None]
    probability_BC = jax.nn.softmax(score_BC, axis=-1)
    before_BC = jnp.cumsum(probability_BC, axis=-1) - probability_BC
    # The comparison with 1 keeps the whole tail, of which rounding would take some.
    return jnp.where((before_BC < p_B1) | (p_B1 >= 1), score_BC, -jnp.inf)


def min_p(score_BC: arrays.Array, p_B: arrays.Array) -> arrays.Array:
    """-inf for candidates with less than p times the probability of the likeliest. Scores fall along a row."""
    return jnp.where(score_BC >= score_BC[:, :1] + jnp.log(jnp.asarray(p_B))[:, None], score_BC, -jnp.inf)


def candidates(logits_BV: arrays.Array, seen_BV: arrays.Array, controls: Controls, count: int) -> tuple[arrays.Array, arrays.Array]:
    """The `count` likeliest tokens of each row after all rules: (score_BC, id_BC), scores falling, -inf where a rule took one out."""
    logits_BV = repetition_penalty(logits_BV, seen_BV, controls.repetition_penalty_B)
    likeliest_BC, id_BC = jax.lax.top_k(logits_BV, count)
    score_BC = temperature(likeliest_BC, controls.temperature_B)
    score_BC = top_k(score_BC, controls.top_k_B)
    score_BC = top_p(score_BC, controls.top_p_B)
    return min_p(score_BC, controls.min_p_B), id_BC


def draw(score_BC: arrays.Array, uniform_B: arrays.Array) -> arrays.Array:
    """Index [B] of the first candidate at which the summed probability passes the row's number in [0, 1).

    One number a row, not one a candidate: the draw does not depend on how many candidates the batch looks at.
    """
    kept_BC = score_BC > -jnp.inf
    sum_BC = jnp.cumsum(jax.nn.softmax(score_BC, axis=-1), axis=-1)
    # The last sum stands for 1, which rounding misses; and a parallel sum need not rise everywhere, hence only kept ones count.
    passed_BC = kept_BC & (sum_BC > uniform_B[:, None] * sum_BC[:, -1:])
    return jnp.argmax(passed_BC, axis=-1)


def sample(logits_BV: arrays.Array, seen_BV: arrays.Array, controls: Controls, key_B: arrays.Array, *, num_candidates: int) -> arrays.Array:
    """The next id of every row.

    Args:
      logits_BV: float32 logits over the logical ids.
      seen_BV: ids that the row holds already, for the repetition penalty.
      controls: the rows' rules. Rows of temperature 0 take the likeliest token.
      key_B: one PRNG key a row; with the row's own logits and controls it alone decides the draw.
      num_candidates: static; `num_candidates(...)` of the batch.

    Returns:
      id_B, int32.
    """
    score_BC, id_BC = candidates(logits_BV, seen_BV, controls, num_candidates)
    if num_candidates == 1:
        return id_BC[:, 0]
    uniform_B = jax.vmap(jax.random.uniform)(key_B)
    index_B = jnp.where(jnp.asarray(controls.temperature_B) > 0, draw(score_BC, uniform_B), 0)
    return jnp.take_along_axis(id_BC, index_B[:, None], axis=1)[:, 0]
