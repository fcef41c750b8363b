"""An adapter's shape is checked as a whole and knows its scale."""

import pytest

from zhllama_jax.lora import config as config_lib


def test_the_defaults_are_the_papers_choice_for_all_seven_kernels() -> None:
    config = config_lib.LoraConfig()
    assert (config.rank, config.alpha, config.dropout, config.rslora) == (8, 32.0, 0.05, False)
    assert config.targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("rank", "alpha", "rslora", "scale"),
    [(8, 32.0, False, 4.0), (64, 128.0, False, 2.0), (16, 8.0, False, 0.5), (16, 32.0, True, 8.0), (2, 1.0, True, 0.5**0.5)],
)
def test_the_scale_is_alpha_over_the_rank_or_over_its_root(rank: int, alpha: float, rslora: bool, scale: float) -> None:
    assert config_lib.LoraConfig(rank=rank, alpha=alpha, rslora=rslora).scale == pytest.approx(scale, rel=1e-12)


def test_targets_from_a_file_become_a_tuple() -> None:
    config = config_lib.LoraConfig(targets=["q_proj", "v_proj"])  # type: ignore[arg-type]
    assert config.targets == ("q_proj", "v_proj") and hash(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "lora rank must be a whole number of at least 1, got 0"),
        ({"rank": 8.0}, "lora rank must be a whole number of at least 1, got 8.0"),
        ({"alpha": 0.0}, "lora alpha must be above 0, got 0.0"),
        ({"alpha": float("nan")}, "lora alpha must be above 0, got nan"),
        ({"dropout": 1.0}, r"lora dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"lora dropout must lie in \[0, 1\), got -0.1"),
        ({"targets": ()}, r"lora targets must be one or more distinct names, got \[\]"),
        ({"targets": ("q_proj", "q_proj")}, "lora targets must be one or more distinct names"),
        ({"targets": "q_proj"}, "lora targets must be a list of names, got 'q_proj'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_lib.LoraConfig(**changes)


def test_all_problems_come_together() -> None:
    with pytest.raises(ValueError, match=r"rank .*; lora alpha .*; lora dropout"):
        config_lib.LoraConfig(rank=-1, alpha=-1.0, dropout=2.0)
