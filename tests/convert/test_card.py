"""The pages say what is true of the directory."""

import itertools
import re
from collections.abc import Callable

import pytest

from zhllama_jax.convert import card, manifest
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config
from zhllama_jax.tokenizer import processor, proto, ranked


@pytest.fixture
def page(config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer) -> Callable[..., str]:
    """The page of a model, with some arguments changed."""

    def make(**changes: object) -> str:
        arguments: dict[str, object] = {"config": config, "dtype": "bfloat16", "tokenizer": tokenizer, "prompt": None, "history": []}
        return card.model("zh-micro", **{**arguments, **changes})  # type: ignore[arg-type]

    return make


def test_model_page_tells_shape_vocabulary_and_steps(page: Callable[..., str], config: config_lib.LlamaConfig) -> None:
    text = page(history=[{"step": "train", "stage": "sft", "steps": 30}, {"step": "merge", "note": "x" * 500}])
    assert "# zh-micro" in text
    assert "2 layers, width 32, MLP 88, 4 heads (2 for keys and values), context 2048 tokens, stored as bfloat16" in text
    assert f"{config.vocab_size:,} rows: the base model's {config.base_rows:,} and 40 new ones" in text
    assert "1. train: stage sft, steps 30\n2. merge: note xxx" in text
    assert max(map(len, text.splitlines())) < 400


def test_model_page_tells_a_stretched_context(page: Callable[..., str], config: config_lib.LlamaConfig) -> None:
    stretched = config.replace(rope_scaling=rope_config.RopeScaling("linear", 2.5))
    assert "context 5120 tokens (RoPE scaling of type linear, factor 2.5), stored as bfloat16" in page(config=stretched)


def test_steps_are_told_in_words(page: Callable[..., str]) -> None:
    """No braces of a program, and of digests no more than tells them apart."""
    adapters = [{"name": "adapter", "digest": "c9d0251b1134" + 52 * "e"}, {"name": "other", "digest": "fade" * 16}]
    steps = [
        {"step": "train", "stage": "sft", "tokens": 2048, "learning_rate": 0.004},
        {"step": "merge", "base": "resized", "base_fingerprint": "ab12" * 16, "adapters": adapters},
        {"step": "resize", "base_fingerprint": None, "adapters": []},
    ]
    text = page(history=steps)
    assert "1. train: stage sft, tokens 2,048, learning rate 0.004\n" in text
    merge = "base resized, base fingerprint `ab12ab12ab12`, adapters adapter `c9d0251b1134` and other `fadefadefade`"
    assert f"2. merge: {merge}\n3. resize: adapters none\n" in text


def test_prompted_models_are_used_by_chat_template(page: Callable[..., str]) -> None:
    assert "apply_chat_template" not in page()
    assert "continues text" in page()
    tuned = page(prompt=manifest.Prompt("alpaca", "faithful"))
    assert "apply_chat_template" in tuned
    assert "template `alpaca` (boundary `faithful`)" in tuned


def test_nothing_is_said_that_nobody_knows(page: Callable[..., str]) -> None:
    """The languages are the user's; a prompt without a template is a prompt all the same."""
    assert "language:" not in page()
    plain = page(prompt=manifest.Prompt("none"))
    assert "nothing is recorded of a tuning on instructions" in page()
    assert "nothing is recorded" not in plain and "Tuned on instructions that stood there as they are (template `none`" in plain
    assert "apply_chat_template" not in plain


def test_tied_scores_are_confessed(page: Callable[..., str], tokenizer: processor.Tokenizer) -> None:
    assert "share a score" not in page()
    assert "with the ids of SentencePiece" in page()
    model = proto.parse(tokenizer.serialized)
    for number in range(7):
        piece = model.pieces.add()
        piece.piece, piece.score = chr(0x4E00 + number) * 2, 0.5
    confessed = page(tokenizer=processor.Tokenizer.from_bytes(model.SerializeToString()))
    assert "but 7 pieces share a score" in confessed and "with the ids of SentencePiece" not in confessed


def test_the_texts_that_differ_in_transformers_are_counted(page: Callable[..., str], tokenizer: processor.Tokenizer) -> None:
    model = proto.parse(tokenizer.serialized)
    for name in (*"上下左", *("".join(pair) for pair in itertools.product("上下左", repeat=2))):
        piece = model.pieces.add()
        piece.piece, piece.score = name, 0.5
    tangled = processor.Tokenizer.from_bytes(model.SerializeToString())
    found = re.search(r"([\d,]+) of 2,000 random texts of up to sixteen .*, ([\d,]+) of 2,000 where", page(tokenizer=tangled))
    assert found
    by_rank = ranked.Ranked(tangled)
    for said, chained in zip(found.groups(), (False, True), strict=True):
        assert int(said.replace(",", "")) == by_rank.differing(list(by_rank.drawn(2_000, chained=chained))) > 100


def test_what_came_along_and_rows_without_a_piece_are_told(page: Callable[..., str], config: config_lib.LlamaConfig) -> None:
    assert "no piece" not in page() and "from which this one was made" not in page()
    told = page(carried=["NOTICE", "LICENSE"])
    assert "As they were in the directory from which this one was made: `LICENSE`, `NOTICE`." in told


def test_a_model_is_said_to_be_written_not_adapted(page: Callable[..., str]) -> None:
    """`convert` adapts nothing; what did stands under the steps."""
    assert "A LLaMA model, written by `zhllama`: 2 layers" in page()
    assert "adapted" not in page()


def test_adapter_page_says_whether_peft_loads_it() -> None:
    arguments = {"base": "base-dir", "contents": "LoRA of rank 8.", "vocab_size": 49_953, "history": []}
    loads = card.adapter("a", loads_in_peft=True, **arguments)  # type: ignore[arg-type]
    assert "PeftModel" in loads
    assert "49,953 rows" in loads
    assert "zhllama merge --model base-dir --adapter a --output merged\n" in loads and "on top of" not in loads
    second = card.adapter("a", loads_in_peft=True, former=2, **arguments)  # type: ignore[arg-type]
    assert "--adapter FORMER1 FORMER2 a --output merged\n```\n\nWhat it was trained on top of stands before it, in order." in second
    assert "PEFT cannot load that alone" in card.adapter("a", loads_in_peft=False, **arguments)  # type: ignore[arg-type]
