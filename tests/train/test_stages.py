"""Stages: the paper's percentages to the last digit, and rules that refuse what would do nothing."""

import pytest

from zhllama_jax import tree
from zhllama_jax.model import config as model_config
from zhllama_jax.train import config, stages

# size, vocabulary, stage, rank, trainable parameters, total, per cent. The rank-64 models of the paper (arXiv 2304.08177) are the
# instruction-tuned ones, whose vocabulary has the padding piece: 13B's 5.6645 comes out with these 49,954 rows, 5.6644 without that row.
# 7B's 8.0783 is not reproduced by any vocabulary that the paper names: 49,953 rows give 8.0779 and 49,954 give 8.0780. It would take
# 49,956 rows.
PAPER = [
    ("7b", 49_953, config.Stage("embeddings"), 8, 204_607_488, 6_885_486_592, "2.9716"),
    ("7b", 49_953, config.Stage("pretrain_lora"), 8, 417_603_584, 6_893_875_200, "6.0576"),
    ("7b", 49_953, config.Stage("sft"), 8, 429_203_456, 6_905_475_072, "6.2154"),
    ("7b", 49_953, config.Stage("pretrain_lora", lora="all"), 64, 409_214_976 + 159_907_840, 7_045_394_432, "8.0779"),
    ("7b", 49_954, config.Stage("sft"), 64, 409_223_168 + 159_907_840, 7_045_402_624, "8.0780"),
    ("7b", 49_956, config.Stage("sft"), 64, 409_239_552 + 159_907_840, 7_045_419_008, "8.0783"),
    ("13b", 49_953, config.Stage("pretrain_lora", lora="all"), 8, 511_518_720 + 31_293_440, None, "4.1026"),
    ("13b", 49_953, config.Stage("sft"), 64, 511_518_720 + 250_347_520, None, "5.6644"),
    ("13b", 49_954, config.Stage("sft"), 64, 511_528_960 + 250_347_520, None, "5.6645"),
    ("33b", 49_953, config.Stage("sft"), 8, 2 * 49_953 * 6_656 + 60_948_480, None, "2.2112"),
]


@pytest.mark.parametrize(("size", "vocab_size", "stage", "rank", "trainable", "total", "percent"), PAPER)
@pytest.mark.parametrize("base", [32_000, None], ids=["extended", "one block"])
def test_the_percentages_of_the_paper(size, vocab_size, stage, rank, trainable, total, percent, base) -> None:
    llama = model_config.named(size, vocab_size=vocab_size, base_vocab_size=base)
    table = stages.table(stage, llama, config.Lora(rank=rank, alpha=4 * rank))
    assert str(table).splitlines()[-1] == f"trainable {trainable:,} of {table.total:,} parameters ({percent} %)"
    assert total in (None, table.total)


def test_rows_of_the_table_add_up() -> None:
    table = stages.table(config.Stage("sft"), model_config.named("micro", vocab_size=300, base_vocab_size=200))
    assert sum(row.parameters for row in table.rows) == table.total
    assert sum(row.percent for row in table.rows) == pytest.approx(table.percent)
    assert all(row.optimizer_bytes == 8 * row.trainable for row in table.rows)


def masked(stage: config.Stage, **changes) -> set[str]:
    """The paths that learn."""
    llama = model_config.named("micro", **{"vocab_size": 300, "base_vocab_size": 200, **changes})
    plan = stages.plan(stage, stages.abstract(stage, llama, config.Lora(rank=2)))
    return {path for path, learns in plan.mask.items() if learns}


EMBED = {"params/embed_tokens/base", "params/embed_tokens/extension"}
HEAD = {"params/lm_head/base", "params/lm_head/extension"}


def test_what_each_preset_trains() -> None:
    assert masked(config.Stage("embeddings")) == EMBED
    assert masked(config.Stage("new_rows")) == {"params/embed_tokens/extension", "params/lm_head/extension"}
    lora = masked(config.Stage("pretrain_lora"))
    assert lora - EMBED - HEAD == {f"lora/layers/self_attn/{name}_proj/{part}" for name in "qkvo" for part in "ab"}
    assert lora >= EMBED | HEAD
    assert len(masked(config.Stage("sft"))) == 4 + 14


def test_the_two_choices_are_independent() -> None:
    assert masked(config.Stage("pretrain_lora", lora="none", rows="all", head=False)) == EMBED
    assert masked(config.Stage("pretrain_lora", lora=("q_proj", "v_proj"), rows="none")) == {
        f"lora/layers/self_attn/{name}_proj/{part}" for name in "qv" for part in "ab"
    }
    assert masked(config.Stage("sft", rows="new")) >= {"params/lm_head/extension"}
    assert "params/lm_head/base" not in masked(config.Stage("sft", rows="new"))


def test_full_trains_everything_and_decays_no_norm() -> None:
    stage = config.Stage("full")
    weights = stages.abstract(stage, model_config.named("micro", vocab_size=300), config.Lora())
    plan = stages.plan(stage, weights)
    assert all(plan.mask.values())
    undecayed = {path for path, rule in plan.rules.items() if rule.weight_decay == 0.0}
    assert undecayed == {path for path in tree.flatten(weights) if path.endswith("norm/weight")}


def test_tied_models_have_no_head_to_train() -> None:
    assert masked(config.Stage("pretrain_lora", lora="none"), tie_word_embeddings=True) == EMBED


def test_extra_rules_stand_in_front() -> None:
    stage = config.Stage(
        "embeddings",
        extra_rules=(config.Rule("params/embed_tokens/base", train=False), config.Rule("params/norm/.*", lr_scale=0.5)),
    )
    assert masked(stage) == {"params/embed_tokens/extension", "params/norm/weight"}


def test_constants_of_the_adapters_never_train() -> None:
    stage = config.Stage("sft", extra_rules=(config.Rule(".*"),))
    assert not any(path.endswith("/scale") for path in masked(stage))


def test_a_rule_that_decides_nothing_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"'params/layers/mlp/upp_proj/kernel' decides nothing"):
        masked(config.Stage("embeddings", extra_rules=(config.Rule("params/layers/mlp/upp_proj/kernel"),)))


def test_new_rows_need_an_extension() -> None:
    with pytest.raises(ValueError, match="zhllama resize"):
        masked(config.Stage("new_rows"), base_vocab_size=300)


def test_a_stage_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        config.Stage("embeddings", rows="none")
    with pytest.raises(ValueError, match="trains nothing"):
        masked(config.Stage("embeddings", extra_rules=(config.Rule("params/.*", train=False),)))


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="qq_proj/kernel' decides nothing"):
        masked(config.Stage("sft", lora=("qq_proj",)))
