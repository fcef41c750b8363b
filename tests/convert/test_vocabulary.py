"""A model's tokenizer is its own, and rows that no piece has are never in the way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import files
from zhllama_jax.convert import config_hf, host, llama_hf, manifest, source, vocabulary
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, resize
from zhllama_jax.tokenizer import processor


@pytest.fixture
def padded(tmp_path: Path, make_params: Callable[..., Any], tokenizer: processor.Tokenizer) -> Path:
    """A model of 16 rows more than its tokenizer has pieces."""
    config = config_lib.named("micro", vocab_size=tokenizer.vocab_size + 16)
    generation = {"temperature": 0.5, "eos_token_id": [2, 7, tokenizer.vocab_size + 3]}
    llama_hf.save(tmp_path / "padded", config=config, params=make_params(config), tokenizer=tokenizer, generation=generation)
    return tmp_path / "padded"


def test_rows_without_a_piece_are_cut_off_and_the_others_stay(padded: Path, tokenizer: processor.Tokenizer) -> None:
    before = host.load(padded)
    assert before.config.vocab_size == tokenizer.vocab_size + 16, "read as they are, so that they are written again"
    after = vocabulary.cut(before, vocabulary.load(padded, before.config))
    assert after.config == before.config.replace(vocab_size=tokenizer.vocab_size, base_vocab_size=tokenizer.vocab_size)
    assert after.generation == {**before.generation, "eos_token_id": [2, 7]}
    for name in config_lib.MATRICES:
        whole, rest = (resize.rows(one.params[name], one.config) for one in (before, after))
        np.testing.assert_array_equal(rest, whole[: tokenizer.vocab_size])
    tokens_BT = np.asarray([tokenizer.encode("the sea", bos=True)])
    x_BTD, _ = llama.hidden_states(before.config, {"params": before.params}, tokens_BT)
    expected = llama.logits(before.config, before.params, x_BTD)[..., : tokenizer.vocab_size]
    np.testing.assert_array_equal(llama.logits(after.config, after.params, x_BTD), expected)


def test_nothing_is_cut_where_every_row_has_its_piece(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: Any) -> None:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    loaded = host.load(tmp_path / "m")
    assert vocabulary.cut(loaded, vocabulary.load(tmp_path / "m", loaded.config)).config == config


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_a_row_that_begins_or_ends_texts_is_no_padding(padded: Path, tokenizer: processor.Tokenizer, name: str) -> None:
    config = source.load_config(padded).replace(**{name: tokenizer.vocab_size + 1})
    files.write_json(padded / "config.json", config_hf.to_json(config, "float32"))
    (padded / manifest.FILE).unlink()
    with pytest.raises(ValueError, match=rf"and its {name} {tokenizer.vocab_size + 1} has no piece: give it the tokenizer\.model"):
        vocabulary.load(padded, config)
    with pytest.raises(ValueError, match="has no piece"):
        vocabulary.cut(host.load(padded), tokenizer)


def test_more_rows_than_padding_has_are_another_tokenizer_s_pieces(
    tmp_path: Path, make_params: Callable[..., Any], tokenizer: processor.Tokenizer
) -> None:
    config = config_lib.named("micro", vocab_size=tokenizer.vocab_size + vocabulary.PADDING + 1)
    llama_hf.save(tmp_path / "m", config=config, params=make_params(config), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"1,025 more are no padding, so the tokenizer is another model's; copy the tokenizer\.model"):
        vocabulary.cut(host.load(tmp_path / "m"), tokenizer)


def test_a_tokenizer_that_is_not_there_or_not_the_model_s_is_told_with_what_to_do(
    padded: Path, padded_tokenizer: processor.Tokenizer
) -> None:
    small = source.load_config(padded).replace(vocab_size=padded_tokenizer.vocab_size - 1, base_vocab_size=None)
    (padded / "tokenizer.model").write_bytes(padded_tokenizer.serialized)
    command = re.escape(
        f"put the model's own back, and grow the model to a larger one with `zhllama resize --model {padded} --tokenizer MERGED"
    )
    with pytest.raises(ValueError, match=rf"tokenizer\.model has 341 pieces, the model beside it 340 rows, .*{command}"):
        vocabulary.load(padded, small)
    for name in ("tokenizer.model", "tokenizer.json"):
        (padded / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.model: copy the one that its texts were made with into it"):
        vocabulary.load(padded, small)
