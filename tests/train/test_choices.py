"""The choices of a stage and an optimizer: presets, overrides, and values out of range."""

import pytest

from zhllama_jax.train import choices


def test_presets_and_overrides() -> None:
    stage = choices.Stage("pretrain_lora")
    assert (stage.lora_targets, stage.trained_rows, stage.trains_head) == (("q_proj", "k_proj", "v_proj", "o_proj"), "all", True)
    assert len(choices.Stage("pretrain_lora", lora="all").lora_targets) == 7
    assert choices.Stage("embeddings", head=True).trains_head
    assert choices.Stage("sft", rows="new").trained_rows == "new"
    assert not choices.Stage("full").lora_targets


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: choices.Stage("fast"), "preset must be one of embeddings, pretrain_lora, sft, new_rows, full, got 'fast'"),
        (lambda: choices.Stage("full", rows="new"), "leave out lora, rows and head"),
        (lambda: choices.Stage("sft", lora="most"), "or a list of kernel names, got 'most'"),
        (lambda: choices.Stage("new_rows", rows="none"), "leave nothing to train"),
        (lambda: choices.Rule("x", lr_scale=0), "to freeze weights write train: false"),
        (lambda: choices.Rule("x", weight_decay=-1), "weight_decay must be at least 0"),
        (lambda: choices.Rule("x", lr_scale=float("inf")), "lr_scale must be above 0 and finite, got inf"),
        (lambda: choices.Optimizer(learning_rate=0, b1=1.0), "learning_rate must be above 0 and finite, got 0; b1 must lie in"),
        (lambda: choices.Optimizer(learning_rate=float("inf")), "learning_rate must be above 0 and finite, got inf"),
        (lambda: choices.Optimizer(clip_norm=float("inf")), "clip_norm must be at least 0 and finite, got inf"),
        (lambda: choices.Schedule(warmup_ratio=1.0), "warmup_ratio must lie in"),
        (lambda: choices.Schedule(warmup_steps=-1), "warmup_steps must be at least 0"),
        (lambda: choices.Lora(rank=0), "lora rank must be"),
    ],
)
def test_values_out_of_range(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_rows_none_is_no_problem_where_a_rule_of_the_user_trains() -> None:
    choices.Stage("new_rows", rows="none", extra_rules=(choices.Rule("params/norm/weight"),))
