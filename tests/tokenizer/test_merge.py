"""Reference mode reproduces released bytes; safe mode changes nothing but text of the script, and reaches what can be reached."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from zhllama_jax import lines
from zhllama_jax.tokenizer import invariance, merge, processor, proto, reach, scripts, train

HAN = scripts.named("han")
LLAMA_SHA256 = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"
ALPACA_SHA256 = "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"


def tokenizer(merged: merge.Merged) -> processor.Tokenizer:
    return processor.Tokenizer.from_bytes(merged.serialized)


def new_pieces(merged: merge.Merged) -> list[proto.Piece]:
    return list(proto.parse(merged.serialized).pieces)[merged.base_size :]


@pytest.fixture(scope="module")
def safe(base_model: Path, chinese_model: Path) -> merge.Merged:
    return merge.merge(base_model, [chinese_model], proof_strings=5_000)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[Path, Path]:
    return shared_data / "tokenizers" / "llama_32000.model", shared_data / "tokenizers" / "chinese_sp_20000.model"


@pytest.fixture(scope="module")
def real_reference(real: tuple[Path, Path]) -> merge.Merged:
    return merge.merge(real[0], [real[1]], mode="reference")


@pytest.fixture(scope="module")
def real_safe(real: tuple[Path, Path]) -> merge.Merged:
    return merge.merge(real[0], [real[1]])


def test_old_pieces_stay_and_new_ones_follow(base_model: Path, safe: merge.Merged) -> None:
    base, merged = proto.parse(base_model.read_bytes()), proto.parse(safe.serialized)
    assert list(merged.pieces[: safe.base_size]) == list(base.pieces)
    assert len(merged.pieces) == safe.size == merged.trainer_spec.vocab_size == safe.base_size + safe.added
    assert safe.sha256 == hashlib.sha256(safe.serialized).hexdigest()
    assert proto.check(merged) == []


def test_new_scores_are_distinct_descending_and_below_the_base(base_model: Path, safe: merge.Merged) -> None:
    scores = [piece.score for piece in new_pieces(safe)]
    assert scores[0] < min(piece.score for piece in proto.parse(base_model.read_bytes()).pieces)
    assert all(first > second for first, second in itertools.pairwise(scores))


def test_new_pieces_are_of_the_script(safe: merge.Merged) -> None:
    assert all(HAN.has_letter(piece.piece) and piece.type == proto.NORMAL for piece in new_pieces(safe))
    assert {"数据库", "人工智能"} <= {piece.piece for piece in new_pieces(safe)}


def test_text_without_the_script_is_encoded_as_before(base_model: Path, safe: merge.Merged, english_lines: list[str]) -> None:
    """At least 100,000 strings, as the promise says."""
    base, merged = processor.Tokenizer.load(base_model), tokenizer(safe)
    generated = itertools.islice(invariance.generate(proto.parse(base.serialized), HAN, seed=99), 100_000)
    texts = [*english_lines, *generated]
    assert base.encode_batch(texts) == merged.encode_batch(texts)


def test_text_of_the_script_becomes_shorter_and_comes_back(base_model: Path, safe: merge.Merged, chinese_lines: list[str]) -> None:
    base, merged = processor.Tokenizer.load(base_model), tokenizer(safe)
    before, after = base.encode_batch(chinese_lines), merged.encode_batch(chinese_lines)
    assert sum(map(len, after)) < 0.5 * sum(map(len, before))
    assert [merged.decode(ids) for ids in after] == chinese_lines


def test_unreachable_pieces_are_only_those_that_no_order_reaches(base_model: Path, safe: merge.Merged) -> None:
    new = [piece.piece for piece in new_pieces(safe)]
    assert set(safe.unreachable) == set(reach.hopeless(new, reach.priority(proto.parse(base_model.read_bytes()))))
    assert safe.hopeless == len(safe.unreachable)
    # These are whole in the text but no part of them is a piece.
    assert "越来越" in safe.unreachable


def test_the_same_inputs_give_the_same_bytes(base_model: Path, chinese_model: Path, safe: merge.Merged) -> None:
    assert merge.merge(base_model, [chinese_model], proof_strings=10, seed=5).serialized == safe.serialized


def test_the_summary_says_loudly_what_was_made(safe: merge.Merged) -> None:
    first, *rest = safe.summary().split("\n")
    assert first.startswith(
        f"{safe.size:,} pieces: {safe.base_size:,} of the base and {safe.added:,} new ones (script han); `--mode reference` would give"
    )
    assert any("text without han characters is encoded exactly as before" in line for line in rest)
    assert any("cannot under any order" in line for line in rest)
    assert sum(source.taken for source in safe.sources) == safe.added
    assert all(source.offered == source.present + source.left_out + source.taken for source in safe.sources)


def test_padding_cannot_be_typed(base_model: Path, chinese_model: Path) -> None:
    for mode, kind in (("safe", proto.CONTROL), ("reference", proto.NORMAL)):
        merged = merge.merge(base_model, [chinese_model], mode=mode, pad_token=True, proof_strings=100)  # type: ignore[arg-type]
        assert new_pieces(merged)[-1].piece == "[PAD]" and new_pieces(merged)[-1].type == kind
        assert merged.pad_id == merged.size - 1 == merged.base_size + merged.added
        found = tokenizer(merged)
        assert found.pad_id == merged.pad_id and found.is_control(merged.pad_id)
        for text in ("[PAD]", "天气[PAD]天气", "[PAD][PAD]"):
            assert merged.pad_id not in found.encode(text)
            assert found.decode(found.encode(text)) == text


def test_an_extended_tokenizer_is_extended_again(base_model: Path, chinese_model: Path, tmp_path: Path) -> None:
    once = merge.merge(base_model, [chinese_model], pad_token=True, proof_strings=100)
    (tmp_path / "once.model").write_bytes(once.serialized)
    (tmp_path / "words.txt").write_text("河流\n深度学习\n注意力机制\nGPU显存\nonly latin\n", encoding="utf-8")
    twice = merge.merge(tmp_path / "once.model", [tmp_path / "words.txt"], pad_token=True, proof_strings=2_000)
    assert list(proto.parse(twice.serialized).pieces)[: once.size] == list(proto.parse(once.serialized).pieces)
    assert twice.pad_id == once.pad_id
    assert twice.sources == (merge.Source("words.txt", 5, 1, 1, 3, is_list=True),)
    assert "words.txt: 5 pieces offered, 1 there already, 1 without a character of the script, 3 taken" in twice.summary()
    found = tokenizer(twice)
    assert twice.unreachable == ()
    for word in ("河流", "深度学习", "注意力机制", "GPU显存"):
        assert found.encode(f"\n{word}")[-1] == found.id(word)
    assert all(found.id(bridge) is not None for bridge in twice.bridges)
    assert twice.added == 3 + len(twice.bridges)
    scores = [piece.score for piece in proto.parse(twice.serialized).pieces if piece.type == proto.NORMAL]
    assert len(set(scores[-twice.added - once.added :])) == twice.added + once.added


def test_several_sources_in_order(base_model: Path, chinese_model: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("数据库\n老师们\n", encoding="utf-8")
    merged = merge.merge(base_model, [tmp_path / "words.txt", chinese_model], proof_strings=100)
    assert [source.name for source in merged.sources] == ["words.txt", "zh.model"]
    assert merged.sources[0].taken == 2
    names = [piece.piece for piece in new_pieces(merged)]
    assert len(set(names)) == len(names)
    assert not {"数据库", "老师们"} & set(merged.unreachable)
    faithful = merge.merge(base_model, [tmp_path / "words.txt", chinese_model], mode="reference")
    assert [piece.piece for piece in new_pieces(faithful)][:2] == ["数据库", "老师们"]
    assert all(piece.score == 0 for piece in new_pieces(faithful))


def test_reference_mode_says_what_it_decided_about_other_text(base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "han.txt").write_text("数据库\n老师们\n", encoding="utf-8")
    (tmp_path / "mixed.txt").write_text("数据库\n12\nfoxes\n", encoding="utf-8")
    only = merge.merge(base_model, [tmp_path / "han.txt"], mode="reference", pad_token=True)
    assert only.foreign == 0 and "English" not in only.summary()
    mixed = merge.merge(base_model, [tmp_path / "mixed.txt"], mode="reference")
    assert mixed.foreign == 2 and "; 2 of the new ones hold no character of the script, and English" in mixed.summary()
    base = processor.Tokenizer.load(base_model)
    for text in ("the foxes", "12 weather", "no [PAD] here"):
        assert tokenizer(only).encode(text) == base.encode(text)
    assert tokenizer(mixed).encode("the foxes 12") != base.encode("the foxes 12")


def test_pieces_of_the_default_training_can_be_reached_where_more_of_a_unigram_model_cannot(
    base_model: Path, safe: merge.Merged, chinese_lines: list[str], tmp_path: Path
) -> None:
    assert safe.hopeless
    assert "pieces of unigram models (zh.model) need not be made of two others: far more of those of `zhllama tokenizer" in safe.summary()
    (tmp_path / "bpe.model").write_bytes(train.from_texts(chinese_lines, vocab_size=430).serialized)
    better = merge.merge(base_model, [tmp_path / "bpe.model"], proof_strings=10)
    assert len(better.unreachable) / better.added < 0.5 * len(safe.unreachable) / safe.added
    assert "--model_type" not in better.summary()


def test_pieces_that_are_too_long_to_be_tried_are_not_called_impossible(base_model: Path, tmp_path: Path) -> None:
    lent = proto.parse(base_model.read_bytes())
    lent.pieces.extend(proto.Piece(piece="".join(chr(0x5000 + index) for index in range(length)), score=0) for length in (60, 3))
    (tmp_path / "long.model").write_bytes(lent.SerializeToString())
    merged = merge.merge(base_model, [tmp_path / "long.model"], proof_strings=10)
    assert (len(merged.unreachable), merged.hopeless) == (2, 1)
    assert "under any order" not in merged.summary()


def test_another_script(base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("привет\nмир\n天气\n", encoding="utf-8")
    merged = merge.merge(base_model, [tmp_path / "words.txt"], script="cyrillic", proof_strings=2_000)
    found = tokenizer(merged)
    assert found.encode("привет мир") == [found.id("▁привет"), found.id("▁мир")]
    base = processor.Tokenizer.load(base_model)
    assert found.encode("the weather 天气") == base.encode("the weather 天气")


def test_what_cannot_be_merged_is_refused(base_model: Path, chinese_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a LLaMA tokenizer .*its type is unigram, not bpe"):
        merge.merge(chinese_model, [base_model])
    with pytest.raises(ValueError, match=r"nothing to add: base\.model offers no pieces that hold a han letter"):
        merge.merge(base_model, [base_model])
    with pytest.raises(ValueError, match=r"nothing to add: base\.model offers no pieces beyond"):
        merge.merge(base_model, [base_model], mode="reference")
    (tmp_path / "latin.txt").write_text("only latin\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"latin\.txt offers no pieces that hold a han character beyond"):
        merge.merge(base_model, [tmp_path / "latin.txt"])
    with pytest.raises(ValueError, match=r"that hold a han letter \(in word lists, a character\) beyond"):
        merge.merge(base_model, [tmp_path / "latin.txt", base_model])
    for mode in ("safe", "reference"):
        with pytest.raises(ValueError, match="proof_strings must be at least 1, got 0"):
            merge.merge(base_model, [chinese_model], mode=mode, proof_strings=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name at least one"):
        merge.merge(base_model, [])
    with pytest.raises(ValueError, match="mode must be one of safe, reference"):
        merge.merge(base_model, [chinese_model], mode="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no script named 'elvish'"):
        merge.merge(base_model, [chinese_model], script="elvish")
    with pytest.raises(FileNotFoundError, match=r"missing\.model"):
        merge.merge(base_model, [tmp_path / "missing.model"])


def test_reference_mode_reproduces_the_released_tokenizers(real: tuple[Path, Path], real_reference: merge.Merged) -> None:
    assert (real_reference.size, real_reference.sha256) == (49_953, LLAMA_SHA256)
    alpaca = merge.merge(real[0], [real[1]], mode="reference", pad_token=True)
    assert (alpaca.size, alpaca.sha256, alpaca.pad_id) == (49_954, ALPACA_SHA256, 49_953)
    assert len(alpaca.serialized) == 757_972
    assert len(real_reference.unreachable) == len(alpaca.unreachable) == 345


def test_reference_mode_gives_the_golden_ids(shared_data: Path, real_reference: merge.Merged) -> None:
    found = tokenizer(real_reference)
    for row in json.loads((shared_data / "golden_tokenization.json").read_text(encoding="utf-8"))["rows"]:
        assert found.encode(row["text"]) == row["chinese_llama_49953"]


def test_safe_mode_on_the_real_models(real_safe: merge.Merged) -> None:
    assert (real_safe.size, real_safe.added) == (49_139, 17_139)
    assert real_safe.summary().startswith(
        "49,139 pieces: 32,000 of the base and 17,139 new ones (script han); `--mode reference` gives the 49,953 that released "
        "Chinese-LLaMA adapters need\n"
    )
    assert len(real_safe.unreachable) == real_safe.hopeless == 303


def test_a_hundred_thousand_strings_prove_the_real_safe_merge(real: tuple[Path, Path], real_safe: merge.Merged) -> None:
    """Strings other than those that the merge itself compared."""
    assert real_safe.proof is not None and real_safe.proof.strings == 100_000
    base, merged = processor.Tokenizer.load(real[0]), tokenizer(real_safe)
    texts = list(itertools.islice(invariance.generate(proto.parse(base.serialized), HAN, seed=1), 100_000))
    assert base.encode_batch(texts) == merged.encode_batch(texts)


def english(shared_data: Path) -> dict[str, list[str]]:
    """The lines of every English file of the shared data, by name."""
    found = {
        path.name: [line for _, text in lines.records(path) for line in text.split("\n")] for path in sorted(shared_data.glob("en_*.jsonl"))
    }
    found |= {path.name: path.read_text(encoding="utf-8").split("\n") for path in sorted(shared_data.glob("en_*.txt"))}
    rows = json.loads((shared_data / "sft" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    return found | {"alpaca_en_demo.json": [line for row in rows for text in row.values() for line in text.split("\n")]}


def test_english_lines_stay_as_they_are(
    shared_data: Path, real: tuple[Path, Path], real_safe: merge.Merged, real_reference: merge.Merged
) -> None:
    base, safe = processor.Tokenizer.load(real[0]), tokenizer(real_safe)
    found = english(shared_data)
    assert found.keys() == {"en_c4.jsonl", "en_corpus.jsonl", "en_wiki.txt", "alpaca_en_demo.json"}
    for name, text in found.items():
        assert safe.encode_batch(text) == base.encode_batch(text), name
    counted = [*found["en_wiki.txt"], *found["en_corpus.jsonl"]]
    faithful = tokenizer(real_reference).encode_batch(counted)
    changed = sum(old != new for old, new in zip(base.encode_batch(counted), faithful, strict=True))
    assert (len(counted), changed) == (4_063, 1_412)


@pytest.mark.parametrize(
    ("name", "safe", "reference", "limit"),
    [("zh_corpus.jsonl", 1_371_052, 1_328_938, 1.04), ("zh_poems.jsonl", 1_029_655, 1_029_594, 1.01)],
)
def test_safe_mode_compresses_nearly_as_well(
    name: str, safe: int, reference: int, limit: float, shared_data: Path, real_safe: merge.Merged, real_reference: merge.Merged
) -> None:
    """On all of the text, with the numbers of tokens that the README shows."""
    texts = [text for _, text in lines.records(shared_data / name)]
    ours, theirs = (sum(map(len, tokenizer(merged).encode_batch(texts))) for merged in (real_safe, real_reference))
    assert ours <= limit * theirs, ours / theirs
    assert (ours, theirs) == (safe, reference)
