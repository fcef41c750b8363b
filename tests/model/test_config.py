"""A configuration is complete, checked as a whole, and the named sizes are the released ones."""

import dataclasses

import pytest

from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

SMALL = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_what_is_left_out_follows_from_the_rest() -> None:
    config = config_lib.LlamaConfig(**SMALL)
    assert (config.num_key_value_heads, config.head_dim, config.base_vocab_size) == (4, 8, 100)
    assert (config.num_kv_heads, config.head_width, config.base_rows, config.extension_rows) == (4, 8, 100, 0)


def test_what_is_given_stays() -> None:
    config = config_lib.LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=16, base_vocab_size=60)
    assert (config.num_kv_heads, config.head_width, config.base_rows, config.extension_rows) == (2, 16, 60, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a whole number above 0, got 0"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers must be a whole number above 0, got 2.0"),
        ({"vocab_size": True}, "vocab_size must be a whole number above 0, got True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 must divide num_attention_heads 4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0 must divide num_attention_heads 4"),
        ({"num_key_value_heads": 8}, "num_key_value_heads 8 must divide num_attention_heads 4"),
        ({"head_dim": 7}, "head_dim 7 must be an even number above 0"),
        ({"hidden_size": 34}, "hidden_size 34 is not a multiple of num_attention_heads 4"),
        ({"base_vocab_size": 101}, "base_vocab_size 101 must lie between 1 and vocab_size 100"),
        ({"base_vocab_size": 0}, "base_vocab_size 0 must lie between 1 and vocab_size 100"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be a number above 0, got 0.0"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number above 0, got '1e-6'"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number above 0, got nan"),
        ({"rope_scaling": {"factor": 2.0}}, r"rope_scaling must be a RopeScaling or None, got \{'factor': 2.0\}"),
        ({"rope_scaling": rope_config.RopeScaling("dynamic", 2), "head_dim": 2}, "rope_scaling of kind dynamic needs a head_dim above 2"),
        (
            {"rope_scaling": rope_config.RopeScaling("yarn", 2), "rope_theta": 1},
            "rope_scaling of kind yarn needs another rope_theta than 1",
        ),
        ({"bos_token_id": 100}, "bos_token_id 100 is no id of a vocabulary of 100"),
        ({"pad_token_id": -1}, "pad_token_id -1 is no id of a vocabulary of 100"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id \[2, 3\] is no id of a vocabulary of 100"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_lib.LlamaConfig(**SMALL | changes)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": -1, "intermediate_size": 0}, {"num_key_value_heads": 3, "head_dim": 7, "pad_token_id": 100}],
    ids=["sizes", "relations"],
)
def test_all_problems_come_together(changes: dict) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        config_lib.LlamaConfig(**SMALL | changes)
    assert all(name in str(caught.value) for name in changes)


def test_a_copy_is_checked_like_a_new_one_and_the_original_cannot_change() -> None:
    config = config_lib.LlamaConfig(**SMALL)
    grown = config.replace(vocab_size=130)
    assert (grown.vocab_size, grown.base_rows, grown.extension_rows) == (130, 100, 30)
    with pytest.raises(ValueError, match="base_vocab_size 100 must lie"):
        config.replace(vocab_size=90)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vocab_size = 1  # type: ignore[misc]
    assert hash(config) == hash(config_lib.LlamaConfig(**SMALL)), "a static argument of jit"


# D, F, L, N, eps from params.json of the release (33b is called 30B there); F is 256 · ceil(8 D / 3 / 256).
RELEASED = {
    "7b": (4096, 11008, 32, 32, 1e-6),
    "13b": (5120, 13824, 40, 40, 1e-6),
    "33b": (6656, 17920, 60, 52, 1e-6),
    "65b": (8192, 22016, 80, 64, 1e-5),
}


@pytest.mark.parametrize("name", RELEASED)
def test_llamas_own_sizes(name: str) -> None:
    config = config_lib.named(name)
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads, config.rms_norm_eps)
    assert sizes == RELEASED[name]
    assert config.intermediate_size == 256 * -(-8 * config.hidden_size // (3 * 256))
    assert (config.vocab_size, config.head_width, config.num_kv_heads) == (32_000, 128, config.num_attention_heads)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, None)


def test_every_name_makes_a_configuration_that_may_be_changed() -> None:
    for name in config_lib.SIZES:
        assert config_lib.named(name.upper(), vocab_size=49_953, base_vocab_size=32_000).extension_rows == 17_953
    with pytest.raises(ValueError, match="unknown model size '8b': choose one of 7b, 13b, 33b, 65b"):
        config_lib.named("8b")


@pytest.mark.parametrize(("rows", "padded"), [(1, 128), (127, 128), (128, 128), (129, 256), (32_000, 32_000), (17_953, 18_048)])
def test_blocks_are_padded_to_multiples_of_128(rows: int, padded: int) -> None:
    assert config_lib.padded_rows(rows) == padded


@pytest.mark.parametrize("split", [None, 60, 100])
def test_blocks_map_every_id_to_one_row_and_back(split: int | None) -> None:
    config = config_lib.LlamaConfig(**SMALL, base_vocab_size=split)
    assert [block.name for block in config.blocks] == (["base", "extension"] if split == 60 else ["base"])
    for id_ in range(100):
        (block,) = [block for block in config.blocks if block.holds(id_)]
        assert 0 <= id_ - block.first < block.rows
    assert sum(block.rows for block in config.blocks) == 100
    assert not any(block.holds(id_) for block in config.blocks for id_ in (-1, 100))


def test_the_head_is_a_matrix_of_its_own_unless_tied() -> None:
    assert config_lib.LlamaConfig(**SMALL).head_matrix == "lm_head"
    assert config_lib.LlamaConfig(**SMALL, tie_word_embeddings=True).head_matrix == "embed_tokens"


@pytest.mark.parametrize(
    ("given", "changes", "heads"),
    [
        ({}, {"hidden_size": 64}, (4, 16)),
        ({}, {"num_attention_heads": 8}, (8, 4)),
        ({}, {"hidden_size": 64, "num_attention_heads": 8}, (8, 8)),
        ({}, {"num_hidden_layers": 3}, (4, 8)),
        ({}, {"hidden_size": 64, "head_dim": 8}, (4, 8)),
        ({"num_key_value_heads": 2}, {"num_attention_heads": 8}, (2, 4)),
        ({"head_dim": 16}, {"hidden_size": 48}, (4, 16)),
    ],
)
def test_a_copy_keeps_what_was_chosen_and_derives_the_rest_anew(given: dict, changes: dict, heads: tuple[int, int]) -> None:
    changed = config_lib.LlamaConfig(**SMALL | given).replace(**changes)
    assert (changed.num_kv_heads, changed.head_width) == heads
    assert changed == config_lib.LlamaConfig(**SMALL | given | changes)


def test_a_scaling_takes_its_original_length_from_the_model_once() -> None:
    config = config_lib.LlamaConfig(**SMALL, max_position_embeddings=64, rope_scaling=rope_config.RopeScaling("yarn", 4))
    assert config.rope_scaling == rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=64)
    assert (config.context, config.replace(max_position_embeddings=256).context) == (256, 256)
    assert config.replace(max_position_embeddings=256).rope_scaling == config.rope_scaling
    assert hash(config) == hash(config.replace()), "a static argument of jit"


def test_the_context_is_the_trained_length_unless_stretched() -> None:
    config = config_lib.LlamaConfig(**SMALL, max_position_embeddings=64)
    assert config.context == 64
    assert config.replace(rope_scaling=rope_config.RopeScaling("linear", 2.5)).context == 160
