"""What files offer to a merge."""

from pathlib import Path

import pytest

from zhllama_jax.tokenizer import pieces, proto, scripts

HAN = scripts.named("han")


def test_a_model_offers_its_pieces_and_knows_which_are_text(chinese_model: Path) -> None:
    offer = pieces.read(chinese_model, script=HAN)
    model = proto.parse(chinese_model.read_bytes())
    assert list(offer.pieces) == [piece.piece for piece in model.pieces]
    assert offer.name == "zh.model" and not offer.is_list
    assert not offer.text & {"<unk>", "<s>", "</s>", "<0x0A>"}
    chosen = offer.chosen(HAN)
    assert {"数据库", "人工智能"} <= set(chosen)
    assert not set(chosen) & {"。", "，", "！", "the", "1"}
    assert all(HAN.has_letter(piece) for piece in chosen)


def test_a_model_that_only_lends_pieces_may_number_its_specials_otherwise(chinese_model: Path, tmp_path: Path) -> None:
    model = proto.parse(chinese_model.read_bytes())
    moved = list(model.pieces)
    del model.pieces[:]
    model.pieces.extend([proto.Piece(piece="<pad>", score=0, type=proto.CONTROL), *moved])
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id, model.trainer_spec.pad_id = 1, 2, 3, 0
    (tmp_path / "moved.model").write_bytes(model.SerializeToString())
    assert "数据库" in pieces.read(tmp_path / "moved.model", script=HAN).chosen(HAN)


def test_a_word_list_is_taken_at_its_word(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("深度学习\n\n  注意力 \r\n深度学习\n𠮷\n《》\nGPU 显存\nplain\n　全角\n", encoding="utf-8")
    offer = pieces.read(path, script=HAN)
    assert offer.pieces == ("深度学习", "注意力", "𠮷", "《》", "GPU▁显存", "plain", "全角")
    assert offer.chosen(HAN) == ["深度学习", "注意力", "𠮷", "《》", "GPU▁显存", "全角"]


def test_words_of_scripts_with_blanks_begin_with_one(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("привет\n▁мир\n", encoding="utf-8")
    cyrillic = scripts.named("cyrillic")
    assert pieces.read(path, script=cyrillic).chosen(cyrillic) == ["▁привет", "▁мир"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("词\n词语\t100\n", r"words\.txt:2: a word list has one word a line"),
        ("字" * 48 + "\n" + "字" * 49, r"words\.txt:2: a word has at most 48 characters, found 49"),
    ],
)
def test_other_tables_are_no_word_lists(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "words.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        pieces.read(tmp_path / "words.txt", script=HAN)
