"""The report's numbers are those counted by hand, and its break-evens are where the costs meet."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax import lines
from zhllama_jax.tokenizer import analyse, merge, processor, proto, ranked

TINY = analyse.Shape(hidden_size=64, intermediate_size=160, num_hidden_layers=2, key_value_size=32)


@pytest.fixture(scope="module")
def tokenizers(base_model: Path, chinese_model: Path) -> tuple[processor.Tokenizer, processor.Tokenizer]:
    merged = merge.merge(base_model, [chinese_model], pad_token=True, proof_strings=100)
    return processor.Tokenizer.load(base_model), processor.Tokenizer.from_bytes(merged.serialized)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, english_lines: list[str], chinese_lines: list[str]) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("texts")
    (directory / "en.txt").write_text("\n".join(english_lines[:400]), encoding="utf-8")
    rows = ["\n".join(chinese_lines[start : start + 3]) + "\nan English line" for start in range(0, 300, 3)]
    (directory / "zh.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return {"en": directory / "en.txt", "zh": directory / "zh.jsonl"}


@pytest.fixture(scope="module")
def report(tokenizers: tuple[processor.Tokenizer, processor.Tokenizer], files: dict[str, Path]) -> dict[str, Any]:
    return analyse.report(*tokenizers, [("English", [files["en"]]), ("中文", [files["zh"]]), ("both", list(files.values()))], shape=TINY)


def test_counts_are_those_by_hand(
    report: dict[str, Any], tokenizers: tuple[processor.Tokenizer, processor.Tokenizer], files: dict[str, Path]
) -> None:
    base, merged = tokenizers
    texts = [text for _, text in lines.records(files["zh"])]
    found = report["texts"]["中文"]
    assert found["documents"] == 100
    assert found["characters"] == sum(map(len, texts))
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    for which, tokenizer in (("base", base), ("merged", merged)):
        encoded = [id_ for text in texts for id_ in tokenizer.encode(text)]
        single = sum(tokenizer.is_byte(id_) and tokenizer.piece(id_) != "<0x0A>" for id_ in encoded)
        assert found[which]["tokens"] == len(encoded)
        assert found[which]["tokens_per_character"] == pytest.approx(len(encoded) / found["characters"])
        assert found[which]["tokens_per_byte"] == pytest.approx(len(encoded) / found["bytes"])
        assert found[which]["byte_fallback_share"] == pytest.approx(single / len(encoded))
    assert found["context_gain"] == pytest.approx(found["base"]["tokens"] / found["merged"]["tokens"])
    assert (found["free_lines"], found["changed_lines"]) == (100, 0)
    assert report["texts"]["English"]["context_gain"] == 1.0


def test_lines_with_other_ids_in_transformers_are_counted(base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("靐龘靐\n龘靐龘\n\n龘 靐\nabc\n" + "龘靐龘" * 1000, encoding="utf-8")
    model = proto.parse(base_model.read_bytes())
    for name in ("龘", "靐", "龘靐", "靐龘"):
        model.pieces.append(proto.Piece(piece=name, score=0.0, type=proto.NORMAL))
    tangled = processor.Tokenizer.from_bytes(model.SerializeToString())
    monkeypatch.setattr(analyse, "COMPARED", 500)
    found = analyse.report(processor.Tokenizer.load(base_model), tangled, [("text", [tmp_path / "a.txt"])], shape=TINY)
    lines_ = ["靐龘靐", "龘靐龘", "龘 靐", "abc", ("龘靐龘" * 1000)[: 500 - 12]]
    differ = ranked.Ranked(tangled).differing(lines_)
    assert found["texts"]["text"]["ranked"] == {"lines": 5, "differ": differ} and differ in (1, 2)
    assert f"| text | 5 | {differ} |" in analyse.markdown(found)


def test_texts_of_several_files_add_up(report: dict[str, Any]) -> None:
    texts = report["texts"]
    for key in ("documents", "characters", "bytes", "free_lines"):
        assert texts["both"][key] == texts["English"][key] + texts["中文"][key]


def test_new_pieces_are_accounted_for(report: dict[str, Any]) -> None:
    new = report["new_pieces"]
    assert new["text"] + new["controls"] == report["merged"]["pieces"] - report["base"]["pieces"]
    assert new["controls"] == 1
    assert 0 < new["unreachable"] < new["text"]
    assert "越来越" in new["examples"]


def test_the_break_even_is_where_both_have_cost_the_same(report: dict[str, Any]) -> None:
    old, new = report["base"]["pieces"], report["merged"]["pieces"]
    body = 2 * (64 * 64 + 64 * 32 + 64 * 32 + 64 * 64 + 3 * 64 * 160)
    assert TINY.body == body
    assert report["cost"]["extra_parameters"] == 2 * 64 * (new - old)
    text = report["texts"]["中文"]
    even = text["break_even"]
    before = even["base_tokens"] * 2 * (body + old * 64)
    after = even["merged_tokens"] * 2 * (body + new * 64) + report["cost"]["training_flops"]
    assert before == pytest.approx(after)
    assert report["cost"]["training_flops"] == 20 * report["cost"]["extra_parameters"] * 3 * 2 * (body + new * 64)
    # Key and value of every layer, before and after, for the same text.
    context = text["memory_break_even"]
    assert (context * text["context_gain"] - context) * 2 * 2 * 32 == pytest.approx(report["cost"]["extra_parameters"])
    assert report["texts"]["English"]["break_even"] is None
    assert report["texts"]["English"]["memory_break_even"] is None
    assert report["texts"]["English"]["speed_gain"] < 1 < text["speed_gain"] < text["context_gain"]


def test_training_tokens_and_tied_heads_change_the_cost(
    tokenizers: tuple[processor.Tokenizer, processor.Tokenizer], files: dict[str, Path]
) -> None:
    tied = analyse.Shape(hidden_size=64, intermediate_size=160, num_hidden_layers=2, tie_word_embeddings=True)
    found = analyse.report(*tokenizers, [("zh", [files["zh"]])], shape=tied, training_tokens=1000)
    assert found["cost"]["extra_parameters"] == 64 * (found["merged"]["pieces"] - found["base"]["pieces"])
    assert found["cost"]["training_flops"] == 3000 * tied.flops(found["merged"]["pieces"])


def test_llama_7b_has_its_parameters() -> None:
    shape = analyse.Shape()
    # 6,738,415,616 without the 65 norms of 4,096 weights.
    assert shape.body + shape.extra_parameters(32_000) == 6_738_415_616 - 65 * 4_096


def test_json_and_markdown(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report
    text = analyse.markdown(report)
    heads = [line for line in text.split("\n") if line.startswith("| text |")]
    assert not any(cell.strip() == "" for head in heads for cell in head.split("|")[1:-1]), "every column has a name"
    assert "| English |" in text and "| 中文 |" in text and "never" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for header, row in itertools.pairwise(rows):
        if row.startswith("|---"):
            assert header.count("|") == row.count("|")
    assert "Lines without han characters" in text
    odd = {**report, "texts": {"a|b": report["texts"]["English"]}}
    assert "| a\\|b |" in analyse.markdown(odd)


def test_wrong_inputs(
    tokenizers: tuple[processor.Tokenizer, processor.Tokenizer], files: dict[str, Path], tmp_path: Path, chinese_model: Path
) -> None:
    base, merged = tokenizers
    with pytest.raises(ValueError, match="two texts are named 'a'"):
        analyse.report(base, merged, [("a", [files["en"]]), ("a", [files["zh"]])])
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        analyse.report(base, merged, [("a", [tmp_path / "gone.txt"])])
    with pytest.raises(ValueError, match="does not extend the base"):
        analyse.report(processor.Tokenizer.load(chinese_model), merged, [])
    with pytest.raises(ValueError, match="does not extend the base"):
        analyse.report(merged, base, [])
    with pytest.raises(ValueError, match="training_tokens must be at least 1, got -5"):
        analyse.report(base, merged, [("a", [files["zh"]])], training_tokens=-5)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="the text 'blank' is empty"):
        analyse.report(base, merged, [("blank", [tmp_path / "blank.txt"])])


def test_the_papers_table(shared_data: Path, tmp_path: Path) -> None:
    directory = shared_data / "tokenizers"
    reference = merge.merge(directory / "llama_32000.model", [directory / "chinese_sp_20000.model"], mode="reference")
    base, merged = processor.Tokenizer.load(directory / "llama_32000.model"), processor.Tokenizer.from_bytes(reference.serialized)
    (tmp_path / "a.txt").write_text(analyse.PAPER_SENTENCE, encoding="utf-8")
    found = analyse.report(base, merged, [("a", [tmp_path / "a.txt"])])
    assert (found["sentence"]["base_tokens"], found["sentence"]["merged_tokens"]) == (35, 16)
    assert len(analyse.PAPER_SENTENCE) == 28
    assert found["cost"]["extra_parameters"] == 2 * 17_953 * 4_096
    assert found["new_pieces"]["unreachable"] == 345
