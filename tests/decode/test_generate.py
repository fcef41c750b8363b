"""Tests of decoding lists of ids: neighbours, seeds, limits, compilations, and Hugging Face's `generate`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from tests.reference import transformers_llama
from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import generate, loop
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

GREEDY = config_lib.Sampling(temperature=0, repetition_penalty=1.0)
DRAWN = config_lib.Sampling(temperature=1.0, top_k=20, top_p=0.95)
FREE = config_lib.Generation(max_new_tokens=16, stop_ids=())
PROMPTS = [[1, 5, 9, 160], [1, 199, 42, 13, 14, 15, 80, 3, 77, 78, 79, 80], [1], [1, 2, 3]]


def answer(
    config: model_config.LlamaConfig, weights: dict[str, Any], prompts: list[list[int]], rule: config_lib.Sampling, **changes: Any
) -> Any:
    generation = dataclasses.replace(FREE, **changes)
    return generate.generate(config, weights, prompts, sampling=rule, generation=generation, options=llama.Options())


def test_an_answer_does_not_depend_on_the_neighbours(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    together = answer(config, weights, PROMPTS, DRAWN, seed=5)
    in_pairs = answer(config, weights, PROMPTS, DRAWN, seed=5, batch_size=2)
    alone = [answer(config, weights, [prompt], DRAWN, seed=5 + i)[0] for i, prompt in enumerate(PROMPTS)]
    assert together == in_pairs == alone
    assert {len(got.ids) for got in together} == {16}
    assert {got.finish_reason for got in together} == {"length"}


def test_seeds_decide_the_draws(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    one, again, other = (answer(config, weights, [PROMPTS[0]] * 4, DRAWN, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one[1:] == other[:-1], "prompt i draws with seed + i"
    assert len({tuple(got.ids) for got in [*one, other[-1]]}) == 5
    answer(config, weights, [PROMPTS[0]] * 4, DRAWN, seed=config_lib.SEEDS - 1)


def test_an_answer_ends_before_its_stop_id(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    free = [got.ids for got in answer(config, weights, PROMPTS, GREEDY)]
    for stop_ids in ((free[0][3],), (free[0][3], free[1][2])):
        for got, ids in zip(answer(config, weights, PROMPTS, GREEDY, stop_ids=stop_ids), free, strict=True):
            end = min([ids.index(stop) for stop in stop_ids if stop in ids], default=None)
            assert got == generate.Answer(ids[:end], "length" if end is None else "stop")


def test_the_models_own_stop_id_is_the_default(config: model_config.LlamaConfig) -> None:
    for own, expected in ((0, 0), (7, 7)):
        [(_, batch)] = generate.batches(
            config.replace(eos_token_id=own), PROMPTS, sampling=GREEDY, generation=config_lib.Generation(), options=llama.Options()
        )
        assert [id for id in batch.request.stop_ids_E if id >= 0] == [expected]


def test_the_context_ends_an_answer(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    got = answer(config, weights, PROMPTS, GREEDY, context=14)
    assert [(len(one.ids), one.finish_reason) for one in got] == [(10, "context"), (2, "context"), (13, "context"), (11, "context")]
    assert generate.context_of(config.replace(max_position_embeddings=14), FREE) == 14
    assert answer(config, weights, PROMPTS[:1], GREEDY, context=20)[0].finish_reason == "length"


def test_prompts_that_cannot_be_continued_are_refused_together(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    prompts = [[], [1, 200], list(range(64)), [1]]
    expected = "prompt 0 is empty.*; prompt 1 holds id 200, outside.* of 200; prompt 2 has 64 tokens .* context of 64.*; stop id 300"
    with pytest.raises(ValueError, match=expected):
        answer(config, weights, prompts, GREEDY, stop_ids=(300,))
    with pytest.raises(ValueError, match=r"prompt 4 is empty[^;]*; and 1,995 more$"):
        answer(config, weights, [[]] * 2000, GREEDY)
    assert answer(config, weights, [], GREEDY) == []


def test_new_input_of_similar_size_compiles_nothing(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    answer(config, weights, PROMPTS, DRAWN, stop_ids=None)
    before = loop.run._cache_size()
    for length in (1, 2, 7, 16):
        answer(config, weights, [[3] * length] * 3, DRAWN, seed=length, max_new_tokens=length, stop_ids=tuple(range(length % 8)))
    rule = config_lib.Sampling(temperature=0.3, top_k=30, top_p=0.5, repetition_penalty=1.0, min_p=0.1)
    answer(config, weights, PROMPTS, rule)
    assert loop.run._cache_size() == before
    answer(config, weights, [[3] * 17] * 3, DRAWN)
    assert loop.run._cache_size() == before + 1


@pytest.mark.parametrize(("size", "expected"), [(1, 16), (16, 16), (17, 32), (512, 512), (513, 1024)])
def test_buckets_are_powers_of_two(size: int, expected: int) -> None:
    assert generate.bucket(size) == expected


def test_a_session_gives_the_same_tokens_as_they_come(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    whole = answer(config, weights, PROMPTS, DRAWN, seed=9, stop_ids=None)
    [(chosen, batch)] = generate.batches(
        config, PROMPTS, sampling=DRAWN, generation=dataclasses.replace(FREE, seed=9, stop_ids=None), options=llama.Options()
    )
    session = generate.Session(weights, batch)
    taken: list[list[int]] = [[] for _ in PROMPTS]
    compiled = None
    for steps in (1, 4, 3, 8):
        for mine, ids in zip(taken, session.take(), strict=True):
            assert len(ids) <= 8
            mine += ids
        session.advance(steps)
        compiled = compiled or loop.advance._cache_size()
    assert loop.advance._cache_size() == compiled
    assert session.finished
    for i, mine, rest, got in zip(chosen, taken, session.take(), session.answers, strict=True):
        assert got == whole[i]
        assert mine + rest == got.ids


def test_a_session_ends_a_row_by_hand(config: model_config.LlamaConfig, weights: dict[str, Any]) -> None:
    [(chosen, batch)] = generate.batches(config, PROMPTS, sampling=DRAWN, generation=FREE, options=llama.Options())
    session = generate.Session(weights, batch)
    session.advance(5)
    session.stop(0, 3)
    session.advance(100)
    whole = answer(config, weights, PROMPTS, DRAWN)
    assert session.answers[0] == generate.Answer(whole[chosen[0]].ids[:3], "stop")
    assert session.answers[1:] == [whole[i] for i in chosen[1:]]
    assert session.finished


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_hugging_face(config: model_config.LlamaConfig, weights: dict[str, Any], penalty: float) -> None:
    _check_against_hugging_face(config, weights, PROMPTS, penalty=penalty, new_tokens=16)


@pytest.mark.parametrize("rope", [None, "linear", "llama3", "yarn"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_batch_equals_hugging_faces_of_left_padded_prompts(
    config: model_config.LlamaConfig, weights: dict[str, Any], penalty: float, rope: str | None
) -> None:
    """One call there too. Its penalty counts the padding as text, so that here it is the id with which every prompt begins."""
    torch = pytest.importorskip("torch")
    scaled, parameters = (transformers_llama.scaled(config, rope), transformers_llama.SCALINGS[rope]) if rope else (config, None)
    got = answer(scaled, weights, PROMPTS, dataclasses.replace(GREEDY, repetition_penalty=penalty), stop_ids=None)
    model = transformers_llama.model(scaled, jax.device_get(weights["params"]), parameters, bos_token_id=1, eos_token_id=0, pad_token_id=1)
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[1] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    is_real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    made = model.generate(ids, attention_mask=is_real, do_sample=False, repetition_penalty=penalty, max_new_tokens=16)
    assert len({tuple(one.ids) for one in got}) == len(PROMPTS)
    for one, theirs in zip(got, made[:, width:].tolist(), strict=True):
        assert one.ids == (theirs[: theirs.index(0)] if 0 in theirs else theirs)


@pytest.mark.parametrize(("name", "penalty"), [*((name, 1.3) for name in transformers_llama.SCALINGS), ("dynamic", 1.0), ("yarn", 1.0)])
def test_greedy_equals_hugging_face_past_the_trained_length(
    config: model_config.LlamaConfig, weights: dict[str, Any], name: str, penalty: float
) -> None:
    """Answers that stay below the length trained for, that cross it, and that begin beyond it; rows of one batch know nothing of it."""
    beyond = np.random.default_rng(1).integers(1, config.vocab_size, 30).tolist()
    prompts = [PROMPTS[3], PROMPTS[1], beyond]
    scaled = transformers_llama.scaled(config, name)
    rope = transformers_llama.SCALINGS[name]
    _check_against_hugging_face(scaled, weights, prompts, penalty=penalty, new_tokens=18, rope=rope)


def _check_against_hugging_face(
    config: model_config.LlamaConfig,
    weights: dict[str, Any],
    prompts: list[list[int]],
    *,
    penalty: float,
    new_tokens: int,
    rope: Mapping[str, Any] | None = None,
) -> None:
    """Token for token; every prompt gets a fresh model there, whose dynamic scaling remembers the longest text otherwise."""
    torch = pytest.importorskip("torch")
    params = jax.device_get(weights["params"])
    rule = config_lib.Sampling(temperature=0, repetition_penalty=penalty)
    got = answer(config, weights, prompts, rule, max_new_tokens=new_tokens, stop_ids=None)
    for prompt, mine in zip(prompts, got, strict=True):
        model = transformers_llama.model(config, params, rope, bos_token_id=1, eos_token_id=0, pad_token_id=None)
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=penalty, max_new_tokens=new_tokens, pad_token_id=0
        )
        theirs = made[0, len(prompt) :].tolist()
        assert mine.ids == (theirs[: theirs.index(0)] if 0 in theirs else theirs)
