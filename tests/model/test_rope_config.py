"""A RoPE scaling is complete for its kind, checked as a whole, and holds nothing that its kind does not read."""

import dataclasses
import math

import pytest

from zhllama_jax.model import rope_config

LLAMA3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}


def test_kinds_fill_in_their_defaults_and_nothing_else() -> None:
    yarn = rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=4096)
    assert yarn.parameters == {
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
    }
    assert rope_config.RopeScaling("linear", 2).parameters == {"factor": 2.0}
    assert rope_config.RopeScaling("dynamic", 2).parameters == {"factor": 2.0}
    assert rope_config.RopeScaling("llama3", **LLAMA3).parameters == {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_equal_settings_are_equal_and_hash_alike() -> None:
    one, other = (rope_config.RopeScaling("yarn", factor, beta_fast=beta) for factor, beta in ((4, None), (4.0, 32)))
    assert one == other and hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.factor = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("longrope", {"factor": 2}, "the kind of RoPE scaling must be one of linear, dynamic, llama3, yarn, got 'longrope'"),
        (None, {"factor": 2}, "must be one of linear, dynamic, llama3, yarn, got None"),
        (["yarn"], {"factor": 2}, r"got \['yarn'\]"),
        ("linear", {"factor": 0.5}, "RoPE scaling of kind linear: factor must be a number from 1 to 1e\\+06, got 0.5"),
        ("linear", {"factor": None}, "factor is missing"),
        ("linear", {"factor": True}, "factor must be a number from 1 to 1e\\+06, got True"),
        ("linear", {"factor": "2"}, "factor must be a number from 1 to 1e\\+06, got '2'"),
        ("linear", {"factor": math.nan}, "factor must be a number .* got nan"),
        ("dynamic", {"factor": 10**400}, "factor must be a number"),
        ("linear", {"factor": 2, "beta_fast": 32}, "kind linear: it has no beta_fast, got 32"),
        (
            "dynamic",
            {"factor": 2, "original_max_position_embeddings": 64},
            "kind dynamic: it has no original_max_position_embeddings, got 64",
        ),
        ("llama3", {"factor": 8}, "low_freq_factor is missing; high_freq_factor is missing"),
        ("llama3", {**LLAMA3, "low_freq_factor": 4}, "low_freq_factor 4 must be below high_freq_factor 4"),
        ("llama3", {**LLAMA3, "low_freq_factor": 0}, "low_freq_factor must be a number from 1e-06 to 1e\\+06, got 0"),
        ("llama3", {**LLAMA3, "original_max_position_embeddings": 8192.0}, "must be a whole number from 1 to 67,108,864, got 8192.0"),
        ("yarn", {"factor": 4, "original_max_position_embeddings": 0}, "must be a whole number from 1 to 67,108,864, got 0"),
        ("yarn", {"factor": 4, "beta_slow": 40}, "beta_slow 40 must not be above beta_fast 32"),
        ("yarn", {"factor": 4, "mscale": -1}, "mscale must be a number from 0 to 1e\\+06, got -1"),
        ("yarn", {"factor": 4, "attention_factor": 0}, "attention_factor must be a number from 1e-06"),
        ("yarn", {"factor": 4, "truncate": 1}, "truncate must be true or false, got 1"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value(kind: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rope_config.RopeScaling(**{"kind": kind, **changes})


def test_all_problems_come_together() -> None:
    with pytest.raises(ValueError, match=r"factor .*; .*beta_fast .*; .*truncate"):
        rope_config.RopeScaling("yarn", 0, beta_fast="many", truncate="no")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"attention_factor": 1.25}, 1.25),
        ({"mscale": 2.0, "mscale_all_dim": 0.5}, (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
        ({"mscale": 2.0}, 0.1 * math.log(4) + 1),
        ({"mscale": 2.0, "mscale_all_dim": 0}, 0.1 * math.log(4) + 1),
        ({"mscale": 1, "mscale_all_dim": 1}, 1.0),
    ],
)
def test_yarn_sharpens_attention(changes: dict, expected: float) -> None:
    assert rope_config.RopeScaling("yarn", 4, **changes).attention_scale == pytest.approx(expected, rel=1e-12)


def test_other_kinds_leave_attention_alone() -> None:
    assert rope_config.RopeScaling("linear", 4).attention_scale == rope_config.RopeScaling("llama3", **LLAMA3).attention_scale == 1
    assert rope_config.RopeScaling("yarn", 1).attention_scale == 1


def test_the_original_length_follows_from_the_model() -> None:
    yarn, linear = rope_config.RopeScaling("yarn", 4), rope_config.RopeScaling("linear", 4)
    assert yarn.of(4096) == rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=4096)
    assert yarn.of(4096).of(8192) == yarn.of(4096)
    assert linear.of(4096) == linear


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (rope_config.RopeScaling("linear", 4), 16_384),
        (rope_config.RopeScaling("dynamic", 1.5), 6_144),
        (rope_config.RopeScaling("llama3", original_max_position_embeddings=512, **LLAMA3), 4_096),
        (rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=1_024), 4_096),
        (rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=4_096), 16_384),
        (rope_config.RopeScaling("yarn", 4), 16_384),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_the_context_that_the_stretching_is_meant_for(scaling: rope_config.RopeScaling, expected: int) -> None:
    assert scaling.context(4_096) == expected
