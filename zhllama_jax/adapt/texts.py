"""The named texts of a pipeline, split into what is learned from and what is held out, always in the same way."""

from collections.abc import Iterable, Iterator, Mapping

from zhllama_jax.data import chat, documents, holdout, instructions
from zhllama_jax.data import config as data_config


def learned(texts: Mapping[str, data_config.TextData], name: str) -> Iterator[str]:
    """The documents of a named text that may be learned from: none that it or another of the texts holds out."""
    for document in holdout.learned(texts[name], others=others(texts, name)):
        if document.text.strip():
            yield document.text


def others(texts: Mapping[str, data_config.TextData], name: str) -> list[data_config.TextData]:
    """The other texts: a document that one of them holds out is learned from none."""
    return [text for other, text in texts.items() if other != name]


def holding(texts: Mapping[str, data_config.TextData], names: Iterable[str]) -> list[data_config.TextData]:
    """The texts that may hold out what one of the named ones would teach."""
    found = (other for name in names for other in data_config.holding_more(texts[name], others(texts, name)))
    return list(dict.fromkeys(found))


def held_out(text: data_config.TextData, *, max_characters: int | None = None) -> list[str]:
    """The documents that are held out, from the start up to about `max_characters` (the document that passes it is cut).

    Raises:
      ValueError: the text holds nothing out, or so small a share that no document falls into it.
    """
    kept: list[str] = []
    room, read = max_characters, documents.Tally()
    for document in holdout.held_out(text, tally=read):
        if not document.text.strip():
            continue
        kept.append(document.text if room is None else document.text[:room])
        room = None if room is None else room - len(document.text)
        if room is not None and room <= 0:
            break
    if kept:
        return kept
    if text.validation_files:
        raise ValueError(f"{', '.join(text.validation_files)}: no text to measure on in there")
    names = ", ".join(text.files)
    if text.held_out:
        raise ValueError(
            f"{names}: held_out {text.held_out} holds out none of {read.documents:,} documents: raise it, or name validation_files"
        )
    raise ValueError(f"{names}: nothing is held out; set held_out or validation_files")


def holds_out(text: data_config.TextData) -> bool:
    """Whether any part of the text is held out."""
    return bool(text.validation_files) or text.held_out > 0


def held_out_rows(rows: data_config.SftData) -> list[chat.SftExample]:
    """The held-out instruction rows, in order."""
    return [found.example for found in instructions.held_out(rows)]
