"""A model as it will be: a shape, and a function that makes each of its tensors when it is asked for.

What becomes of a model on its way from one directory to another is a chain of views, each made of the former: `stored`, `grown`, `folded`,
`padded`, `cast`, `untied`. Nothing is read before a tensor is asked for, and nothing is kept, so a chain takes the memory of a few tensors.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax import arrays, tree
from zhllama_jax.convert import ahead, llama_hf, names, peft, safetensors_io, source
from zhllama_jax.lora import merge
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import resize


class View(NamedTuple):
    """A model whose tensors are made when they are asked for.

    Attributes:
      config: its shape.
      read: the tensor of a name, under Hugging Face's names and in its shapes; several threads may ask at once.
    """

    config: config_lib.LlamaConfig
    read: Callable[[str], np.ndarray]

    def tensors(self) -> contextlib.AbstractContextManager[Iterable[tuple[str, np.ndarray]]]:
        """Yields all tensors in the order of `names.tensors`; the next are made while one is used, and none after the block."""
        return ahead.ahead(lambda tensor: (tensor.name, self.read(tensor.name)), names.tensors(self.config))


def stored(opened: source.Source) -> View:
    """A model as it stands on the disk."""
    return View(opened.config, opened.read)


def held(config: config_lib.LlamaConfig, params: Mapping[str, Any]) -> View:
    """A model as it is in memory, in our layout."""
    leaves = tree.flatten({"params": params})
    known = {tensor.name: tensor for tensor in names.tensors(config)}
    return View(config, lambda name: names.exported(config, leaves, known[name]))


def grown(
    former: View,
    *,
    pieces: Sequence[Sequence[int]],
    init: resize.Init = "mean_of_pieces",
    pad_token_id: int | None = None,
    key: arrays.Array | None = None,
) -> View:
    """A model with one new row for each entry of `pieces`, after it was cut to the rows that they are spelt with; see `resize.grow`.

    Raises:
      ValueError: see `resize.grow`.
    """
    config = resize.grown(former.config, pieces=pieces, init=init, pad_token_id=pad_token_id, key=key)

    def read(name: str) -> np.ndarray:
        value = former.read(name)
        if name not in MATRICES:
            return value
        new_VD = resize.new_rows(value, pieces=pieces, init=init, matrix=MATRICES[name], key=key)
        return np.concatenate([value, new_VD])

    return View(config, read)


def cut(former: View, rows: int) -> View:
    """A model with its first rows only; see `resize.cut`."""
    if rows == former.config.vocab_size:
        return former
    return View(resize.smaller(former.config, rows), lambda name: former.read(name)[:rows] if name in MATRICES else former.read(name))


def untied(former: View) -> View:
    """A model whose head is a matrix of its own: where it was tied, equal to the embedding as that is by now."""
    if not former.config.tie_word_embeddings:
        return former
    head, embedding = names.matrix("lm_head"), names.matrix("embed_tokens")
    return View(former.config.replace(tie_word_embeddings=False), lambda name: former.read(embedding if name == head else name))


def padded(former: View, multiple: int) -> View:
    """A model whose rows are a multiple of some number: zero rows behind the others, which no piece has.

    Servers that cut the vocabulary over several devices ask for it.

    Raises:
      ValueError: the multiple is below 1.
    """
    if multiple < 1:
        raise ValueError(f"pad_vocab_multiple must be at least 1, got {multiple}")
    more = -former.config.vocab_size % multiple
    if not more:
        return former
    config = former.config.replace(vocab_size=former.config.vocab_size + more)

    def read(name: str) -> np.ndarray:
        value = former.read(name)
        return np.pad(value, ((0, more), (0, 0))) if name in MATRICES else value

    return View(config, read)


def folded(former: View, adapters: Sequence[peft.Adapter], dtype: np.dtype) -> View:
    """A model with adapters folded in, rounded once to `dtype`: W + Σ scale · (B A) in float32; rows are replaced, in order.

    A matrix of which an adapter has all rows is not read.

    Raises:
      ValueError: later, a number that does not fit `dtype`.
    """
    known = {tensor.name: tensor for tensor in names.tensors(former.config)}

    def read(name: str) -> np.ndarray:
        tensor = known[name]
        path = tensor.path.removeprefix("params/")
        replaced = [adapter.rows[path] for adapter in adapters if path in adapter.rows] if tensor.form == "rows" else []
        whole = [number for number, some in enumerate(replaced) if len(some.ids) == former.config.vocab_size]
        if whole:  # nothing is left of what was before
            value, replaced = replaced[whole[-1]].values_VD, replaced[whole[-1] + 1 :]
        else:
            value = former.read(name)
        if tensor.form == "kernel" and (parts := factors(adapters, path.removesuffix("/kernel"), tensor.layer)):
            made = merge.folded(value, parts, dtype)
            if dtype == np.float16 and safetensors_io.not_finite(made):
                return llama_hf.cast(name, merge.folded(value, parts, np.dtype(np.float32)), dtype)  # which says how large they are
            return made
        value = llama_hf.cast(name, value, dtype)
        for some in replaced:
            value = value if value.flags.writeable else value.copy()
            value[some.ids] = llama_hf.cast(name, some.values_VD, dtype)
        return value

    return View(former.config, read)


def cast(former: View, dtype: np.dtype) -> View:
    """A model in another dtype, rounded to nearest even; see `llama_hf.cast`."""
    return View(former.config, lambda name: llama_hf.cast(name, former.read(name), dtype))


def factors(adapters: Sequence[peft.Adapter], path: str, layer: int | None) -> list[merge.Factors]:
    """The adapters' factors of one module, `layers/self_attn/q_proj`, in one layer, in order."""
    found = []
    for adapter in adapters:
        leaves = tree.flatten(adapter.lora)
        if f"{path}/a" in leaves:
            found.append(merge.Factors(leaves[f"{path}/a"][layer], leaves[f"{path}/b"][layer], leaves[f"{path}/scale"][layer]))
    return found


MATRICES = {names.matrix(name): name for name in config_lib.MATRICES}
"""Our names of the vocabulary's matrices, by Hugging Face's."""
