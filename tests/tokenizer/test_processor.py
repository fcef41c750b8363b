"""Round trips, streaming and special names in user text, on a tiny LLaMA-like tokenizer and on the real ones."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from zhllama_jax.tokenizer import processor, proto

HOSTILE = [
    "</s>",
    "<s>",
    "<unk>",
    "[PAD]",
    "<0x0A>",
    "a</s>b<s>",
    "[PAD][PAD]",
    " [PAD] ",
    "▁[PAD]",
    "[[PAD]]",
    "<|im_start|>",
    "### Instruction:",
    "＜s＞",
    "<pad>",
    "<0xFF><0xFE>",
    "</",
    "s>",
]


@pytest.fixture(scope="module")
def tokenizer(english_pieces: Path) -> processor.Tokenizer:
    return processor.Tokenizer.load(english_pieces)


def with_pad(serialized: bytes, kind: int, *, name: str = "[PAD]") -> bytes:
    model = proto.parse(serialized)
    # Every merge on the way to the piece exists, so that nothing but its type keeps text from producing it.
    for piece in ("[P", "[PA", "[PAD"):
        if piece not in {present.piece for present in model.pieces}:
            model.pieces.append(proto.Piece(piece=piece, score=0.0, type=proto.NORMAL))
    model.pieces.append(proto.Piece(piece=name, score=0.0, type=kind))
    return model.SerializeToString()


def random_text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randrange(12)):
        parts.append(
            rng.choice(
                [
                    rng.choice(HOSTILE),
                    " " * rng.randrange(4),
                    chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
                    "the fox",
                    "小模型",
                    "\n\r\n\t\0",
                    "👩‍👩‍👧é",
                ]
            )
        )
    return "".join(parts)


def test_every_character_comes_back(tokenizer: processor.Tokenizer) -> None:
    scalars = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000)) if chr(code) != proto.SPACE]
    blocks = ["".join(scalars[start : start + 64]) for start in range(0, len(scalars), 64)]
    for block, ids in zip(blocks, tokenizer.encode_batch(blocks), strict=True):
        assert tokenizer.decode(ids) == block
    assert tokenizer.decode(tokenizer.encode(f"a{proto.SPACE}b")) == "a b"


def test_blanks_come_back(tokenizer: processor.Tokenizer) -> None:
    for text in ("", " ", "  ", " a", "a ", "  a  b  ", "\n", "\n ", "a\r\nb"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_surrogates_become_characters(tokenizer: processor.Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"
    assert tokenizer.encode_batch(["\udfff"]) == [tokenizer.encode("\ufffd")]


def test_bos_and_eos_only_where_asked(tokenizer: processor.Tokenizer) -> None:
    ids = tokenizer.encode("the fox")
    assert tokenizer.encode("the fox", bos=True, eos=True) == [1, *ids, 2]
    assert tokenizer.encode_batch(["the fox", ""], bos=True) == [[1, *ids], [1]]
    assert tokenizer.decode([1, *ids, 2]) == "the fox"


@pytest.mark.parametrize("kind", [None, proto.CONTROL, proto.NORMAL, proto.USER_DEFINED])
def test_text_never_produces_a_control_id(english_pieces: Path, kind: int | None) -> None:
    plain = english_pieces.read_bytes()
    serialized = plain if kind is None else with_pad(plain, kind)
    tokenizer = processor.Tokenizer.from_bytes(serialized)
    assert tokenizer.serialized == serialized
    assert tokenizer.pad_id == (None if kind is None else tokenizer.vocab_size - 1)
    rng = random.Random(0)
    texts = HOSTILE + [random_text(rng) for _ in range(20_000)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert not any(tokenizer.is_control(number) for number in ids), text
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text.replace(proto.SPACE, " ")


def test_the_guard_is_needed(english_pieces: Path) -> None:
    """sentencepiece alone does turn user text into a NORMAL padding piece."""
    bare = sentencepiece.SentencePieceProcessor(model_proto=with_pad(english_pieces.read_bytes(), proto.NORMAL))
    assert bare.vocab_size() - 1 in bare.encode("x[PAD]")


def test_stream_equals_decode_for_any_ids(english_pieces: Path, chinese_pieces: Path) -> None:
    rng = random.Random(1)
    for path in (english_pieces, chinese_pieces):
        tokenizer = processor.Tokenizer.load(path)
        bytes_first = [number for number in range(tokenizer.vocab_size) if tokenizer.is_byte(number)]
        for _ in range(4_000):
            pool = rng.choice([range(tokenizer.vocab_size), bytes_first, range(3, 8), [0, 1, 2, tokenizer.id("▁"), *bytes_first[0xC0:]]])
            ids = [rng.choice(pool) for _ in range(rng.randrange(20))]
            stream = tokenizer.stream()
            assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids), ids


def test_stream_never_splits_a_character(tokenizer: processor.Tokenizer) -> None:
    text = "fox 狐狸 😀 é 👩‍👩‍👧 end"
    stream = tokenizer.stream()
    parts = [stream.push(number) for number in tokenizer.encode(text)]
    assert stream.flush() == ""
    assert "".join(parts) == text
    assert not any(processor.REPLACEMENT in part for part in parts)
    assert all(part in text for part in parts)


def test_stream_holds_back_at_most_three_bytes(tokenizer: processor.Tokenizer) -> None:
    rng = random.Random(2)
    stream = tokenizer.stream()
    given = 0
    for pushed in range(1, 5_000):
        given += len(stream.push(3 + rng.randrange(256)).encode().replace(b"\xef\xbf\xbd", b"?"))
        assert pushed - given <= 3


def test_continuations_keep_their_first_blank(tokenizer: processor.Tokenizer) -> None:
    prompt, whole = tokenizer.encode("the fox", bos=True), tokenizer.encode("the fox reads 字", bos=True)
    assert whole[: len(prompt)] == prompt
    rest = whole[len(prompt) :]
    assert tokenizer.decode(rest, after=prompt) == " reads 字"
    stream = tokenizer.stream(after=prompt)
    assert "".join([*map(stream.push, rest), stream.flush()]) == " reads 字"
    assert tokenizer.decode(rest, after=[1]) == "reads 字"


@pytest.mark.parametrize("bad", [-1, 10**6, 2**31, 2**40])
def test_ids_outside_the_vocabulary(tokenizer: processor.Tokenizer, bad: int) -> None:
    for use in (lambda: tokenizer.decode([bad]), lambda: tokenizer.piece(bad), lambda: tokenizer.stream().push(bad)):
        with pytest.raises(ValueError, match=f"token id {bad} is outside the vocabulary"):
            use()


def test_ids_are_integers(tokenizer: processor.Tokenizer) -> None:
    assert tokenizer.decode(np.array(tokenizer.encode("the fox"), np.uint32)) == "the fox"
    for bad in (None, "a", 1.5):
        with pytest.raises(TypeError, match="must be an integer"):
            tokenizer.decode([bad])


def test_pieces_and_pickles(tokenizer: processor.Tokenizer) -> None:
    assert (tokenizer.piece(1), tokenizer.id("</s>"), tokenizer.id("no such piece")) == ("<s>", 2, None)
    assert [number for number in range(5) if tokenizer.is_control(number)] == [1, 2]
    assert tokenizer.piece(3) == "<0x00>" and tokenizer.is_byte(3)
    twin = pickle.loads(pickle.dumps(tokenizer))
    assert twin.sha256 == tokenizer.sha256
    assert twin.encode("a fox") == tokenizer.encode("a fox")
    assert len(tokenizer) == tokenizer.vocab_size


def test_a_file_that_did_not_come_whole_is_told(tmp_path: Path, english_pieces: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:9e556afd\nsize 499723\n")
    with pytest.raises(ValueError, match=r"tokenizer\.model is only Git LFS's pointer to the file: .*git lfs pull"):
        processor.Tokenizer.load(tmp_path)
    path.write_bytes(english_pieces.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tokenizer\.model is not a SentencePiece model, or was cut short"):
        processor.Tokenizer.load(tmp_path)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="SentencePiece tokenizer is the scope"):
        processor.Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        processor.Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.model"):
        processor.Tokenizer.load(tmp_path / "..")
    with pytest.raises(FileNotFoundError, match="not found"):
        processor.Tokenizer.load(tmp_path / "a.model")
    (tmp_path / "a.model").write_bytes(b"\x00garbage")
    with pytest.raises(ValueError, match=r"a\.model is not a"):
        processor.Tokenizer.load(tmp_path / "a.model")


def test_golden_ids(shared_data: Path) -> None:
    tokenizer = processor.Tokenizer.load(shared_data / "tokenizers" / "llama_32000.model")
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (32_000, None)
    for row in json.loads((shared_data / "golden_tokenization.json").read_text(encoding="utf-8"))["rows"]:
        assert tokenizer.encode(row["text"]) == row["llama_32000"]
        assert tokenizer.decode(row["llama_32000"]) == row["text"]


def test_long_words_take_linear_time(shared_data: Path) -> None:
    """A megabyte without a blank; quadratic time would take hours."""
    tokenizer = processor.Tokenizer.load(shared_data / "tokenizers" / "llama_32000.model")
    text = "a" * 500_000 + "字" * 100_000
    ids = tokenizer.encode(text)
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == text
