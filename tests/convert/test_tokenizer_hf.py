"""The ids that transformers gives from our files are SentencePiece's."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax import templates
from zhllama_jax.convert import manifest, tokenizer_hf
from zhllama_jax.data import chat
from zhllama_jax.tokenizer import merge, processor, ranked

ALPHABETS = (" \n\t\u3000a bc  的是👍🏽é\x00\x01\u200b▁。，ab", "a =-的哈\n_*#.", "".join(map(chr, range(0x300))), "0123456789年月日%#")
EMOJI = ("👍🏽", "👨‍👩‍👧‍👦", "🇨🇳", "❤️", "1️⃣", "🏴‍☠️", "é", "한")
CONTROLS = (*range(32), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200D, 0x200E, 0x202E, 0x2060, 0xFE0F, 0xFEFF, 0xFFFD, 0xFFFF, 0xE000, 0x10FFFF)
RANGES = ((32, 127), (0x4E00, 0x9FFF), (0x3000, 0x30FF), (0xFF00, 0xFFEF), (0x1F300, 0x1F6FF), (0x20000, 0x2A6DF))
KINDS = ("cut", "leading blanks", "runs", "dense", "mixed", "newlines", "emoji", "controls", "scripts")
SENTENCES = (
    "The quick brown fox jumps over the lazy dog. def add(a, b):\n    return a + b",
    "敏捷的棕色狐狸跳过了懒狗，小模型学习一个小世界。从一数到十很容易",
)


def text_of(kind: str, texts: Sequence[str], rng: random.Random) -> str:
    """A text of one of `KINDS`."""

    def cut() -> str:
        text = rng.choice(texts)
        start = rng.randrange(len(text))
        return text[start : start + rng.randrange(1, 60)]

    match kind:
        case "cut":
            return cut()
        case "leading blanks":
            return " " * rng.randrange(1, 40) + cut()
        case "runs":
            return rng.choice("a =-的哈\n_*#.") * rng.randrange(1, 60) + rng.choice(["", "x", " y"])
        case "dense":
            return cut().replace(" ", "") + cut()
        case "mixed":
            return "".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randrange(1, 30)))
        case "newlines":
            return "".join(cut()[:20] + rng.choice(["\n", "\r\n", "\n\n", "\n  ", "\t", "\u2028"]) for _ in range(rng.randrange(1, 5)))
        case "emoji":
            return "".join(rng.choice([*EMOJI, cut()[:4], chr(rng.randrange(0x1F300, 0x1F700))]) for _ in range(rng.randrange(1, 12)))
        case "controls":
            return "".join(rng.choice([chr(rng.choice(CONTROLS)), cut()[:4]]) for _ in range(rng.randrange(1, 20)))
        case "scripts":
            return "".join(chr(rng.randrange(*rng.choice(RANGES))) for _ in range(20))
    raise AssertionError(kind)


def stress(count: int, texts: Sequence[str], seed: int = 0, kinds: Sequence[str] = KINDS) -> list[str]:
    """Texts of each kind in turn."""
    rng = random.Random(seed)
    return [text_of(kinds[number % len(kinds)], texts, rng) for number in range(count)]


def differences(tokenizer: processor.Tokenizer, texts: list[str]) -> list[str]:
    """The texts to which the tokenizers library gives other ids, or whose ids it spells otherwise."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_hf.to_json(tokenizer)))
    expected = tokenizer.encode_batch(texts, bos=True, threads=2)
    found = [encoding.ids for encoding in theirs.encode_batch(texts)]
    spelled = [theirs.decode(ids) == tokenizer.decode(ids) for ids in expected]
    return [text for text, left, right, equal in zip(texts, expected, found, spelled, strict=True) if left != right or not equal]


def test_ids_of_a_small_tokenizer_are_equal(padded_tokenizer: processor.Tokenizer) -> None:
    assert tokenizer_hf.tied_pieces(padded_tokenizer) == 0
    assert differences(padded_tokenizer, stress(6000, SENTENCES)) == []


@pytest.fixture(scope="module")
def real_texts(shared_data: Path) -> list[str]:
    with open(shared_data / "zh_corpus.jsonl", encoding="utf-8") as stream:
        texts = [json.loads(next(stream))["text"] for _ in range(200)]
    texts += (shared_data / "en_wiki.txt").read_text(encoding="utf-8").splitlines()[:200]
    return [text for text in texts if text]


@pytest.fixture(scope="module")
def real_tokenizers(shared_data: Path) -> dict[str, processor.Tokenizer]:
    """LLaMA's own, and merged with a Chinese one in both modes."""
    models = shared_data / "tokenizers" / "llama_32000.model", [shared_data / "tokenizers" / "chinese_sp_20000.model"]
    merged = {
        mode: processor.Tokenizer.from_bytes(merge.merge(*models, mode=mode, pad_token=True, proof_strings=100).serialized)
        for mode in ("safe", "reference")
    }
    return {"base": processor.Tokenizer.load(models[0]), **merged}


@pytest.mark.parametrize(("which", "tied"), [("base", 0), ("safe", 0), ("reference", 11_597)])
def test_ids_of_real_tokenizers_are_equal(
    real_tokenizers: dict[str, processor.Tokenizer], real_texts: list[str], which: str, tied: int
) -> None:
    """LLaMA's own, and merged with a Chinese one under distinct scores: equal everywhere. Under one score for all: not quite."""
    tokenizer, strings = real_tokenizers[which], stress(5000, real_texts)
    assert tokenizer_hf.tied_pieces(tokenizer) == tied
    found = differences(tokenizer, strings)
    assert len(found) <= (0.06 * len(strings) if tied else 0)
    if tied:
        by_rank = ranked.Ranked(tokenizer)
        assert 0 < len(found) == by_rank.differing(strings), "what the pages and the report count"
        assert 0 < by_rank.differing(list(by_rank.drawn(500))) < 50 < 250 < by_rank.differing(list(by_rank.drawn(500, chained=True)))


REFERENCE = {
    "cut": 7_868,
    "leading blanks": 7_775,
    "runs": 0,
    "dense": 15_358,
    "mixed": 2_759,
    "newlines": 10_730,
    "emoji": 365,
    "controls": 3_028,
    "scripts": 4,
}
"""How many of 100,000 texts of each kind differ in reference mode: what `zhllama_jax/help/export.md` says."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["base", "safe", "reference"])
def test_a_hundred_thousand_texts_of_each_kind_in_transformers(
    tmp_path: Path, real_tokenizers: dict[str, processor.Tokenizer], real_texts: list[str], which: str, kind: str
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = real_tokenizers[which]
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    wrong = 0
    for seed in range(10):
        strings = stress(10_000, real_texts, seed, [kind])
        expected, found = tokenizer.encode_batch(strings, bos=True), theirs(strings)["input_ids"]
        wrong += sum(left != right for left, right in zip(expected, found, strict=True))
    assert wrong == (REFERENCE[kind] if which == "reference" else 0)


def test_transformers_loads_the_files(tmp_path: Path, padded_tokenizer: processor.Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer_hf.write(tmp_path, padded_tokenizer, max_length=2048, prompt=None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == padded_tokenizer.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert theirs.pad_token_id == padded_tokenizer.pad_id == padded_tokenizer.vocab_size - 1
    assert theirs.model_max_length == 2048
    assert theirs.chat_template is None
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {"[PAD]": padded_tokenizer.pad_id}
    texts = [text for text in stress(600, SENTENCES) if text]
    batch = theirs(texts)
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["input_ids"] == padded_tokenizer.encode_batch(texts, bos=True)
    for text in texts[:100]:
        assert theirs.decode(padded_tokenizer.encode(text, bos=True, eos=True), skip_special_tokens=True) == text.replace("▁", " ")


def test_the_model_s_padding_id_pads_where_the_tokenizer_has_none(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=None, pad_id=tokenizer.unk_id)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.pad_token_id == theirs.unk_token_id == tokenizer.unk_id
    assert theirs(["a", "b c d"], padding=True)["attention_mask"][0][0] == 0
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=None, pad_id=tokenizer.vocab_size)  # a row without a piece
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).pad_token_id is None


def test_no_padding_piece_no_padding_files(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=manifest.Prompt("none"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert (tmp_path / "tokenizer.model").read_bytes() == tokenizer.serialized


TURNS = [("What is 1 + 1?", "2"), ("And\n从一数到十?", "一二三四五六七八九十。"), ("  Thanks ", "")]


@pytest.mark.parametrize("template", [name for name in templates.TEMPLATES if templates.puts_text(name)])
@pytest.mark.parametrize("boundary", ["joined", "faithful"])
def test_chat_template_renders_as_chat_does(tmp_path: Path, tokenizer: processor.Tokenizer, template: str, boundary: Any) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=manifest.Prompt(template, boundary))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for count in (1, 2, 3):
        roles = [(role, text) for turn in TURNS[:count] for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages = [{"role": role, "content": text} for role, text in roles[:-1]]
        expected = chat.render_prompt(tokenizer, TURNS[count - 1][0], template=template, boundary=boundary, history=TURNS[: count - 1])
        found = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert found == expected, f"{count} turns"


def test_chat_template_of_conversations_renders_as_chat_does(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    """EOS stands behind every answer, as it did in training."""
    transformers = pytest.importorskip("transformers")
    prompt = manifest.Prompt("alpaca", "joined", "closed")
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=prompt)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    roles = [(role, text) for turn in TURNS for role, text in zip(("user", "assistant"), turn, strict=True)]
    messages = [{"role": role, "content": text} for role, text in roles[:-1]]
    expected = chat.render_prompt(tokenizer, TURNS[-1][0], history=TURNS[:-1], turns="closed")
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == expected
    example = chat.render_example(tokenizer, chat.SftExample(*TURNS[1][:1], "", TURNS[1][1], tuple(TURNS[:1])))
    assert example is not None and theirs.apply_chat_template(messages[:-1])["input_ids"] == example.tokens


def test_system_message_takes_the_place_of_the_head(tmp_path: Path, tokenizer: processor.Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer_hf.write(tmp_path, tokenizer, max_length=2048, prompt=manifest.Prompt("alpaca"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    text = theirs.apply_chat_template(messages, tokenize=False)
    assert text == "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response: Yes."


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path, chinese_pieces: Path) -> None:
    with pytest.raises(ValueError, match="unigram"):
        tokenizer_hf.to_json(processor.Tokenizer.load(chinese_pieces))
    assert not tokenizer_hf.require_sentencepiece(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="SentencePiece tokenizer is the scope"):
        tokenizer_hf.require_sentencepiece(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert tokenizer_hf.require_sentencepiece(tmp_path)
