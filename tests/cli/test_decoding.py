"""A flag beats the directory, which beats the paper."""

import pytest

from zhllama_jax.cli import decoding
from zhllama_jax.decode import config as decode_config


def test_without_flags_and_directory_the_values_are_the_papers() -> None:
    sampling, generation = decoding.Decoding().resolve({}, source="x")
    assert sampling == decode_config.Sampling(temperature=0.2, top_k=40, top_p=0.9, repetition_penalty=1.3)
    assert (generation.max_new_tokens, generation.context) == (512, 2048)


def test_a_flag_beats_the_directory() -> None:
    flags = decoding.Decoding(repetition_penalty=1.1, stop=("。",))
    sampling, generation = flags.resolve({"repetition_penalty": 1.2, "temperature": 0.7}, source="x")
    assert (sampling.repetition_penalty, sampling.temperature) == (1.1, 0.7)
    assert generation.stop == ("。",)


def test_every_flag_reaches_the_library() -> None:
    values = {"temperature": 0.5, "top_k": 3, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.1, "max_new_tokens": 7, "context": 99}
    sampling, generation = decoding.OfSeveral(**values, stop=("a",), seed=5, batch_size=2).resolve({}, source="x")  # type: ignore[arg-type]
    for name, value in {**values, "stop": ("a",), "seed": 5, "batch_size": 2}.items():
        assert getattr(sampling, name, getattr(generation, name, None)) == value


def test_a_wrong_value_of_the_directory_is_named_with_its_file() -> None:
    with pytest.raises(ValueError, match=r"m/generation_config\.json: top_p must be above 0"):
        decoding.Decoding().resolve({"top_p": 2.0}, source="m/generation_config.json")


def test_a_context_that_the_model_does_not_have_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    decoding.Decoding(context=256).check(256)
    decoding.Decoding().check(256)
    assert capsys.readouterr().err == ""
    decoding.Decoding(context=100_000).check(256)
    assert capsys.readouterr().err == "zhllama: note: the model's context is 256 tokens, so --context 100000 takes no more\n"
