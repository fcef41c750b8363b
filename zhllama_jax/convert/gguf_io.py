"""A LLaMA as one GGUF file, out for llama.cpp and Ollama and in again, under Hugging Face's names and in its shapes.

llama.cpp pairs neighbouring dimensions of a head in RoPE, as Meta's release does, so the rows of q and k are permuted on the way out
and back on the way in. A tied model has no `output.weight`. Numbers are quantised and read tensor by tensor (see `gguf_quant`).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import templates
from zhllama_jax.convert import gguf_file, gguf_meta, gguf_quant, gguf_vocab, llama_hf, manifest, mapped, names, rotary, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor

# Hugging Face's name                       llama.cpp's
NAMES = (
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight"),
    ("model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight"),
    ("model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight"),
    ("model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight"),
    ("model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight"),
    ("model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight"),
    ("model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight"),
    ("model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight"),
    ("model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
)
_LAYER = re.compile(r"(?<=\.)(0|[1-9]\d{0,4})(?=\.)")


class Written(NamedTuple):
    """What a write left.

    Attributes:
      files: name -> {"sha256", "bytes"}.
      tensors: Hugging Face's name -> {"dtype", "shape", "sha256"} of what is stored (q and k permuted).
      notes: what is stored otherwise than asked for, as sentences.
    """

    files: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Any]]
    notes: list[str]


def write(
    path: str | Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    config: config_lib.LlamaConfig,
    tokenizer: processor.Tokenizer,
    dtype: str,
    prompt: manifest.Prompt | None = None,
    name: str | None = None,
) -> Written:
    """Writes a model, of whose tensors none is kept; the file appears under its name when it is whole.

    Args:
      path: the file; one that is there is replaced.
      tensors: (Hugging Face's name, float32, float16 or bfloat16 array) in the order of `names.tensors`.
      config: the model's shape.
      tokenizer: must not have more pieces than the model has rows.
      dtype: "F32", "F16", "BF16", "Q8_0" or "Q4_0" for the matrices; see `gguf_quant` for what is stored otherwise.
      prompt: how instructions were put to the model in training, if they were; gives the chat template.
      name: what llama.cpp calls the model; the file's name without its suffix if None.

    Raises:
      ValueError: the tokenizer does not fit, the RoPE scaling does not exist in llama.cpp, or a number does not fit the type.
    """
    path = Path(path)
    gguf_quant.check_writable(dtype)
    llama_hf.check_tokenizer(config, tokenizer)
    template = tokenizer_hf.chat_template(prompt) if prompt is not None and templates.puts_text(prompt.template) else None
    metadata = gguf_meta.keys(config, dtype=dtype, name=path.stem if name is None else name, prompt=prompt)
    metadata |= gguf_vocab.keys(tokenizer, rows=config.vocab_size, chat_template=template)
    divisors = gguf_meta.rope_divisors(config)
    plan = {} if divisors is None else {gguf_meta.ROPE_FREQS: ("F32", divisors.shape)}
    crooked = []
    for tensor in names.tensors(config):
        stored = gguf_quant.storage(tensor.shape, dtype, head=tensor.name == names.matrix(config.head_matrix))
        plan[to_gguf(tensor.name)] = stored, tensor.shape
        if stored == "F16" != dtype:
            crooked.append(tensor.name)
    described: dict[str, dict[str, Any]] = {}

    def encoded() -> Iterator[tuple[str, np.ndarray]]:
        if divisors is not None:
            yield gguf_meta.ROPE_FREQS, gguf_quant.encode(divisors, "F32")
        for wanted, array in tensors:
            stored, shape = plan[to_gguf(wanted)]
            assert array.shape == shape, f"{wanted} came as {array.shape}, planned was {shape}"
            octets = gguf_quant.encode(rotary.neighbours(wanted, array, config), stored, name=wanted)
            hashed = beside.submit(hashlib.sha256, octets.data)
            yield to_gguf(wanted), octets
            described[wanted] = {"dtype": stored, "shape": list(shape), "sha256": hashed.result().hexdigest()}

    with futures.ThreadPoolExecutor(1) as beside:
        said = gguf_file.write(path, metadata, plan, encoded())
    fallen = f"{len(crooked):,} matrices are stored as F16, since their rows are no multiple of {gguf_quant.BLOCK}: {names.listed(crooked)}"
    return Written({path.name: said}, described, [fallen] if crooked else [])


class Reader:
    """The weights of a GGUF file under Hugging Face's names and in its shapes, read one at a time.

    Attributes:
      config: the model that the file describes.
      entries: type as stored (`gguf_quant.TYPES`) and shape of each tensor, by Hugging Face's name.
      metadata: what the file says, by key.
      notes: what is odd in the file and harmless, as sentences.
    """

    def __init__(self, path: str | Path, *, allow_unknown: bool = False):
        """Opens a file and checks all of it but the numbers.

        Args:
          path: the file.
          allow_unknown: pass over keys about the model that are not known here, which may change the numbers.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: no GGUF file, another kind of model, a setting or a type that is not supported, or tensors that do not fit.
        """
        self.path = Path(path)
        self.metadata, tensors = gguf_file.read(path)
        if "split.count" in self.metadata and self.metadata["split.count"] != 1:
            raise ValueError(f"{path} is one part of several: join them first with `llama-gguf-split --merge`")
        with open(path, "rb") as stream:
            self._file: mapped.File | None = mapped.File(self.path, stream.fileno())
        divisors = tensors.pop(gguf_meta.ROPE_FREQS, None)
        strange = [name for name in tensors if to_hf(name) == name]
        if strange:
            raise ValueError(f"{path} holds tensors that are not part of a LLaMA: {names.listed(strange)}")
        self.entries: dict[str, gguf_file.Entry] = {to_hf(name): entry for name, entry in tensors.items()}
        embedding = self.entries.get(names.matrix("embed_tokens"))
        if embedding is None or len(embedding.shape) != 2:
            raise ValueError(f"{path} has no token_embd.weight with rows: it holds no whole model")
        try:
            self.config = gguf_meta.read_config(
                self.metadata,
                rows=embedding.shape[0],
                tied=names.matrix("lm_head") not in self.entries,
                divisors=None if divisors is None else self._divisors(divisors),
                allow_unknown=allow_unknown,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if self.config.num_hidden_layers > len(self.entries):
            raise ValueError(f"{path} claims {self.config.num_hidden_layers:,} layers and has {len(self.entries):,} tensors")
        self.notes = self._check()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def file(self, name: str) -> Path:
        """The file, which holds all tensors."""
        assert name in self.entries, name
        return self.path

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers, float32 where they are quantised, else in the stored dtype; see `readers.Reader`."""
        return rotary.halves(name, self._numbers(self.entries[name], once=once), self.config)

    def tokenizer(self) -> processor.Tokenizer:
        """The model's tokenizer; see `gguf_vocab.read_tokenizer`.

        Raises:
          ValueError: the file has none, or one of another kind.
        """
        try:
            return gguf_vocab.read_tokenizer(self.metadata)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def prompt(self) -> manifest.Prompt | None:
        """How instructions were put to the model in training, where the file was written here and says it.

        Raises:
          ValueError: it says something that is no such way.
        """
        try:
            return gguf_meta.read_prompt(self.metadata)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def close(self) -> None:
        """Lets go of the file; arrays that were read of it stay."""
        self._file = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _numbers(self, entry: gguf_file.Entry, *, once: bool = False) -> np.ndarray:
        assert self._file is not None, "the reader was closed"
        octets = self._file.once(entry.begin, entry.end) if once else None
        octets = self._file.window(entry.begin, entry.end) if octets is None else octets
        return gguf_quant.decode(octets, entry.dtype, entry.shape)

    def _divisors(self, entry: gguf_file.Entry) -> np.ndarray:
        if entry.dtype != "F32" or len(entry.shape) != 1:
            raise ValueError(f"{gguf_meta.ROPE_FREQS} must be one row of F32")
        return self._numbers(entry)

    def _check(self) -> list[str]:
        """Holds the tensors against the configuration and the types that are read; notes about those that are not plain."""
        names.check(self.config, self.shapes, where=str(self.path))
        types = [entry.dtype for entry in self.entries.values()]
        strange = sorted({kind for kind in types if kind not in gguf_quant.PLAIN and kind not in gguf_quant.READABLE})
        if strange:
            raise ValueError(
                f"{self.path} stores tensors as {', '.join(strange)}; read are {', '.join([*gguf_quant.PLAIN, *gguf_quant.READABLE])}: "
                "take the file that it was made from, or `llama-quantize --allow-requantize` it to F32"
            )
        return [f"{types.count(kind):,} tensors are stored as {kind} and read as float32" for kind in gguf_quant.READABLE if kind in types]


def to_gguf(name: str) -> str:
    """llama.cpp's name of a tensor with a name of Hugging Face's; itself if there is none."""
    return _renamed(name, {hf: gguf for hf, gguf in NAMES})


def to_hf(name: str) -> str:
    """Hugging Face's name of a tensor with a name of llama.cpp's; itself if there is none."""
    return _renamed(name, {gguf: hf for hf, gguf in NAMES})


def _renamed(name: str, table: dict[str, str]) -> str:
    layer = _LAYER.search(name)
    template = _LAYER.sub("{layer}", name, count=1)
    if template not in table or (layer is None) != ("{layer}" not in template):
        return name
    return table[template].format(layer=layer and layer[1])
