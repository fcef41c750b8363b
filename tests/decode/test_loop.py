"""Tests of the compiled loop: cached equals uncached, padding is invisible, cutting into calls changes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import loop, sampling
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

GREEDY = config_lib.Sampling(temperature=0, repetition_penalty=1.0)
DRAWN = config_lib.Sampling(temperature=1.0, top_k=20, top_p=0.95)
T = W = 16  # the shapes of test_generate.py, whose programs serve here too


def prepare(
    config: model_config.LlamaConfig, prompts: list[list[int]], rule: config_lib.Sampling, *, stop: tuple[int, ...] = ()
) -> tuple[loop.Shape, np.ndarray, np.ndarray, loop.Request]:
    """The arguments of the compiled programs; the padding is 7, an ordinary id."""
    shape = loop.Shape(config, llama.Options(), W, sampling.num_candidates([rule], config.vocab_size))
    prompts_BT = np.full((len(prompts), T), 7, np.int32)
    for row, prompt in zip(prompts_BT, prompts, strict=True):
        row[T - len(prompt) :] = prompt
    request = loop.Request(
        controls=sampling.controls([rule] * len(prompts)),
        seed_B=np.arange(len(prompts), dtype=np.uint32),
        limit_B=np.full(len(prompts), W, np.int32),
        stop_ids_E=np.asarray([*stop, *[-1] * (8 - len(stop))], np.int32),
    )
    return shape, prompts_BT, np.asarray([len(prompt) for prompt in prompts], np.int32), request


PROMPTS = [[1, 5, 9, 160], [1, 199, 42, 13, 14, 15, 80, 3], [1], [4, 3, 2]]


def uncached(forward: Callable[[np.ndarray], jax.Array], prompt: list[int], rule: config_lib.Sampling) -> list[int]:
    """Greedy decoding by the whole forward pass at every step, in plain NumPy after the logits."""
    tokens = list(prompt)
    for _ in range(W):
        row_BT = np.zeros((1, T + W), np.int32)
        row_BT[0, : len(tokens)] = tokens
        logits_V = np.array(forward(row_BT)[0, len(tokens) - 1])
        for seen in set(tokens):
            logits_V[seen] *= rule.repetition_penalty if logits_V[seen] < 0 else 1 / rule.repetition_penalty
        tokens.append(int(logits_V.argmax()))
    return tokens[len(prompt) :]


def test_greedy_equals_an_uncached_argmax_loop(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    forward = jax.jit(lambda tokens_BT: llama.logits(config, weights["params"], llama.hidden_states(config, weights, tokens_BT)[0]))
    for penalty in (1.0, 1.3):
        rule = config_lib.Sampling(temperature=0, repetition_penalty=penalty)
        shape, *arguments = prepare(config, PROMPTS, rule)
        got = loop.run(shape, weights, *arguments)
        expected = [uncached(forward, prompt, rule) for prompt in PROMPTS]
        np.testing.assert_array_equal(got.output_BW, expected)
        assert len({id for row in expected for id in row}) > 10, "a model that repeats itself would prove little"
        assert not np.asarray(got.active_B).any()


def test_steps_of_any_size_give_the_tokens_of_one_run(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    shape, *prompts, request = prepare(config, PROMPTS, DRAWN)
    whole = loop.run(shape, weights, *prompts, request)
    state = loop.prefill(shape, weights, *prompts, request)
    np.testing.assert_array_equal(state.length_B, 1)
    for steps, total in ((1, 2), (5, 7), (0, 7), (100, W)):
        state = loop.advance(shape, weights, state, request, np.int32(steps))
        assert int(state.step) == total
    for one, other in zip(whole, loop.answers(state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_row_ends_at_its_stop_id_and_stays_as_it_was(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    free = np.asarray(loop.run(*_spliced(prepare(config, PROMPTS, GREEDY), weights)).output_BW)
    stop = int(free[1, 4])
    first = [list(row).index(stop) if stop in row else W for row in free]
    got = loop.run(*_spliced(prepare(config, PROMPTS, GREEDY, stop=(stop,)), weights))
    np.testing.assert_array_equal(got.length_B, first)
    np.testing.assert_array_equal(got.stopped_B, [n < W for n in first])
    for row, length in enumerate(first):
        np.testing.assert_array_equal(got.output_BW[row, :length], free[row, :length])
        assert not np.asarray(got.output_BW)[row, length:].any()


def test_the_loop_ends_when_all_rows_have(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    shape, *prompts, request = prepare(config, PROMPTS, DRAWN)
    request = request._replace(limit_B=np.asarray([3, 1, 0, 0], np.int32))
    state = loop.advance(shape, weights, loop.prefill(shape, weights, *prompts, request), request, np.int32(W))
    np.testing.assert_array_equal(state.length_B, [3, 1, 0, 0])
    assert int(state.step) == 3
    assert not np.asarray(state.stopped_B).any()


def test_a_row_that_is_stopped_by_hand_keeps_its_length(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    shape, *prompts, request = prepare(config, PROMPTS, DRAWN)
    whole = loop.run(shape, weights, *prompts, request)
    state = loop.advance(shape, weights, loop.prefill(shape, weights, *prompts, request), request, np.int32(4))
    state = loop.advance(shape, weights, loop.stop(state, 1, 2), request, np.int32(W))
    np.testing.assert_array_equal(state.length_B, [W, 2, W, W])
    np.testing.assert_array_equal(state.stopped_B, [False, True, False, False])
    np.testing.assert_array_equal(np.asarray(state.output_BW)[[0, 2, 3]], np.asarray(whole.output_BW)[[0, 2, 3]])


def test_the_cache_is_donated(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    shape, *prompts, request = prepare(config, PROMPTS, DRAWN)
    state = loop.prefill(shape, weights, *prompts, request)
    loop.advance(shape, weights, state, request, np.int32(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.cache))


def _spliced(prepared: tuple[loop.Shape, np.ndarray, np.ndarray, loop.Request], weights: dict[str, Any]) -> tuple[Any, ...]:
    return (prepared[0], weights, *prepared[1:])
