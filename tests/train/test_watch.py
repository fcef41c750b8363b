"""What is asked of a profile or of W&B is refused at once where it cannot be."""

import dataclasses

import pytest

from zhllama_jax.train import config, watch


@pytest.mark.parametrize(("text", "span"), [("1:1", (1, 1)), ("10:12", (10, 12)), ("1:100", (1, 100))])
def test_a_span_is_two_steps(text: str, span: tuple[int, int]) -> None:
    assert watch.span(text) == span


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "must be two steps"),
        ("0:3", "counted from 1"),
        ("3:", "must be two steps"),
        ("-1:3", "must be two steps"),
        ("5:4", "the last step, 4, comes before the first, 5"),
        ("1:101", "101 steps are too many"),
        ("1:99999999999999999999", "must be two steps"),
    ],
)
def test_another_span_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch.span(text)


def test_a_profile_of_steps_that_there_are_not_is_refused_with_the_rest(small: dict) -> None:
    with pytest.raises(
        ValueError, match=r"experiment: log_every must be above 0, got 0; profile_steps: 5:7 ends after the run's last step, 6"
    ):
        config.Experiment(**{**small, "model": "m", "output": "o", "log_every": 0, "profile_steps": "5:7"})
    assert watch.check("5:7", steps=None) == [] and watch.check(None, steps=1) == []


def test_looking_at_a_run_is_no_part_of_what_it_is(small: dict) -> None:
    plain = config.Experiment(**{**small, "model": "m", "output": "o"})
    looked_at = dataclasses.replace(plain, wandb=watch.Wandb(project="p"), profile_steps="2:3")
    assert looked_at.identity() == plain.identity()


def test_a_project_has_a_name() -> None:
    with pytest.raises(ValueError, match="project is empty"):
        watch.Wandb(project="")
