"""Tests of the decoding configuration: ranges, and which source of a value wins."""

import dataclasses

import pytest

from zhllama_jax.decode import config


def test_the_defaults_are_the_papers() -> None:
    sampling, generation = config.resolve({})
    assert dataclasses.asdict(sampling) == {"temperature": 0.2, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3, "min_p": 0.0}
    assert (generation.max_new_tokens, generation.context) == (512, 2048)
    assert (sampling, generation) == (config.Sampling(), config.Generation())


def test_a_flag_beats_the_directory_which_beats_the_paper() -> None:
    directory = {
        "temperature": 0.6,
        "top_p": 0.95,
        "repetition_penalty": None,
        "max_new_tokens": 64,
        "bos_token_id": 1,
        "transformers_version": "x",
    }
    sampling, generation = config.resolve({"temperature": 0.8, "top_p": None, "stop": ["\n"], "seed": 3}, directory)
    assert sampling == config.Sampling(temperature=0.8, top_p=0.95, top_k=40, repetition_penalty=1.3)
    assert generation == config.Generation(max_new_tokens=64, stop=("\n",), seed=3)


@pytest.mark.parametrize(
    ("flags", "directory", "expected"),
    [
        ({}, {"do_sample": False}, 0),
        ({}, {"do_sample": False, "temperature": 0.7}, 0),
        ({"temperature": 0.5}, {"do_sample": False}, 0.5),
        ({"temperature": 0}, {"do_sample": True, "temperature": 0.7}, 0),
        ({}, {"do_sample": True}, 0.2),
        ({}, {"_from_model_config": True, "eos_token_id": 2}, 0.2),
    ],
)
def test_do_sample_false_means_greedy_unless_a_flag_gives_a_temperature(flags: dict, directory: dict, expected: float) -> None:
    sampling, _ = config.resolve(flags, directory)
    assert sampling.temperature == expected
    assert sampling.greedy == (expected == 0)


@pytest.mark.parametrize(("written", "expected"), [(2, (2,)), ([2, 7], (2, 7)), (None, None)])
def test_eos_ids_of_the_directory_become_stop_ids(written: int | list[int] | None, expected: tuple[int, ...] | None) -> None:
    assert config.resolve({}, {"eos_token_id": written})[1].stop_ids == expected
    assert config.resolve({"stop_ids": (5,)}, {"eos_token_id": written})[1].stop_ids == (5,)


def test_decoding_that_does_not_exist_here_is_named_in_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"my\.json .*left out: num_beams = 4"):
        config.resolve({}, {"num_beams": 4, "typical_p": 1.0, "penalty_alpha": None}, source="my.json")


def test_an_unknown_flag_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown decoding option: temprature; there are .*temperature"):
        config.resolve({"temprature": 1})


def test_a_bad_value_names_its_source() -> None:
    with pytest.raises(ValueError, match=r"^generation_config\.json: top_p must be above 0 and at most 1 \(off\), got 1\.5"):
        config.resolve({}, {"top_p": 1.5})
    with pytest.raises(ValueError, match=r"^top_p must"):
        config.resolve({"top_p": 1.5}, {"top_p": 0.5})


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "0.2"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": True},
        {"repetition_penalty": 0},
        {"repetition_penalty": 10**400},
        {"min_p": 1.1},
    ],
)
def test_sampling_refuses_values_out_of_range(values: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must .*got"):
        config.Sampling(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"context": -1},
        {"batch_size": 0},
        {"seed": 2**32},
        {"seed": -1},
        {"stop": "text"},
        {"stop": ("a", "")},
        {"stop_ids": (-1,)},
    ],
)
def test_generation_refuses_values_out_of_range(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        config.Generation(**values)


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ValueError, match=r"temperature must .*; top_k must .*; top_p must"):
        config.Sampling(temperature=-1, top_k=-1, top_p=2)
