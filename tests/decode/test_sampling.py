"""Tests of the sampling rules: against transformers' processors, against plain NumPy, and by counting draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zhllama_jax.decode import config, sampling

V = 97


def logits_of(seed: int, rows: int = 5, vocab_size: int = V) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab_size)).astype(np.float32)


def spread(score_BC: jax.Array, id_BC: jax.Array, vocab_size: int) -> np.ndarray:
    """Candidate scores at their ids, -inf elsewhere: the form that transformers uses."""
    found = np.full((score_BC.shape[0], vocab_size), -np.inf, np.float32)
    np.put_along_axis(found, np.asarray(id_BC), np.asarray(score_BC), axis=1)
    return found


CASES = [
    config.Sampling(),
    config.Sampling(repetition_penalty=1.1),
    config.Sampling(temperature=0.7, top_k=0, top_p=1.0, repetition_penalty=1.0),
    config.Sampling(temperature=1.5, top_k=10, top_p=1.0),
    config.Sampling(temperature=1.0, top_k=0, top_p=0.6, repetition_penalty=0.8),
    config.Sampling(temperature=2.0, top_k=200, top_p=0.95),
    config.Sampling(temperature=3.0, top_k=60, top_p=0.97, min_p=0.05),
    config.Sampling(temperature=1.0, top_k=1, top_p=0.5),
    config.Sampling(temperature=5.0, top_k=0, top_p=1.0, min_p=0.3),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"t{case.temperature}k{case.top_k}p{case.top_p}r{case.repetition_penalty}m{case.min_p}"
)
def test_the_rules_equal_transformers(case: config.Sampling) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits_BV = logits_of(0)
    seen = np.random.default_rng(1).integers(0, V, (5, 12))
    chain = [process.RepetitionPenaltyLogitsProcessor(case.repetition_penalty), process.TemperatureLogitsWarper(case.temperature)]
    chain += [process.TopKLogitsWarper(case.top_k)] if case.top_k else []
    chain += [process.TopPLogitsWarper(case.top_p)] if case.top_p < 1 else []
    chain += [process.MinPLogitsWarper(case.min_p)] if case.min_p else []
    expected = torch.tensor(logits_BV)
    for processor in chain:
        expected = processor(torch.tensor(seen), expected)

    seen_BV = np.zeros((5, V), bool)
    np.put_along_axis(seen_BV, seen, True, axis=1)
    rows = [case] * 5
    count = sampling.num_candidates(rows, V)
    got = spread(*sampling.candidates(jnp.asarray(logits_BV), seen_BV, sampling.controls(rows), count), V)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected.numpy()))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def test_tokens_that_tie_with_the_last_of_the_k_stay() -> None:
    logits_BV = np.zeros((1, V), np.float32)
    logits_BV[0, :2] = 5
    rows = [config.Sampling(temperature=1.0, top_k=4, top_p=1.0)]
    score_BC, _ = sampling.candidates(
        jnp.asarray(logits_BV), np.zeros((1, V), bool), sampling.controls(rows), sampling.num_candidates(rows, V)
    )
    assert np.isfinite(score_BC).sum() >= 4 + sampling.TIES - 1


def test_every_row_follows_its_own_rules() -> None:
    logits_BV = jnp.asarray(logits_of(2, rows=len(CASES)))
    seen_BV = logits_BV > 2
    count = sampling.num_candidates(CASES, V)
    together = spread(*sampling.candidates(logits_BV, seen_BV, sampling.controls(CASES), count), V)
    for i, case in enumerate(CASES):
        alone = spread(*sampling.candidates(logits_BV[i : i + 1], seen_BV[i : i + 1], sampling.controls([case]), count), V)
        np.testing.assert_array_equal(together[i], alone[0])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([config.Sampling(temperature=0)], 1),
        ([config.Sampling(temperature=0, top_k=0)], 1),
        ([config.Sampling(top_k=40)], 64),
        ([config.Sampling(top_k=41)], 128),
        ([config.Sampling(top_k=40), config.Sampling(top_k=0)], 50_000),
        ([config.Sampling(top_k=40), config.Sampling(temperature=0, top_k=0)], 64),
        ([config.Sampling(top_k=49_000)], 50_000),
    ],
)
def test_the_number_of_candidates(rows: list[config.Sampling], expected: int) -> None:
    assert sampling.num_candidates(rows, 50_000) == expected


def test_temperature_zero_takes_the_likeliest_whatever_the_filters_say() -> None:
    logits_BV = jnp.asarray(logits_of(3))
    greedy = config.Sampling(temperature=0, repetition_penalty=1.0, top_k=3, min_p=0.9)
    keys = jax.random.split(jax.random.key(0), 5)
    for rows in ([greedy] * 5, [greedy] * 4 + [config.Sampling(top_k=0)]):
        count = sampling.num_candidates(rows, V)
        got = sampling.sample(logits_BV, np.zeros((5, V), bool), sampling.controls(rows), keys, num_candidates=count)
        np.testing.assert_array_equal(got[:4], logits_BV.argmax(axis=1)[:4])


def test_the_penalty_reaches_greedy_rows() -> None:
    logits_BV = jnp.asarray([[2.0, 1.9, -1.0, -5.0], [-0.9, -1.0, -3.0, -3.0]])
    seen_BV = np.asarray([[True, False, False, False]] * 2)
    rows = [config.Sampling(temperature=0, repetition_penalty=1.3)] * 2
    got = sampling.sample(logits_BV, seen_BV, sampling.controls(rows), jax.random.split(jax.random.key(0), 2), num_candidates=1)
    np.testing.assert_array_equal(got, [1, 1])


def test_draws_follow_the_distribution() -> None:
    """Chi-square of 20,000 draws over the filtered distribution of a vocabulary of 12, with a fixed seed."""
    rule = config.Sampling(temperature=0.8, top_k=8, top_p=0.95, repetition_penalty=1.0)
    logits_V = logits_of(4, rows=1, vocab_size=12)[0] / 2
    rows = 20_000
    score_BC, id_BC = sampling.candidates(jnp.asarray(logits_V)[None], np.zeros((1, 12), bool), sampling.controls([rule]), 12)
    probability_V = np.exp(spread(score_BC, id_BC, 12)[0])
    probability_V /= probability_V.sum()
    kept_V = probability_V > 0
    assert 3 <= kept_V.sum() < 12

    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(7), jnp.arange(rows))
    many_BV = jnp.broadcast_to(jnp.asarray(logits_V), (rows, 12))
    ids = sampling.sample(many_BV, jnp.zeros((rows, 12), bool), sampling.controls([rule] * rows), keys, num_candidates=12)
    count_V = np.bincount(np.asarray(ids), minlength=12)
    assert not count_V[~kept_V].any()
    expected_V = rows * probability_V[kept_V]
    chi_square = ((count_V[kept_V] - expected_V) ** 2 / expected_V).sum()
    assert chi_square < 24.3, "the 99.9 % quantile for 7 degrees of freedom"


def test_a_draw_does_not_depend_on_how_many_candidates_are_looked_at() -> None:
    logits_BV = jnp.asarray(logits_of(5, rows=200))
    rows = [config.Sampling(temperature=2.0, top_k=20, top_p=0.98)] * 200
    keys = jax.random.split(jax.random.key(1), 200)
    few, many = (
        sampling.sample(logits_BV, np.zeros((200, V), bool), sampling.controls(rows), keys, num_candidates=count) for count in (32, V)
    )
    np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.9999, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_extreme_numbers_never_draw_what_was_taken_out(uniform: float) -> None:
    score_BC = jnp.sort(jnp.asarray(logits_of(6, rows=300, vocab_size=64)), axis=1, descending=True)
    score_BC = sampling.top_k(score_BC, np.full(300, 11))
    index_B = sampling.draw(score_BC, jnp.full((300,), uniform))
    assert index_B.max() <= 10
    if uniform == 0.0:
        assert not index_B.any()
