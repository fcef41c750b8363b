"""Meta's format: `consolidated.00.pth` … beside `params.json`, in and out, presented under Hugging Face's names and in its shapes.

The release cuts a model into one file for each device that runs it (7B 1, 13B 2, 33B 4, 65B 8). Every matrix is cut along its rows or its
columns and the norms are in every file:

    tok_embeddings                    columns (LLaMA 1 and 2) or rows (LLaMA 3)
    wq wk wv  w1 w3  output           rows; what is left over of the vocabulary goes to the last file
    wo  w2                            columns
    norms                             whole, the same in each

The rows of wq and wk stand in another order than Hugging Face's (see `rotary`). Tables of angles (`rope.freqs`) follow from params.json and
are passed over. Joining and cutting go tensor by tensor and keep none.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from zhllama_jax import files
from zhllama_jax.convert import meta_params, names, rotary, safetensors_io, torch_io
from zhllama_jax.model import config as config_lib

Cut = Literal["rows", "columns", "embedding", "whole"]

# Hugging Face's name                                      Meta's, how it is cut
NAMES: tuple[tuple[str, str, Cut], ...] = (
    ("model.embed_tokens.weight", "tok_embeddings.weight", "embedding"),
    ("model.layers.{layer}.input_layernorm.weight", "layers.{layer}.attention_norm.weight", "whole"),
    ("model.layers.{layer}.self_attn.q_proj.weight", "layers.{layer}.attention.wq.weight", "rows"),
    ("model.layers.{layer}.self_attn.k_proj.weight", "layers.{layer}.attention.wk.weight", "rows"),
    ("model.layers.{layer}.self_attn.v_proj.weight", "layers.{layer}.attention.wv.weight", "rows"),
    ("model.layers.{layer}.self_attn.o_proj.weight", "layers.{layer}.attention.wo.weight", "columns"),
    ("model.layers.{layer}.post_attention_layernorm.weight", "layers.{layer}.ffn_norm.weight", "whole"),
    ("model.layers.{layer}.mlp.gate_proj.weight", "layers.{layer}.feed_forward.w1.weight", "rows"),
    ("model.layers.{layer}.mlp.up_proj.weight", "layers.{layer}.feed_forward.w3.weight", "rows"),
    ("model.layers.{layer}.mlp.down_proj.weight", "layers.{layer}.feed_forward.w2.weight", "columns"),
    ("model.norm.weight", "norm.weight", "whole"),
    ("lm_head.weight", "output.weight", "rows"),
)
IGNORED = re.compile(r"(layers\.\d+\.attention\.(inner_attention\.)?)?rope\.freqs")
TOKENIZER = "tokenizer.model"
MAX_SHARDS = 100
_FILE = re.compile(r"consolidated\.(\d\d)\.pth")
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.)")


class Entry(NamedTuple):
    """One joined tensor: dtype as in `safetensors_io.DTYPES`, Hugging Face's shape, and how the files cut it."""

    dtype: str
    shape: tuple[int, ...]
    cut: Cut

    @property
    def num_bytes(self) -> int:
        """Bytes that the numbers take."""
        return math.prod(self.shape) * safetensors_io.ITEMSIZE[self.dtype]


def is_model(directory: str | Path) -> bool:
    """Whether a directory is laid out like Meta's release."""
    directory = Path(directory)
    return (directory / meta_params.FILE).is_file() and bool(_numbered(directory))


def tokenizer_path(directory: str | Path) -> Path | None:
    """`tokenizer.model` beside the weights, or in the folder above, where Meta's download puts it for all sizes; None without one."""
    directory = Path(directory)
    places = (directory / TOKENIZER, directory.absolute().parent / TOKENIZER)
    return next((place for place in places if place.is_file()), None)


def read_config(
    directory: str | Path, *, max_position_embeddings: int | None = None, allow_unknown: bool = False
) -> tuple[config_lib.LlamaConfig, list[str]]:
    """The shape of the model in a directory and notes about it; see `Reader`."""
    with Reader(directory, max_position_embeddings=max_position_embeddings, allow_unknown=allow_unknown) as reader:
        return reader.config, reader.notes


class Reader:
    """A model in Meta's format under Hugging Face's names and in its shapes, read one tensor at a time.

    Attributes:
      config: the model's shape.
      entries: what the files say, joined, by Hugging Face's name.
      notes: what is odd in the directory and harmless, and what params.json leaves open.
    """

    def __init__(self, directory: str | Path, *, max_position_embeddings: int | None = None, allow_unknown: bool = False):
        """Opens all files and holds them against params.json and each other; the numbers are not read yet.

        Args:
          directory: holds `params.json` and `consolidated.00.pth` …
          max_position_embeddings: the context length, which the format does not say; see `meta_params.config`.
          allow_unknown: pass over keys of params.json that are not known here, which may change the numbers.

        Raises:
          FileNotFoundError: something is not there.
          ValueError: a file is refused (see `torch_io.Reader`), a setting is not supported, or tensors are missing, left over or of another
            shape.
        """
        self.directory = Path(directory)
        paths = _files(self.directory)
        params, self.notes = meta_params.read(self.directory / meta_params.FILE, allow_unknown=allow_unknown)
        with contextlib.ExitStack() as stack:
            self._parts = [stack.enter_context(torch_io.Reader([path])) for path in paths]
            self.notes += [note for part in self._parts for note in part.notes]
            try:
                self._check_names(params["n_layers"], paths)
                self.config, notes = meta_params.config(
                    params,
                    vocab_size=self._rows("output.weight"),
                    intermediate_size=self._rows("layers.0.feed_forward.w1.weight"),
                    max_position_embeddings=max_position_embeddings,
                )
                self.notes += notes
                self.entries = self._join()
            except ValueError as error:
                raise ValueError(f"{self.directory}: {error}") from None
            self._stack = stack.pop_all()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def num_shards(self) -> int:
        """How many files the model is cut into."""
        return len(self._parts)

    def file(self, name: str) -> Path:
        """The first of the files that hold a tensor."""
        return self._parts[0].file(to_meta(name))

    def read(self, name: str, *, once: bool = False) -> np.ndarray:
        """One tensor's numbers, joined; see `readers.Reader`.

        Raises:
          ValueError: its dtype is not float32, float16 or bfloat16, its bytes do not have their checksum, or files differ in what all of
            them must hold alike.
        """
        entry, meta = self.entries[name], to_meta(name)
        if entry.cut == "whole":
            return self._same_in_all(meta)
        if len(self._parts) == 1:
            return rotary.halves(name, self._parts[0].read(meta, once=once), self.config)
        result = np.empty(entry.shape, self._dtype(name))
        axis, start = int(entry.cut == "columns"), 0
        for part in self._parts:
            end = start + part.entries[meta].shape[axis]
            place = result[start:end] if axis == 0 else result[:, start:end]
            place[...] = part.read(meta, once=once)
            start = end
        return rotary.halves(name, result, self.config)

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dtype(self, name: str) -> np.dtype:
        dtype = self.entries[name].dtype
        if dtype not in safetensors_io.DTYPES:
            raise ValueError(f"{self.directory}: {to_meta(name)} is {dtype}; weights are read from {', '.join(safetensors_io.DTYPES)}")
        return safetensors_io.DTYPES[dtype]

    def _same_in_all(self, meta: str) -> np.ndarray:
        result = self._parts[0].read(meta)
        octets = result.reshape(-1).view(np.uint8)
        for part in self._parts[1:]:
            if not np.array_equal(part.read(meta).reshape(-1).view(np.uint8), octets):
                files_ = f"{self._parts[0].file(meta).name} and {part.file(meta).name}"
                raise ValueError(f"{self.directory}: {files_} differ in {meta}, of which each holds a copy: they belong to two models")
        return result

    def _rows(self, meta: str) -> int:
        return sum(part.entries[meta].shape[0] for part in self._parts if part.entries[meta].shape)

    def _check_names(self, num_layers: int, paths: list[Path]) -> None:
        """Every file must hold a part of every tensor, and nothing else."""
        wanted = {to_meta(hf.format(layer=layer)) for hf, _, _ in NAMES for layer in range(num_layers)}
        for part, path in zip(self._parts, paths, strict=True):
            missing = sorted(wanted - part.entries.keys())
            unknown = sorted(name for name in part.entries if name not in wanted and not IGNORED.fullmatch(name))
            problems = [f"{what}: {names.listed(found)}" for what, found in (("missing", missing), ("not part of LLaMA", unknown)) if found]
            if problems:
                raise ValueError(f"the tensors of {path.name} do not fit params.json: {'; '.join(problems)}")

    def _join(self) -> dict[str, Entry]:
        """Dtype and shape of each joined tensor, held against the configuration."""
        found, problems = {}, []
        for tensor in names.tensors(self.config):
            meta = to_meta(tensor.name)
            parts = [part.entries[meta] for part in self._parts]
            if len({part.dtype for part in parts}) > 1:
                problems.append(f"{meta} is stored as {', '.join(sorted({part.dtype for part in parts}))}")
            cut = _cut(tensor.name)
            if cut == "embedding":  # rows if each file has all columns
                cut = "rows" if all(part.shape[1:] == tensor.shape[1:] for part in parts) else "columns"
            joined = _joined([part.shape for part in parts], cut)
            if joined != tensor.shape:
                each = " ".join(dict.fromkeys(str(list(part.shape)) for part in parts))
                problems.append(f"{meta} has shape {each} in {len(parts)} files, which do not make {list(tensor.shape)}")
            found[tensor.name] = Entry(parts[0].dtype, tensor.shape, cut)
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise ValueError(f"the tensors do not fit params.json; is a file missing? {'; '.join(problems[:4])}{more}")
        return found


def write(
    directory: str | Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    config: config_lib.LlamaConfig,
    dtype: str,
    shards: int = 1,
    embedding: Literal["columns", "rows"] = "columns",
    even: bool = False,
) -> safetensors_io.Written:
    """Writes `params.json` and the files of weights, all of which grow at once while the tensors come one at a time.

    The context length is lost.

    Args:
      directory: an existing folder.
      tensors: (Hugging Face's name, array in `dtype`) in the order of `names.tensors`.
      config: the model's shape; its head is not tied, see `view.untied`.
      dtype: of all weights, as in `safetensors_io.DTYPES`.
      shards: number of files; must divide the heads, the key/value heads and the widths.
      embedding: how `tok_embeddings` is cut: "columns" as in LLaMA 1 and 2, "rows" as in LLaMA 3.
      even: refuse a vocabulary that cannot be cut evenly, instead of giving what is left over to the last file; some loaders need it.

    Returns:
      Digests of the files, and of the tensors as they came, under Hugging Face's names.

    Raises:
      ValueError: the model cannot be cut so, or has something that the format cannot say, such as a tied head.
      OSError: the disk has no room for the files, which is looked at before anything is written.
    """
    directory = Path(directory)
    if config.tie_word_embeddings:
        raise ValueError("Meta's format has no tied heads: give the model a head of its own first")
    by_rows = embedding == "rows"
    params = meta_params.to_json(config, vocab_size=config.vocab_size if by_rows else -1)
    _check_divides(config, shards, by_rows=by_rows, even=even)
    wanted = names.tensors(config)
    plans: list[dict[str, tuple[str, tuple[int, ...]]]] = [{} for _ in range(shards)]
    slices: dict[str, list[tuple[slice, ...]]] = {}
    for tensor in wanted:
        meta, cut = to_meta(tensor.name), _cut(tensor.name)
        slices[meta] = _slices(tensor.shape, embedding if cut == "embedding" else cut, shards)
        for plan, part in zip(plans, slices[meta], strict=True):
            plan[meta] = dtype, tuple(len(range(*side.indices(size))) for side, size in zip(part, tensor.shape, strict=True))
    written = safetensors_io.Written({}, {})
    source = iter(tensors)
    size = sum(math.prod(shape) * safetensors_io.ITEMSIZE[dtype] for plan in plans for _, shape in plan.values())
    files.require_room(directory, size)
    with files.room(directory, size), contextlib.ExitStack() as stack, futures.ThreadPoolExecutor(1) as beside:
        paths = [directory / f"consolidated.{number:02}.pth" for number in range(shards)]
        writers = [stack.enter_context(torch_io.Writer(path, plan)) for path, plan in zip(paths, plans, strict=True)]
        for tensor in wanted:
            name, array = next(source)
            assert (name, array.shape) == (tensor.name, tensor.shape), f"{name} came where {tensor.name} was planned"
            described = beside.submit(safetensors_io.describe, array)
            turned = rotary.neighbours(name, array, config)
            meta = to_meta(name)
            for writer, part in zip(writers, slices[meta], strict=True):
                writer.add(meta, turned[part])
            written.tensors[name] = described.result()
        assert next(source, None) is None, "more tensors than planned"
        written.files.update({path.name: writer.finish() for path, writer in zip(paths, writers, strict=True)})
    files.write_json(directory / meta_params.FILE, params)
    return written


def to_meta(name: str) -> str:
    """Meta's name of a tensor with a name of Hugging Face's.

    Raises:
      KeyError: there is none.
    """
    return _row(name)[1].format(layer=_layer(name))


def _row(name: str) -> tuple[str, str, Cut]:
    template = _LAYER.sub("{layer}", name, count=1)
    for row in NAMES:
        if row[0] == template:
            return row
    raise KeyError(name)


def _layer(name: str) -> str | None:
    found = _LAYER.search(name)
    return found[0] if found else None


def _cut(name: str) -> Cut:
    return _row(name)[2]


def _slices(shape: tuple[int, ...], cut: Cut, shards: int) -> list[tuple[slice, ...]]:
    """The part of each file; what is left over goes to the last."""
    everything = [slice(None)] * len(shape)
    if cut == "whole":
        return [tuple(everything)] * shards
    axis = int(cut == "columns")
    step = shape[axis] // shards
    ends = [*(step * number for number in range(1, shards)), shape[axis]]
    return [(*everything[:axis], slice(step * number, end), *everything[axis + 1 :]) for number, end in enumerate(ends)]


def _joined(shapes: list[tuple[int, ...]], cut: Cut) -> tuple[int, ...] | None:
    """The shape that parts make together; None if they do not fit."""
    first = shapes[0]
    if cut == "whole":
        return first if len(set(shapes)) == 1 else None
    axis = int(cut == "columns")
    if any(len(shape) != 2 or shape[1 - axis] != first[1 - axis] for shape in shapes):
        return None
    total = sum(shape[axis] for shape in shapes)
    return (total, first[1]) if axis == 0 else (first[0], total)


def _check_divides(config: config_lib.LlamaConfig, shards: int, *, by_rows: bool, even: bool) -> None:
    sizes: Mapping[str, int] = {
        "heads": config.num_attention_heads,
        "key/value heads": config.num_kv_heads,
        "width": config.hidden_size,
        "feed-forward width": config.intermediate_size,
    }
    if even or by_rows:
        sizes = {**sizes, "vocabulary": config.vocab_size}
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"shards must be a number from 1 to {MAX_SHARDS}, got {shards}")
    uneven = [f"{size:,} {what}" if "heads" in what else f"a {what} of {size:,}" for what, size in sizes.items() if size % shards]
    if uneven:
        common = math.gcd(*sizes.values())
        possible = [str(count) for count in range(1, MAX_SHARDS + 1) if common % count == 0]
        pad = f"; pad the vocabulary to a multiple of {shards} first" if uneven == [f"a vocabulary of {config.vocab_size:,}"] else ""
        raise ValueError(f"{shards} files cannot share {', '.join(uneven)}: possible are {', '.join(possible)}{pad}")


def _numbered(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("consolidated.*.pth") if _FILE.fullmatch(path.name))


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} not found: expected a directory with {meta_params.FILE} and consolidated.00.pth")
    found = _numbered(directory)
    wanted = [directory / f"consolidated.{number:02}.pth" for number in range(len(found))]
    if not found or found != wanted:
        absent = next((path.name for path in wanted if path not in found), "consolidated.00.pth")
        raise FileNotFoundError(f"{directory}: {absent} not found; download the rest")
    return found
