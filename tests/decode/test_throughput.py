"""Tests of the measured speed."""

from pathlib import Path

import jax
import pytest

from zhllama_jax.decode import config as config_lib
from zhllama_jax.decode import throughput
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor


def test_speed_counts_the_characters_of_the_text(english_pieces: Path) -> None:
    tokenizer = processor.Tokenizer.load(english_pieces)
    config = model_config.named("micro", vocab_size=tokenizer.vocab_size, max_position_embeddings=64)
    weights = {"params": llama.init(config, jax.random.key(0))}
    greedy = config_lib.Sampling(temperature=0)
    texts = ("The dog jumps over the fox.", "狐狸跳过了懒狗。")
    english, chinese = (throughput.measure(config, weights, tokenizer, text, new_tokens=8, rows=2, sampling=greedy) for text in texts)
    assert english.tokens_per_second > 0
    assert chinese.characters_per_token == len(texts[1]) / len(tokenizer.encode(texts[1])) < 1 / 2 < english.characters_per_token
    assert english.characters_per_second == english.tokens_per_second * english.characters_per_token

    with pytest.raises(ValueError, match="this one is empty"):
        throughput.measure(config, weights, tokenizer, "")
    with pytest.raises(ValueError, match="16 prompt tokens and 64 new ones do not fit"):
        throughput.measure(config, weights, tokenizer, "text")
