"""The same text gives the same bytes, from any place and process; what cannot be trained is said in one sentence."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from zhllama_jax.tokenizer import processor, proto, train


def corpus(seed: int = 0, lines: int = 300) -> list[str]:
    rng = random.Random(seed)
    words = ["河流", "山川", "天气", "今天", "我们", "学习", "模型", "句子", "一个", "简单", "公园", "散步", "喜欢", "很好", "数据"]
    return ["".join(rng.choices(words, k=8)) + "。" + " ".join(rng.choices(["the", "river", "model", "small"], k=4)) for _ in range(lines)]


def write_both(directory: Path, texts: list[str]) -> list[Path]:
    directory.mkdir()
    half = len(texts) // 2
    (directory / "a.txt").write_text("\n".join(texts[:half]) + "\n\n", encoding="utf-8")
    (directory / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[half:]), encoding="utf-8")
    return [directory / "a.txt", directory / "b.jsonl"]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_same_text_same_bytes_wherever_it_lies(tmp_path: Path, model_type: train.ModelType) -> None:
    results = []
    for name in ("here", "there"):
        inputs = write_both(tmp_path / name, corpus())
        output = tmp_path / name / "out.model"
        results.append(train.train(inputs, output=output, vocab_size=360, model_type=model_type))
        assert output.read_bytes() == results[-1].serialized
    assert results[0] == results[1]
    code = (
        "import sys; from zhllama_jax.tokenizer import train;"
        f"print(train.train(sys.argv[1:], output=None, vocab_size=360, model_type={model_type!r}).sha256)"
    )
    process = subprocess.run([sys.executable, "-c", code, *map(str, inputs)], capture_output=True, text=True, check=True)
    assert process.stdout.split() == [results[0].sha256]
    assert str(tmp_path).encode() not in results[0].serialized


def test_a_bpe_model_is_a_llama_tokenizer() -> None:
    trained = train.from_texts(corpus(), vocab_size=400, model_type="bpe")
    model = proto.parse(trained.serialized)
    proto.require_llama(model)
    tokenizer = processor.Tokenizer.from_bytes(trained.serialized)
    assert tokenizer.vocab_size == trained.vocab_size == 400
    for text in ["今天天气很好", "  two  blanks", "never seen 龘 😀", "2016"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("我们学习模型")) < 6
    # Digits are never joined.
    assert not any(sum(character.isdigit() for character in piece.piece) > 1 for piece in model.pieces if piece.type == proto.NORMAL)


def test_settings_reach_the_model() -> None:
    plain = proto.parse(train.from_texts(corpus(), vocab_size=90, byte_fallback=False).serialized)
    assert not plain.trainer_spec.byte_fallback and len(plain.pieces) == 90
    rare = ["".join(map(chr, range(0x5000, 0x5000 + 100)))] + ["天地"] * 10_000
    low = train.from_texts(rare, vocab_size=262, character_coverage=0.99)
    assert not any("\u5000" in piece.piece for piece in proto.parse(low.serialized).pieces)
    full = train.from_texts(rare, vocab_size=362, character_coverage=1.0)
    assert any("\u5000" in piece.piece for piece in proto.parse(full.serialized).pieces)


def test_the_seed_draws_the_sample() -> None:
    texts = corpus(lines=2_000)
    draws = [train.from_texts(texts, vocab_size=320, max_sentences=50, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0].sentences == 50
    assert train.from_texts(texts[:60], vocab_size=320, seed=0) == train.from_texts(texts[:60], vocab_size=320, seed=1)


def test_long_lines_are_cut_and_not_lost() -> None:
    rng = random.Random(0)
    text = "".join(rng.choice("山水天地人。， a.\n\u3000") for _ in range(50_000))
    pieces = list(train.sentences(text + "山" * 5_000))
    assert max(map(len, pieces)) <= train.MAX_SENTENCE
    assert "".join("".join(pieces).split()) == "".join(text.split()) + "山" * 5_000
    assert list(train.sentences("a\r\n \n\ud800b\0c")) == ["a", "\ufffdb c"]
    assert [len(piece) for piece in train.sentences("山" * 2_500)] == [1_000, 1_000, 500]


def test_impossible_sizes() -> None:
    with pytest.raises(
        ValueError, match=r"vocab_size 5,000 is too large for this text of [\d,]+ characters: at most [\d,]+ pieces"
    ) as large:
        train.from_texts(corpus(), vocab_size=5_000)
    most = int(str(large.value).partition("at most ")[2].partition(" ")[0].replace(",", ""))
    assert train.from_texts(corpus(), vocab_size=most).vocab_size == most
    with pytest.raises(ValueError, match=r"vocab_size 270 is too small: .* are 3\d\d already"):
        train.from_texts(corpus(), vocab_size=270)


def test_wrong_settings_are_listed_together() -> None:
    with pytest.raises(
        ValueError, match=r"model_type must be one of bpe, unigram.*vocab_size must be 260 to.*character_coverage.*max_sentences"
    ):
        train.from_texts(["a"], vocab_size=3, model_type="word", character_coverage=0.5, max_sentences=0)  # type: ignore[arg-type]


def test_wrong_inputs(tmp_path: Path) -> None:
    good, bad = write_both(tmp_path / "data", corpus())
    with bad.open("a") as stream:
        stream.write('{"text": "x"\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:151: not JSON"):
        train.train([good, bad], output=tmp_path / "out.model", vocab_size=300)
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        train.train([good, tmp_path / "missing.txt"], output=None, vocab_size=300)
    with pytest.raises(ValueError, match="no text to train on"):
        train.train([], output=None, vocab_size=300)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="blank lines only"):
        train.train([tmp_path / "blank.txt"], output=None, vocab_size=300)
    assert not (tmp_path / "out.model").exists()
