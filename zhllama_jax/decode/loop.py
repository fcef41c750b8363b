"""Prefill and the decoding loop, compiled: static shapes in, static shapes out; knows neither buckets nor strings.

Prompts are right-aligned, so every row of a batch writes the same cache slot at the same step:

    prompts_BT    . . 5 6 7      slot     0 1 2 3 4 | 5 6 7
                  1 2 3 4 5      row 0    . . 5 6 7 | a b c
                                 row 1    1 2 3 4 5 | d e f

A row that has ended goes on being computed, unseen, until the last row ends. What a row draws depends on its own logits, its
seed and the number of tokens it has, never on its neighbours or on how the steps are cut into calls.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zhllama_jax import arrays
from zhllama_jax.decode import sampling
from zhllama_jax.model import cache as cache_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama


class Shape(NamedTuple):
    """What a program is compiled for besides the shapes of its arrays; hashable.

    Attributes:
      config: the model's shape.
      options: how the model computes; the cache has its dtype.
      new_tokens: room for new ids, W.
      num_candidates: see `sampling.num_candidates`.
    """

    config: config_lib.LlamaConfig
    options: llama.Options
    new_tokens: int
    num_candidates: int


class Request(NamedTuple):
    """What was asked for; constant while a batch is decoded.

    Attributes:
      controls: sampling rules, a value a row.
      seed_B: uint32.
      limit_B: the most new ids, int32, at most W; 0 for rows that only fill the batch.
      stop_ids_E: ids that end a row; -1 fills the rest.
    """

    controls: sampling.Controls
    seed_B: arrays.Array
    limit_B: arrays.Array
    stop_ids_E: arrays.Array


class State(NamedTuple):
    """A batch under way.

    Attributes:
      cache: keys and values of every token but `last_B`.
      step: tokens drawn so far, a scalar int32; the same for all rows.
      last_B: the token drawn last, which goes through the model next.
      position_B: its RoPE position.
      seen_BV: ids that a row holds, prompt included.
      output_BW: new ids; a row's first `length_B` are its answer, stop id not included.
      length_B: int32.
      stopped_B: whether a stop id ended the row.
      active_B: whether the row goes on.
    """

    cache: cache_lib.KVCache
    step: arrays.Array
    last_B: arrays.Array
    position_B: arrays.Array
    seen_BV: arrays.Array
    output_BW: arrays.Array
    length_B: arrays.Array
    stopped_B: arrays.Array
    active_B: arrays.Array


class Answers(NamedTuple):
    """The part of a state that a caller reads."""

    output_BW: arrays.Array
    length_B: arrays.Array
    stopped_B: arrays.Array
    active_B: arrays.Array


def answers(state: State) -> Answers:
    """What has been generated so far."""
    return Answers(state.output_BW, state.length_B, state.stopped_B, state.active_B)


def stop(state: State, row: int, length: int) -> State:
    """Ends a row as if a stop id had come after its first `length` new ids. The old state's cache lives on in the new one."""
    chosen_B = jnp.arange(state.active_B.shape[0]) == row
    return state._replace(
        length_B=jnp.where(chosen_B, length, state.length_B),
        stopped_B=state.stopped_B | chosen_B,
        active_B=state.active_B & ~chosen_B,
    )


def _draw(shape: Shape, state: State, logits_BV: arrays.Array, request: Request) -> State:
    """Draws the next token of every row and writes it down; `position_B` moves on by one."""
    rows_B = jnp.arange(logits_BV.shape[0])
    key_B = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), state.step))(request.seed_B)
    id_B = sampling.sample(logits_BV, state.seen_BV, request.controls, key_B, num_candidates=shape.num_candidates)

    stop_B = state.active_B & (id_B[:, None] == request.stop_ids_E[None]).any(axis=1)
    kept_B = state.active_B & ~stop_B
    length_B = state.length_B + kept_B
    column_B1 = jnp.where(kept_B, id_B, 0)[:, None]
    return state._replace(
        step=state.step + 1,
        last_B=id_B,
        position_B=state.position_B + 1,
        seen_BV=jnp.asarray(state.seen_BV).at[rows_B, id_B].max(kept_B),
        output_BW=jax.lax.dynamic_update_slice(state.output_BW, column_B1, (0, state.step)),
        length_B=length_B,
        stopped_B=state.stopped_B | stop_B,
        active_B=kept_B & (length_B < request.limit_B),
    )


def _prefill(shape: Shape, weights: Mapping[str, Any], prompts_BT: arrays.Array, prompt_length_B: arrays.Array, request: Request) -> State:
    batch, length = prompts_BT.shape
    rows_B = jnp.arange(batch)
    position_BT = jnp.arange(length)[None] - (length - prompt_length_B)[:, None]
    real_BT = position_BT >= 0
    x_BTD, cache = llama.hidden_states(
        shape.config,
        weights,
        prompts_BT,
        positions_BT=jnp.maximum(position_BT, 0),
        segment_ids_BT=real_BT.astype(jnp.int32),
        cache=cache_lib.init(shape.config, batch, length + shape.new_tokens, shape.options.dtype),
        options=shape.options,
    )
    assert cache is not None, "hidden_states returns the cache that it was given"
    state = State(
        cache=cache,
        step=jnp.zeros((), jnp.int32),
        last_B=prompts_BT[:, -1],
        position_B=prompt_length_B - 1,
        seen_BV=jnp.zeros((batch, shape.config.vocab_size), bool).at[rows_B[:, None], prompts_BT].max(real_BT),
        output_BW=jnp.zeros((batch, shape.new_tokens), jnp.int32),
        length_B=jnp.zeros((batch,), jnp.int32),
        stopped_B=jnp.zeros((batch,), bool),
        active_B=request.limit_B > 0,
    )
    return _draw(shape, state, llama.logits(shape.config, weights["params"], x_BTD[:, -1]), request)


def _advance(shape: Shape, weights: Mapping[str, Any], state: State, request: Request, steps: arrays.Array) -> State:
    def step(state: State) -> State:
        x_B1D, cache = llama.hidden_states(
            shape.config,
            weights,
            state.last_B[:, None],
            positions_BT=state.position_B[:, None],
            cache=state.cache,
            options=shape.options,
        )
        assert cache is not None, "hidden_states returns the cache that it was given"
        return _draw(shape, state._replace(cache=cache), llama.logits(shape.config, weights["params"], x_B1D[:, 0]), request)

    end = jnp.minimum(state.step + steps, shape.new_tokens)
    return jax.lax.while_loop(lambda state: state.active_B.any() & (state.step < end), step, state)


@functools.partial(jax.jit, static_argnums=0)
def prefill(shape: Shape, weights: Mapping[str, Any], prompts_BT: arrays.Array, prompt_length_B: arrays.Array, request: Request) -> State:
    """Runs the prompts and draws the first token of every row.

    Args:
      shape: what is static.
      weights: the collections `params` and, where there is one, `lora`.
      prompts_BT: prompts at the right, anything at the left, int32.
      prompt_length_B: their lengths, each from 1 to T.
      request: limits, seeds and rules.
    """
    return _prefill(shape, weights, prompts_BT, prompt_length_B, request)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def advance(shape: Shape, weights: Mapping[str, Any], state: State, request: Request, steps: arrays.Array) -> State:
    """Draws up to `steps` (a traced scalar) more tokens a row, fewer when all rows end. The state is consumed: use the new one."""
    return _advance(shape, weights, state, request, steps)


@functools.partial(jax.jit, static_argnums=0)
def run(shape: Shape, weights: Mapping[str, Any], prompts_BT: arrays.Array, prompt_length_B: arrays.Array, request: Request) -> Answers:
    """`prefill` and `advance` to the end as one program, whose cache never leaves it."""
    state = _prefill(shape, weights, prompts_BT, prompt_length_B, request)
    return answers(_advance(shape, weights, state, request, jnp.int32(shape.new_tokens)))
