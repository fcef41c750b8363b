"""Pieces are learned from what is not held out, put behind the base's, and counted on what is held out."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import places, texts, vocabulary
from zhllama_jax.convert import host
from zhllama_jax.data import config as data_config
from zhllama_jax.tokenizer import processor


def test_held_out_words_do_not_become_pieces(recipe: config_lib.Adapt, tmp_path: Path) -> None:
    """A word that fills the held-out document, which stands among the others too."""
    secret = "zyzzyva " * 500
    others = list(texts.learned(recipe.texts, "english"))
    (tmp_path / "text.txt").write_text("\n\n".join([*others, secret]))
    (tmp_path / "held.txt").write_text(secret)
    new = config_lib.NewVocabulary(texts=("one",), vocab_size=400, model_type="bpe")

    def pieces(name: str, **split: Any) -> set[str]:
        text = data_config.TextData(files=(str(tmp_path / "text.txt"),), **split)
        folder = tmp_path / name
        folder.mkdir()
        figures = vocabulary.learn(dataclasses.replace(recipe, texts=recipe.texts | {"one": text}), new, folder, {})
        learned = processor.Tokenizer.load(folder / vocabulary.MODEL)
        assert (figures["pieces"], figures["sha256"]) == (learned.vocab_size, learned.sha256)
        return {learned.piece(id_) for id_ in range(learned.vocab_size)}

    assert any("zy" in piece for piece in pieces("all"))
    assert not any("zy" in piece for piece in pieces("split", validation_files=(str(tmp_path / "held.txt"),)))


def test_the_merged_vocabulary_continues_the_base_s(done: Any) -> None:
    old = processor.Tokenizer.load(places.base_model(done.config))
    new = processor.Tokenizer.load(places.of(done.config, places.TOKENIZER))
    figures = done.before
    assert figures["tokenizer"]["pieces"] == new.vocab_size == figures["resized"]["to"] > old.vocab_size == figures["resized"]["from"]
    assert [new.piece(id_) for id_ in range(old.vocab_size)] == [old.piece(id_) for id_ in range(old.vocab_size)]


def test_the_table_counts_the_held_out_texts(done: Any) -> None:
    old = processor.Tokenizer.load(places.base_model(done.config))
    new = processor.Tokenizer.load(places.of(done.config, places.TOKENIZER))
    rows = {row["name"]: row for row in done.before["tokenizer"]["texts"]}
    assert list(rows) == [name for name, text in done.config.texts.items() if texts.holds_out(text)]
    for name in rows:
        documents = texts.held_out(done.config.texts[name])
        assert rows[name]["characters"] == sum(map(len, documents))
        assert rows[name]["tokens_before"] == sum(len(old.encode(document)) for document in documents)
        assert rows[name]["tokens_after"] == sum(len(new.encode(document)) for document in documents)
    assert rows["english"]["tokens_after"] == rows["english"]["tokens_before"]
    assert rows["chinese"]["tokens_after"] < 0.6 * rows["chinese"]["tokens_before"]


def test_the_grown_model_keeps_the_base(done: Any) -> None:
    old, new = host.load(places.base_model(done.config)), host.load(places.of(done.config, places.RESIZED))
    grown = tree.flatten(new.params)
    for path, leaf in tree.flatten(old.params).items():
        assert np.array_equal(np.asarray(grown[path]), np.asarray(leaf)), path
    assert new.config.base_vocab_size == old.config.vocab_size


def test_added_files_are_merged_as_they_are(done: Any, tmp_path: Path) -> None:
    """A word list instead of a vocabulary trained here."""
    words = tmp_path / "words.txt"
    words.write_text("兔子\n老虎\n")
    config = dataclasses.replace(done.config, vocabulary=config_lib.Vocabulary(added=(str(words),)))
    figures = vocabulary.merge_in(config, tmp_path, {})
    merged = processor.Tokenizer.load(tmp_path / vocabulary.MODEL)
    assert {"兔子", "老虎"} <= {merged.piece(id_) for id_ in range(merged.vocab_size)}
    assert figures["pieces"] == merged.vocab_size


def test_a_stranger_is_not_grown_into(done: Any, english_pieces: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(done.config, output=str(tmp_path), base=config_lib.Base(model=str(places.base_model(done.config))))
    folder = places.of(config, places.TOKENIZER)
    folder.mkdir(parents=True)
    (folder / vocabulary.MODEL).write_bytes(english_pieces.read_bytes())
    with pytest.raises(ValueError):
        vocabulary.grow(config, tmp_path / "grown", {})
