"""Tiny tokenizers trained in the session on generated English and Chinese: a base of LLaMA's kind and a Chinese vocabulary."""

import random
from pathlib import Path

import pytest

from zhllama_jax.tokenizer import train

NOUNS = [
    "river", "mountain", "weather", "model", "letter", "answer", "park", "sentence", "teacher", "window", "small world", "data"
]  # fmt: skip
VERBS = ["reads", "writes", "sees", "learns", "changes", "follows", "remembers", "finds"]
ZH_NOUNS = [
    "河流", "山川", "天气", "模型", "书信", "答案", "公园", "句子", "老师", "窗户", "小世界", "数据库", "共和国", "越来越", "人工智能"
]  # fmt: skip
ZH_VERBS = ["阅读", "书写", "看见", "学习", "改变", "跟随", "记住", "找到"]


def english(rng: random.Random) -> str:
    """An English sentence, now and then with a number or code."""
    subject, thing = rng.sample(NOUNS, 2)
    ending = rng.choice([".", "!", f", {rng.randrange(3000)}.", f"; f({rng.randrange(10)})"])
    return f"The {subject} {rng.choice(VERBS)} the {thing}{ending}"


def chinese(rng: random.Random) -> str:
    """A Chinese sentence, now and then with a number."""
    subject, thing = rng.sample(ZH_NOUNS, 2)
    return f"{subject}{rng.choice(ZH_VERBS)}了{thing}{rng.choice(['。', '！', f'，{rng.randrange(3000)}。'])}"


@pytest.fixture(scope="session")
def english_lines() -> list[str]:
    """English sentences."""
    rng = random.Random(0)
    return [english(rng) for _ in range(2_000)]


@pytest.fixture(scope="session")
def chinese_lines() -> list[str]:
    """Chinese sentences."""
    rng = random.Random(1)
    return [chinese(rng) for _ in range(2_000)]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, english_lines: list[str]) -> Path:
    """A BPE tokenizer that knows a few Chinese characters, as LLaMA's does."""
    path = tmp_path_factory.mktemp("base") / "base.model"
    characters = [" ".join("的一是不了人我在有他这中大来上国，。")] * 20
    path.write_bytes(train.from_texts(english_lines + characters, vocab_size=500, model_type="bpe").serialized)
    return path


@pytest.fixture(scope="session")
def chinese_model(tmp_path_factory: pytest.TempPathFactory, chinese_lines: list[str], english_lines: list[str]) -> Path:
    """A unigram vocabulary of mostly Chinese with some English, numbers and punctuation in it."""
    path = tmp_path_factory.mktemp("chinese") / "zh.model"
    path.write_bytes(train.from_texts(chinese_lines + english_lines[:300], vocab_size=430, model_type="unigram").serialized)
    return path
