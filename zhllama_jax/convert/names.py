"""The one table between our weights and the tensors of other formats, read in both directions.

Our kernels are [in, out] and stacked over layers; Hugging Face's are [out, in], one tensor a layer. Our vocabulary matrices are two
padded blocks of rows; theirs is one logical matrix. `tensors` lists what a model must consist of, `export` and `collect` walk that list,
and `check` accounts for every tensor of a directory: none is left over, none is missing.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from zhllama_jax import arrays, lines, tree
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, resize

Form = Literal["kernel", "vector", "rows"]


class Name(NamedTuple):
    """What one of our leaves is called elsewhere.

    Attributes:
      hf: Hugging Face's name; `{layer}` counts the decoder layers.
      form: "kernel" is transposed, "vector" taken as it is, "rows" is cut into blocks.
    """

    hf: str
    form: Form


# Path of the leaf (or of the two blocks)                    Hugging Face's name, form
RULES: tree.Rules[Name] = (
    (r"params/embed_tokens/(base|extension)", Name("model.embed_tokens.weight", "rows")),
    (r"params/layers/input_layernorm/weight", Name("model.layers.{layer}.input_layernorm.weight", "vector")),
    (r"params/layers/self_attn/q_proj/kernel", Name("model.layers.{layer}.self_attn.q_proj.weight", "kernel")),
    (r"params/layers/self_attn/k_proj/kernel", Name("model.layers.{layer}.self_attn.k_proj.weight", "kernel")),
    (r"params/layers/self_attn/v_proj/kernel", Name("model.layers.{layer}.self_attn.v_proj.weight", "kernel")),
    (r"params/layers/self_attn/o_proj/kernel", Name("model.layers.{layer}.self_attn.o_proj.weight", "kernel")),
    (r"params/layers/post_attention_layernorm/weight", Name("model.layers.{layer}.post_attention_layernorm.weight", "vector")),
    (r"params/layers/mlp/gate_proj/kernel", Name("model.layers.{layer}.mlp.gate_proj.weight", "kernel")),
    (r"params/layers/mlp/up_proj/kernel", Name("model.layers.{layer}.mlp.up_proj.weight", "kernel")),
    (r"params/layers/mlp/down_proj/kernel", Name("model.layers.{layer}.mlp.down_proj.weight", "kernel")),
    (r"params/norm/weight", Name("model.norm.weight", "vector")),
    (r"params/lm_head/(base|extension)", Name("lm_head.weight", "rows")),
)

# Tables of angles that old versions of transformers stored; they follow from the configuration.
IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

_KNOWN_SIZES = {
    32_000: "the original LLaMA vocabulary",
    49_953: "the Chinese-LLaMA vocabulary",
    49_954: "the Chinese-Alpaca vocabulary, which is Chinese-LLaMA's with [PAD]",
    55_296: "the Chinese-LLaMA-2 vocabulary",
}
_LISTED = 8
_TILE = 128


class Tensor(NamedTuple):
    """One tensor of a Hugging Face directory and where its numbers live with us.

    Attributes:
      name: Hugging Face's name.
      path: our leaf; for rows the folder of the two blocks.
      layer: index into the leaf's leading axis; None where there is none.
      form: how the one becomes the other.
      shape: Hugging Face's shape.
    """

    name: str
    path: str
    layer: int | None
    form: Form
    shape: tuple[int, ...]


def tensors(config: config_lib.LlamaConfig) -> list[Tensor]:
    """All tensors of a model in Hugging Face's order: embedding, layer after layer, norm, head."""
    leaves = tree.flatten({"params": llama.abstract(config)})
    found = tree.match(RULES, leaves, table="tensor names", unused="allow")
    order = [name for _, name in RULES]
    result = {}
    for path, (template, form) in sorted(found.items(), key=lambda item: order.index(item[1])):
        shape = leaves[path].shape
        if form == "rows":
            result[template] = Tensor(template, path.rsplit("/", 1)[0], None, form, (config.vocab_size, config.hidden_size))
        elif "{layer}" in template:
            for layer in range(config.num_hidden_layers):
                name = template.format(layer=layer)
                result[name] = Tensor(name, path, layer, form, shape[:0:-1] if form == "kernel" else shape[1:])
        else:
            result[template] = Tensor(template, path, None, form, shape)
    return sorted(result.values(), key=lambda tensor: (_section(tensor), tensor.layer or 0))


def find(name: str) -> tuple[str, int | None, Form] | None:
    """(our path, layer, form) of a Hugging Face name, whatever the model's size; None for a name that the table does not know.

    The path of rows is the folder of the two blocks.
    """
    layers = re.match(r"model\.layers\.(0|[1-9]\d{0,4})\.", name)
    template = name if layers is None else f"model.layers.{{layer}}.{name[layers.end() :]}"
    for path, (known, form) in RULES:
        if known == template:
            return path.removesuffix("/(base|extension)"), None if layers is None else int(layers[1]), form
    return None


def matrix(name: str) -> str:
    """Hugging Face's name of a vocabulary matrix, "embed_tokens" or "lm_head"."""
    return next(known.hf for path, known in RULES if path.startswith(f"params/{name}/"))


def export(config: config_lib.LlamaConfig, params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The model's tensors under Hugging Face's names and in its shapes, one at a time, in the order of `tensors`."""
    leaves = tree.flatten({"params": params})
    for tensor in tensors(config):
        yield tensor.name, exported(config, leaves, tensor)


def exported(config: config_lib.LlamaConfig, leaves: Mapping[str, Any], tensor: Tensor) -> np.ndarray:
    """One tensor in Hugging Face's shape, of our leaves by path."""
    if tensor.form == "rows":
        return np.concatenate([np.asarray(leaves[f"{tensor.path}/{block.name}"])[: block.rows] for block in config.blocks])
    leaf = np.asarray(leaves[tensor.path] if tensor.layer is None else leaves[tensor.path][tensor.layer])
    return transposed(leaf) if tensor.form == "kernel" else leaf


def collect(config: config_lib.LlamaConfig, read: Callable[[str], np.ndarray]) -> arrays.Tree:
    """The params of a model whose tensors `read(name)` returns in Hugging Face's shapes: the inverse of `export`.

    Tensors are read once each, in the order of `tensors`. A leaf has the dtype of its first tensor.
    """
    leaves: dict[str, Any] = {}
    for tensor in tensors(config):
        value = read(tensor.name)
        if tensor.form == "rows":
            leaves.update({f"{tensor.path}/{name}": block for name, block in resize.blocks(value, config).items()})
            continue
        value = transposed(value) if tensor.form == "kernel" else value
        if tensor.layer is None:
            leaves[tensor.path] = np.ascontiguousarray(value)
            continue
        if tensor.layer == 0:
            leaves[tensor.path] = np.empty((config.num_hidden_layers, *value.shape), value.dtype)
        leaves[tensor.path][tensor.layer] = value
    return tree.unflatten(leaves)["params"]


def transposed(matrix_IO: np.ndarray) -> np.ndarray:
    """The transposed matrix in rows of its own, tile by tile: several times faster than one strided copy."""
    result_OI = np.empty(matrix_IO.shape[::-1], matrix_IO.dtype)
    for row in range(0, matrix_IO.shape[0], _TILE):
        for column in range(0, matrix_IO.shape[1], _TILE):
            tile = slice(row, row + _TILE), slice(column, column + _TILE)
            result_OI[tile[::-1]] = matrix_IO[tile].T
    return result_OI


def check(config: config_lib.LlamaConfig, shapes: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Holds a directory's tensors against what `config` asks for.

    Args:
      config: the model that the directory claims to be.
      shapes: shape of each tensor found, by name.
      where: the directory, for messages.

    Raises:
      ValueError: a tensor is missing, left over or of another shape; all of them are listed, with both shapes.
    """
    wanted = {tensor.name: tensor for tensor in tensors(config)}
    problems = []
    missing = [name for name in wanted if name not in shapes]
    if missing:
        problems.append(f"missing: {listed(missing)}")
    unknown = [name for name in shapes if name not in wanted and not IGNORED.fullmatch(name)]
    if config.tie_word_embeddings and "lm_head.weight" in unknown:
        problems.append("lm_head.weight is there although config.json says tie_word_embeddings")
        unknown.remove("lm_head.weight")
    if unknown:
        problems.append(f"not part of this model: {listed(unknown)}")
    for name, tensor in wanted.items():
        if name in shapes and shapes[name] != tensor.shape:
            hint = vocabulary_hint(shapes[name][0], config.vocab_size) if tensor.form == "rows" and shapes[name] else ""
            problems.append(f"{name} has shape {list(shapes[name])}, config.json asks for {list(tensor.shape)}{hint}")
    if problems:
        raise ValueError(f"{where}: the tensors do not fit config.json: " + "; ".join(problems))


def vocabulary_hint(found: int, wanted: int) -> str:
    """What two different vocabulary sizes may be, as the end of a sentence; empty where neither is known."""
    known = [f"{size:,} is {_KNOWN_SIZES[size]}" for size in (found, wanted) if size in _KNOWN_SIZES]
    return f" ({'; '.join(known)})" if found != wanted and known else ""


def listed(names: Sequence[str]) -> str:
    """The names, or the first few and how many more there are."""
    return _first([lines.printable(name) for name in names])


def listed_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """The pairs of names, or the first few and how many more there are; each name is shortened by itself."""
    return _first([f"{lines.printable(left)} and {lines.printable(right)}" for left, right in pairs])


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + more


def _section(tensor: Tensor) -> int:
    """0 before the decoder layers, 1 in them, 2 after them."""
    return 1 if tensor.layer is not None else 0 if tensor.path == "params/embed_tokens" else 2
