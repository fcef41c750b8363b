"""A model on the disk, whatever its format, opened: its shape, what surrounds it, and its tensors one at a time.

Formats are told by what is there:

    hf      config.json with safetensors, or with pytorch_model.bin
    meta    params.json with consolidated.00.pth …
    gguf    one .gguf file, or a folder that holds one

Tensors come under Hugging Face's names and in its shapes. What the manifest beside them records is held against them as they are read.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from zhllama_jax import files
from zhllama_jax.convert import (
    config_hf,
    gguf_io,
    llama_hf,
    llama_meta,
    manifest,
    meta_params,
    names,
    readers,
    safetensors_io,
    tokenizer_hf,
)
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

Format = Literal["hf", "meta", "gguf"]
NAMES: Mapping[Format, str] = {"hf": "Hugging Face", "meta": "Meta", "gguf": "GGUF"}

_EXPECTED = "a model: config.json with its weights (Hugging Face), params.json with consolidated.00.pth (Meta), or a .gguf file"


class Shape(NamedTuple):
    """What a model is, without its weights.

    Attributes:
      format: how it is stored.
      config: its shape.
      notes: what is odd and harmless, as sentences.
      kept: neutral keys of its `config.json` that the next one takes over.
    """

    format: Format
    config: config_lib.LlamaConfig
    notes: list[str]
    kept: Mapping[str, Any]


class Source:
    """A model on the disk, opened; a context that closes its files.

    Attributes:
      path: where it is, as it was named.
      format: how it is stored.
      config: its shape.
      notes: what is odd and harmless, as sentences.
      kept: neutral keys of its `config.json` that the next one takes over.
      contents: its manifest; None without one.
      prompt: how instructions were put to it in training; None for a base model.
      generation: its decoding values, {} without any.
      reader: its tensors.
    """

    def __init__(self, path: str | Path, *, digest: bool = False, as_found: bool = False, allow_unknown: bool = False, once: bool = False):
        """Opens a model and holds its tensors' names and shapes against its configuration.

        Args:
          path: a folder or a .gguf file.
          digest: see `manifest.hold`.
          as_found: read whatever is there, also what is not as the manifest says, and what are no numbers: to compare it.
          allow_unknown: pass over keys of the configuration that nobody knows, see `config_hf.read`.
          once: for who reads it from its beginning to its end, and not again soon; see `readers.Reader.read`.

        Raises:
          FileNotFoundError: something is not there.
          ValueError: another kind of model, a setting that is not supported, tensors that do not fit, or see `manifest.hold`.
        """
        self.path = Path(path)
        self.format = recognise(path)
        self._once = once
        folder = self.path.parent if self.path.is_file() else self.path
        self.contents = None if self.format == "gguf" else manifest.read(folder, "model")
        self.prompt = manifest.prompt(self.contents)
        self.generation = llama_hf.load_generation(folder)
        self.kept = config_hf.NOTHING
        with contextlib.ExitStack() as stack:
            raw = self._open(allow_unknown, stack)
            if as_found:
                self.reader = readers.Watched(raw)
            elif self.format == "gguf":  # its manifest records what is stored, and what is read is something else
                self.reader = manifest.watch(raw, digest=digest)
            else:
                self.reader = manifest.hold(
                    folder, "model", raw, beside=(llama_hf.CONFIG, meta_params.FILE, tokenizer_hf.MODEL), digest=digest
                )
            shapes = self.reader.shapes
            if self.config.tie_word_embeddings and _ties(self.reader):
                del shapes[names.matrix("lm_head")]
            names.check(self.config, shapes, where=str(path))
            stack.pop_all()

    def _open(self, allow_unknown: bool, stack: contextlib.ExitStack) -> readers.Reader:
        """The reader of the format, which `stack` closes; sets what the format says of the model."""
        if self.format == "hf":
            self.config, self.notes, self.kept = llama_hf.read_config(self.path, allow_unknown=allow_unknown)
            self.config = _split(self.config, self.path, self.notes)
            reader = llama_hf.open_weights(self.path)
            stack.callback(reader.close)
            return reader
        if self.format == "meta":
            meta = stack.enter_context(llama_meta.Reader(self.path, allow_unknown=allow_unknown))
            self.config, self.notes = meta.config, []
            if self.contents is not None and isinstance(rows := self.contents.get("base_vocab_size"), int):
                self.config = self.config.replace(base_vocab_size=rows)
            else:
                self.config = _split(self.config, self.path, self.notes)
            if (found := tokenizer_path(self.path)) is not None and (pad_id := processor.Tokenizer.load(found).pad_id) is not None:
                self.config = self.config.replace(pad_token_id=pad_id)  # the format does not say it
            return meta
        gguf = stack.enter_context(gguf_io.Reader(gguf_file(self.path), allow_unknown=allow_unknown))
        self.config, self.notes, self.prompt = gguf.config, [], gguf.prompt()
        return gguf

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done to the model so far, from its manifest."""
        return self.contents["history"] if self.contents else []

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of its weights as they are read, as in `llama_hf.DTYPES`, without those of tables that are ignored."""
        counted = {entry.dtype for name, entry in self.reader.entries.items() if not names.IGNORED.fullmatch(name)}
        if self.format == "gguf" and counted - set(llama_hf.DTYPES.values()):
            return ["float32"]  # quantised ones, and the few that are not
        return sorted(name for name, stored in llama_hf.DTYPES.items() if stored in counted)

    def read(self, name: str) -> np.ndarray:
        """One tensor's numbers by Hugging Face's name."""
        return self.reader.read(name, once=self._once)

    def read_the_rest(self) -> None:
        """Reads the tensors of the model that nobody asked for yet, so that all were looked at."""
        unseen = set(self.reader.unseen)
        for tensor in names.tensors(self.config):
            if tensor.name in unseen:
                self.read(tensor.name)

    def fingerprint(self) -> str:
        """The digest of the tensors as they are; those that were described while they were read are not read again."""
        return manifest.fingerprint_by_reading(self.reader)

    def close(self) -> None:
        """Closes the files."""
        self.reader.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def recognise(path: str | Path) -> Format:
    """The format of what is at a path.

    Raises:
      FileNotFoundError: there is nothing, or no model.
      ValueError: it is an adapter.
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    files.expect_folder(path, _EXPECTED)
    if (path / llama_hf.CONFIG).is_file():
        return "hf"
    if (path / "adapter_config.json").is_file():
        raise ValueError(f"{path} is an adapter, not a model: give its base model, and this directory as an adapter")
    if llama_meta.is_model(path):
        return "meta"
    if any(path.glob("*.gguf")):
        return "gguf"
    raise FileNotFoundError(f"{path} holds no model: expected {_EXPECTED}")


def shape(path: str | Path, *, allow_unknown: bool = False) -> Shape:
    """What a model is; its weights are not read, and only those of Meta's format and of GGUF must be there.

    Raises:
      FileNotFoundError, ValueError: see `Source`.
    """
    form = recognise(path)
    if form != "hf":
        with Source(path, as_found=True, allow_unknown=allow_unknown) as opened:
            return Shape(form, opened.config, opened.notes + opened.reader.notes, opened.kept)
    config, notes, kept = llama_hf.read_config(path, allow_unknown=allow_unknown)
    return Shape(form, _split(config, Path(path), notes), notes, kept)


def load_config(path: str | Path) -> config_lib.LlamaConfig:
    """The shape of a model, without its weights; see `shape`."""
    return shape(path).config


def fingerprint(path: str | Path) -> str:
    """The fingerprint of a model: from its manifest if the weights still have their sizes, otherwise by reading them all."""
    recorded = None if recognise(path) == "gguf" else manifest.unchanged_fingerprint(path)
    if recorded is not None:
        return recorded
    with Source(path, as_found=True) as opened:
        return opened.fingerprint()


def load_prompt(path: str | Path) -> manifest.Prompt | None:
    """How instructions were put to a model in training; None for a base model."""
    if recognise(path) == "gguf":
        with gguf_io.Reader(gguf_file(path)) as reader:
            return reader.prompt()
    return manifest.prompt(manifest.read(path, "model"))


def load_tokenizer(path: str | Path) -> processor.Tokenizer | None:
    """The tokenizer of a model; None without one.

    Raises:
      ValueError: it is of another kind.
    """
    if recognise(path) == "gguf":
        with gguf_io.Reader(gguf_file(path)) as reader:
            inside = reader.tokenizer()
        beside = gguf_file(path).parent / tokenizer_hf.MODEL
        original = processor.Tokenizer.load(beside) if beside.is_file() else inside
        return original if original.same_pieces(inside) else inside  # bytes that a GGUF file does not hold
    found = tokenizer_path(path)
    return None if found is None else processor.Tokenizer.load(found)


def tokenizer_path(path: str | Path) -> Path | None:
    """The `tokenizer.model` of a model's folder, for Meta's format also in the folder above; None without one.

    Raises:
      ValueError: the folder holds a tokenizer of another kind.
    """
    path = Path(path)
    if llama_meta.is_model(path):
        return llama_meta.tokenizer_path(path)
    return path / tokenizer_hf.MODEL if path.is_dir() and tokenizer_hf.require_sentencepiece(path) else None


def gguf_file(path: str | Path) -> Path:
    """The one .gguf file at a path.

    Raises:
      ValueError: a folder holds several.
    """
    path = Path(path)
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise ValueError(f"{path} holds several GGUF files: name one of {names.listed([each.name for each in found])}")
    return found[0]


def _split(config: config_lib.LlamaConfig, folder: Path, notes: list[str]) -> config_lib.LlamaConfig:
    """Which rows are the original LLaMA's, where nobody said and the tokenizer shows it: those of its 32,000 pieces."""
    path = tokenizer_path(folder)
    if config.extension_rows or config.vocab_size <= config_lib.LLAMA_VOCAB_SIZE or path is None:
        return config
    tokenizer = processor.Tokenizer.load(path)
    if tokenizer.vocab_size <= config_lib.LLAMA_VOCAB_SIZE or not tokenizer_hf.begins_with_llama(tokenizer):
        return config
    notes.append(
        f"{folder}: the tokenizer begins with LLaMA's {config_lib.LLAMA_VOCAB_SIZE:,} pieces, so the other "
        f"{config.vocab_size - config_lib.LLAMA_VOCAB_SIZE:,} rows are taken for an extension"
    )
    return config.replace(base_vocab_size=config_lib.LLAMA_VOCAB_SIZE)


def _ties(reader: readers.Watched) -> bool:
    """Whether a tied model holds a head all the same, equal to the embedding."""
    head, embedding = names.matrix("lm_head"), names.matrix("embed_tokens")
    if head not in reader.entries or embedding not in reader.entries:
        return False
    return safetensors_io.describe(reader.read(head)) == safetensors_io.describe(reader.read(embedding))
