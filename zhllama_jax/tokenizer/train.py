"""SentencePiece models from text files: the same text, settings and seed give the same bytes on every machine.

What would break that is kept away: one thread (floating-point sums of several depend on their number), our own seeded
sample of sentences instead of the trainer's, and no paths in the model. Text is taken as it is (no
Unicode normalisation), blanks count, digits stay single, and ids 0, 1, 2 are unknown, beginning and end: LLaMA's
conventions, so that a BPE model with byte fallback can be a LLaMA's tokenizer and any model lends its pieces to a merge.
"""

import hashlib
import io
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import sentencepiece

from zhllama_jax import files, lines
from zhllama_jax.tokenizer import processor, proto

ModelType = Literal["bpe", "unigram"]

MAX_SENTENCES = 5_000_000
"""Sentences that a training sees; of more, a random sample."""
MAX_SENTENCE = 1_000
"""Characters of the longest sentence; longer lines are cut."""

_ENDS = re.compile(r"[。！？；…!?;]+[”’」』）)\"']*|\.[\"')]*(?= )|[，、,](?=.)| ")


class Trained(NamedTuple):
    """A trained model: its bytes, their digest, its size, and the sentences and characters that it has seen."""

    serialized: bytes
    sha256: str
    vocab_size: int
    sentences: int
    characters: int


def train(
    inputs: Sequence[str | Path],
    *,
    output: str | Path | None,
    vocab_size: int,
    model_type: ModelType = "bpe",
    character_coverage: float = 0.9995,
    byte_fallback: bool = True,
    field: str = "text",
    max_sentences: int = MAX_SENTENCES,
    seed: int = 0,
    overwrite: bool = False,
) -> Trained:
    """Trains on `.txt` files (one text a line) and `.jsonl` files (`field` of one object a line).

    Args:
      inputs: the files.
      output: where the model goes; None only returns it.
      vocab_size: pieces in all, the special ones and with byte fallback the 256 byte pieces among them.
      model_type: "bpe", all of whose pieces a merge can reach as a rule, or "unigram".
      character_coverage: share of the text's characters that must be pieces; the rarest beyond it become bytes, or unknown.
      byte_fallback: whether every other character is spelled by its UTF-8 bytes.
      field: of JSONL objects.
      max_sentences: a larger corpus is sampled down to this many.
      seed: of that sample; a smaller corpus gives the same model under every seed.
      overwrite: replace an existing output.

    Raises:
      FileNotFoundError: an input is missing.
      ValueError: an output that may not be written, a malformed line (with file and line), no text, or a vocabulary size that the text
        does not allow.
    """
    if not inputs:
        raise ValueError("no text to train on: name at least one .txt or .jsonl file")
    for path in inputs:
        files.expect(path, "a .txt or .jsonl file to train on")
    if output is not None:
        files.free_file(output, overwrite=overwrite, inputs=inputs)
    texts = (text for path in inputs for _, text in lines.records(path, field))
    trained = from_texts(
        texts,
        vocab_size=vocab_size,
        model_type=model_type,
        character_coverage=character_coverage,
        byte_fallback=byte_fallback,
        max_sentences=max_sentences,
        seed=seed,
    )
    if output is not None:
        files.atomic_write(output, trained.serialized)
    return trained


def from_texts(
    texts: Iterable[str],
    *,
    vocab_size: int,
    model_type: ModelType = "bpe",
    character_coverage: float = 0.9995,
    byte_fallback: bool = True,
    max_sentences: int = MAX_SENTENCES,
    seed: int = 0,
) -> Trained:
    """`train` on texts in memory."""
    _check_settings(vocab_size, model_type, character_coverage, byte_fallback, max_sentences)
    sample = _sample((sentence for text in texts for sentence in sentences(text)), max_sentences, seed)
    if not sample:
        raise ValueError("no text to train on: the input holds blank lines only")
    model = io.BytesIO()
    try:
        _in_thread(
            sentencepiece.SentencePieceTrainer.train,
            sentence_iterator=iter(sample),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            max_sentence_length=8 * MAX_SENTENCE,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), vocab_size, sum(map(len, sample)))) from None
    serialized = _canonical(model.getvalue())
    digest = hashlib.sha256(serialized).hexdigest()
    return Trained(serialized, digest, vocab_size, len(sample), sum(map(len, sample)))


def _in_thread(work: Callable[..., None], **arguments: Any) -> None:
    """Does the work of a library that hears of no signal before it is done: here Ctrl-C ends the waiting at once."""
    failed: list[BaseException] = []

    def call() -> None:
        try:
            work(**arguments)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def sentences(text: str) -> Iterator[str]:
    """The lines of a text, those of more than `MAX_SENTENCE` characters cut behind the last sign that ends a sentence or word."""
    for line in processor.scalar(text).replace("\0", " ").split("\n"):
        rest = line.strip("\r")
        while len(rest) > MAX_SENTENCE:
            ends = [match.end() for match in _ENDS.finditer(rest, 0, MAX_SENTENCE)]
            cut = max((end for end in ends if end > MAX_SENTENCE // 2), default=MAX_SENTENCE)
            yield rest[:cut]
            rest = rest[cut:]
        if rest.strip():
            yield rest


def _sample(items: Iterable[str], limit: int, seed: int) -> list[str]:
    """At most `limit` of `items`, each with the same chance (Vitter's algorithm R)."""
    rng = random.Random(seed)
    kept: list[str] = []
    for number, item in enumerate(items):
        if number < limit:
            kept.append(item)
        elif (place := rng.randrange(number + 1)) < limit:
            kept[place] = item
    return kept


def _canonical(serialized: bytes) -> bytes:
    """The model without what describes the machine or the place of its training."""
    model = proto.parse(serialized, where="the trained model")
    for field in ("input", "model_prefix", "num_threads"):
        model.trainer_spec.ClearField(field)
    return bytes(model.SerializeToString(deterministic=True))


def _check_settings(vocab_size: int, model_type: str, character_coverage: float, byte_fallback: bool, max_sentences: int) -> None:
    faults = []
    if model_type not in get_args(ModelType):
        faults.append(f"model_type must be one of {', '.join(get_args(ModelType))}, got {model_type!r}")
    smallest = 3 + 256 * byte_fallback + 1
    if not smallest <= vocab_size <= proto.MAX_PIECES:
        faults.append(
            f"vocab_size must be {smallest} to {proto.MAX_PIECES:,} (special{' and byte' * byte_fallback} pieces count), got {vocab_size}"
        )
    if not 0.9 <= character_coverage <= 1.0:
        faults.append(f"character_coverage must be 0.9 to 1.0, got {character_coverage}")
    if max_sentences < 1:
        faults.append(f"max_sentences must be positive, got {max_sentences}")
    if faults:
        raise ValueError("; ".join(faults))


def _explain(message: str, vocab_size: int, characters: int) -> str:
    """sentencepiece's complaint in our words."""
    if most := re.search(r"value <= (\d+)", message):
        return (
            f"vocab_size {vocab_size:,} is too large for this text of {characters:,} characters: at most {int(most[1]):,} pieces can be "
            "made of it; choose a smaller vocabulary or more text"
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size {vocab_size:,} is too small: the characters to be covered and the special pieces are {int(least[1]):,} already; "
            "choose a larger vocabulary or a lower character_coverage"
        )
    return f"sentencepiece cannot train on this text: {message}"
