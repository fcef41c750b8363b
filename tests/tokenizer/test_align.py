"""New pieces are spelled by base pieces, in order, without a blank of their own."""

from pathlib import Path

import pytest

from zhllama_jax.tokenizer import align, merge, processor, proto


@pytest.fixture(scope="module")
def tokenizers(base_model: Path, chinese_model: Path) -> tuple[processor.Tokenizer, processor.Tokenizer]:
    merged = merge.merge(base_model, [chinese_model], pad_token=True, proof_strings=100)
    return processor.Tokenizer.load(base_model), processor.Tokenizer.from_bytes(merged.serialized)


def test_each_spelling_reads_as_its_piece(tokenizers: tuple[processor.Tokenizer, processor.Tokenizer]) -> None:
    base, merged = tokenizers
    spellings = align.spell(base, merged)
    assert len(spellings) == merged.vocab_size - base.vocab_size
    for number, ids in enumerate(spellings[:-1], base.vocab_size):
        assert all(0 <= id_ < base.vocab_size for id_ in ids)
        # Behind another token, so that a leading blank shows.
        assert base.decode(ids, after=[base.id("s")]) == merged.piece(number).replace(proto.SPACE, " ")


def test_a_leading_blank_is_spelled_once(tokenizers: tuple[processor.Tokenizer, processor.Tokenizer]) -> None:
    base, merged = tokenizers
    with_blank = next(number for number in range(base.vocab_size, merged.vocab_size) if merged.piece(number).startswith(proto.SPACE))
    without = next(number for number in range(base.vocab_size, merged.vocab_size) if merged.piece(number) == "数据库")
    spellings = align.spell(base, merged)
    assert base.piece(spellings[with_blank - base.vocab_size][0]).startswith(proto.SPACE)
    assert [base.piece(id_) for id_ in spellings[without - base.vocab_size]] == [f"<0x{byte:02X}>" for byte in "数据库".encode()]


def test_padding_has_no_spelling_and_nothing_new_none(tokenizers: tuple[processor.Tokenizer, processor.Tokenizer]) -> None:
    base, merged = tokenizers
    assert align.spell(base, merged)[-1] == []
    assert align.spell(base, base) == []


def test_strangers_are_refused(tokenizers: tuple[processor.Tokenizer, processor.Tokenizer], chinese_model: Path) -> None:
    base, merged = tokenizers
    with pytest.raises(ValueError, match="are they exchanged"):
        align.spell(merged, base)
    with pytest.raises(ValueError, match=r"was not made from this base: id \d+ is"):
        align.spell(processor.Tokenizer.load(chinese_model), merged)


def test_the_real_piece_of_the_paper(shared_data: Path, tmp_path: Path) -> None:
    base = processor.Tokenizer.load(shared_data / "tokenizers" / "llama_32000.model")
    (tmp_path / "words.txt").write_text("人工智能\n", encoding="utf-8")
    merged = merge.merge(shared_data / "tokenizers" / "llama_32000.model", [tmp_path / "words.txt"], proof_strings=100)
    found = processor.Tokenizer.from_bytes(merged.serialized)
    number = found.encode("人工智能")[-1]
    assert found.piece(number) == "人工智能"
    assert align.spell(base, found)[number - 32_000] == [30313, 31041, 31676, 30815]
