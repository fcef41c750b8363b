"""The steps that make the vocabulary: train pieces, merge them into the base's tokenizer, grow the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhllama_jax import files
from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import places, texts
from zhllama_jax.convert import extend
from zhllama_jax.tokenizer import merge, processor, train

MODEL = "tokenizer.model"
REPORT_CHARACTERS = 200_000


def learn(config: config_lib.Adapt, new: config_lib.NewVocabulary, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a SentencePiece model on the parts of the named texts that are not held out."""
    del before
    trained = train.from_texts(
        (document for name in new.texts for document in texts.learned(config.texts, name)),
        vocab_size=new.vocab_size,
        model_type=new.model_type,
        character_coverage=new.character_coverage,
        byte_fallback=new.byte_fallback,
        seed=config.seed,
    )
    files.atomic_write(folder / MODEL, trained.serialized)
    return {"pieces": trained.vocab_size, "sha256": trained.sha256}


def merge_in(config: config_lib.Adapt, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the added pieces into the base's tokenizer, and reports on every named text."""
    del before
    base = places.old_tokenizer(config)
    added = config.vocabulary.added
    merged = merge.merge(
        base,
        [places.of(config, places.ADDED) / MODEL] if isinstance(added, config_lib.NewVocabulary) else list(added),
        mode=config.vocabulary.mode,
        script=config.vocabulary.script,
        pad_token=config.vocabulary.pad_token,
        seed=config.seed,
    )
    files.atomic_write(folder / MODEL, merged.serialized)
    counts = []
    old, new = processor.Tokenizer.load(base), processor.Tokenizer.from_bytes(merged.serialized)
    for name, text in config.texts.items():
        if not texts.holds_out(text):
            continue
        sample = texts.held_out(text, max_characters=REPORT_CHARACTERS)
        counts.append(
            {
                "name": name,
                "characters": sum(map(len, sample)),
                "tokens_before": sum(map(len, old.encode_batch(sample))),
                "tokens_after": sum(map(len, new.encode_batch(sample))),
            }
        )
    return {"summary": merged.summary(), "pieces": merged.size, "texts": counts}


def grow(config: config_lib.Adapt, folder: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Grows the base to the merged vocabulary."""
    del before
    tokenizer = processor.Tokenizer.load(places.of(config, places.TOKENIZER) / MODEL)
    extended = extend.run(places.base_model(config), tokenizer, folder, init=config.vocabulary.init, seed=config.seed, overwrite=True)
    return {"from": extended.before, "to": extended.config.vocab_size}
