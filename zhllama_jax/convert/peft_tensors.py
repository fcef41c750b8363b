"""What the tensors of an adapter are, by their names in every layout that PEFT has had, and what stands in them.

    …q_proj.lora_A.weight                         [r, in]    our a, transposed; in memory, and so in some files, `lora_A.default.weight`
    …q_proj.lora_B.weight                         [out, r]   our b, transposed
    …embed_tokens.weight                          [V, D]     all rows; or `modules_to_save.default.weight`
    …embed_tokens.original_module.weight          [V, D]     the base's rows, which the former take the place of: passed over
    …lm_head.token_adapter.trainable_tokens_delta [n, D]     the rows of `trainable_token_indices`
    …lm_head.token_adapter.base_layer.weight      [V, D]     the others, which PEFT writes too where the vocabulary was resized

before all of which stands `base_model.model.`, or nothing. The file is `adapter_model.safetensors`, or PyTorch's `adapter_model.bin`; the
checkpoints of the original's trainers have the same under the name `pytorch_model.bin`.

Factors are float32 in memory. Rows stay in the file and are read when they are asked for: of a 7B model they are 1.6 GB in float32.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zhllama_jax import arrays, tree
from zhllama_jax.convert import config_hf, names, peft_config, readers, safetensors_io, torch_io
from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import config as config_lib

WEIGHTS = "adapter_model.safetensors"
FILES = (WEIGHTS, "adapter_model.bin", torch_io.SINGLE)
"""Where an adapter's tensors may stand, best first."""

PREFIX = "base_model.model."
_ORDER = (*lora_config.ATTENTION, *lora_config.MLP)
_MATRIX = r"(?P<module>(?:model\.)?(?:embed_tokens|lm_head))"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_ALL_ROWS = re.compile(rf"{_MATRIX}(?:\.modules_to_save)?(?:\.default)?\.weight")
_SOME_ROWS = re.compile(rf"{_MATRIX}\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_OTHER_ROWS = re.compile(rf"{_MATRIX}\.token_adapter\.base_layer\.weight")
_PASSED_OVER = re.compile(rf"{_MATRIX}\.(?:original_module\.weight|token_adapter\.trainable_tokens_original(?:\.default)?)")


class Rows(NamedTuple):
    """Trained rows of one vocabulary matrix.

    Attributes:
      ids: [n] which rows, ascending.
      width: D.
      whole: they are all rows that their model had.
      dtype: in which they are stored, as in `safetensors_io.DTYPES`.
      read: the rows themselves [n, D].
    """

    ids: np.ndarray
    width: int
    whole: bool
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def values_VD(self) -> np.ndarray:
        """The rows themselves [n, D], read anew each time, in the dtype in which they are stored."""
        return self.read()


class Names(NamedTuple):
    """The names in a file, sorted by what they mean.

    Attributes:
      factors: by path of the module (`layers/self_attn/q_proj`), then by layer and side ("A" or "B").
      whole: of all rows, by matrix; several where a file has them twice.
      some: of single rows, by matrix.
      others: of what stands under single rows, by matrix.
    """

    factors: dict[str, dict[tuple[int, str], str]]
    whole: dict[str, list[str]]
    some: dict[str, str]
    others: dict[str, str]


class Contents(NamedTuple):
    """What an adapter's file holds.

    Attributes:
      lora: factors in our layout, float32.
      rows: by matrix.
      modules: PEFT's names of the kernels that have factors, where the others of their kind may have none; None where all have.
    """

    lora: arrays.Tree
    rows: dict[str, Rows]
    modules: tuple[str, ...] | None


def find(directory: Path) -> Path:
    """The file of an adapter's tensors.

    Raises:
      FileNotFoundError: there is none.
    """
    for name in FILES:
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory} has no weights: expected {WEIGHTS} or {FILES[1]}")


def open_file(path: Path) -> safetensors_io.Reader | torch_io.Reader:
    """The file of an adapter's tensors, opened; see the readers of the two formats."""
    return safetensors_io.Reader([path]) if path.suffix == ".safetensors" else torch_io.Reader([path])


def sort(found: Collection[str], where: str) -> Names:
    """Says what each tensor is by its name.

    Raises:
      ValueError: one is nothing that an adapter of a LLaMA has, or two are the same.
    """
    result = Names({}, {}, {}, {})
    unknown: list[str] = []
    twice: list[tuple[str, str]] = []
    for name in found:
        short = name.removeprefix(PREFIX)
        if (match := _FACTOR.fullmatch(short)) and (known := _kernel(match["module"])):
            path, layer = known
            sides = result.factors.setdefault(path, {})
            twice += [(sides[layer, match["side"]], name)] if (layer, match["side"]) in sides else []
            sides[layer, match["side"]] = name
        elif match := _ALL_ROWS.fullmatch(short):
            result.whole.setdefault(_matrix(match), []).append(name)
        elif match := _SOME_ROWS.fullmatch(short) or _OTHER_ROWS.fullmatch(short):
            table = result.some if _SOME_ROWS.fullmatch(short) else result.others
            twice += [(table[_matrix(match)], name)] if _matrix(match) in table else []
            table[_matrix(match)] = name
        elif not _PASSED_OVER.fullmatch(short):
            unknown.append(name)
    twice += [(result.whole[matrix][0], name) for matrix, name in result.some.items() if matrix in result.whole]
    if unknown:
        raise ValueError(f"{where}: {peft_config.not_known(unknown)}")
    if twice:
        raise ValueError(f"{where}: {names.listed_pairs(twice)} say the same twice: keep one of them")
    if not result.factors and not result.whole and not result.some:
        raise ValueError(f"{where}: the adapter is empty")
    return result


def parse(reader: readers.Watched, settings: peft_config.Settings, *, path: Path) -> Contents:
    """Reads all tensors of an adapter, every one accounted for; what is kept of rows is where they stand.

    Args:
      reader: opened at `path`; afterwards it has described every tensor that counts.
      settings: what the configuration says of them.
      path: the file.

    Raises:
      ValueError: tensors that do not belong there, are missing, or are not of the rank that the configuration says.
    """
    where = str(path.parent)
    sorted_ = sort(reader.entries, where)
    _check_whole(sorted_, settings, path)
    rows = {matrix: _all_rows(reader, given, path) for matrix, given in sorted_.whole.items()}
    for matrix, name in sorted_.some.items():
        rows[matrix] = _some_rows(reader, settings.indices.get(matrix), name, sorted_.others.get(matrix), path)
    if settings.tied and set(rows) == set(config_lib.MATRICES) and _same(reader, sorted_, rows):
        del rows["lm_head"]
    leaves: dict[str, np.ndarray] = {}
    for module in sorted(sorted_.factors, key=lambda path: _ORDER.index(path.rpartition("/")[2])):
        leaves.update(_stack(reader, settings, module, sorted_.factors[module], where))
    kernels = sorted((layer, module) for module, given in sorted_.factors.items() for layer, side in given if side == "A")
    modules = None if settings.every_layer else tuple(kernel(module, layer) for layer, module in kernels)
    return Contents(tree.unflatten(leaves), rows, modules)


def canonical(found: Collection[str], where: str) -> dict[str, str]:
    """The names in a file by the names that we give them, of factors alone, layer by layer."""
    given = [(layer, path, side, name) for path, sides in sort(found, where).factors.items() for (layer, side), name in sides.items()]
    return {f"{PREFIX}{kernel(path, layer)}.lora_{side}.weight": name for layer, path, side, name in sorted(given)}


def kernel(path: str, layer: int) -> str:
    """PEFT's name of a module, `model.layers.0.self_attn.q_proj`."""
    return path.replace("layers/", f"model.layers.{layer}.").replace("/", ".")


def _matrix(match: re.Match[str]) -> str:
    return match["module"].removeprefix("model.")


def _kernel(module: str) -> tuple[str, int] | None:
    """(path, layer) of PEFT's name of a module; None if no LLaMA has it."""
    found = names.find(f"{module}.weight")
    if found is None or found[2] != "kernel" or found[1] is None or found[1] >= config_hf.MAX_LAYERS:
        return None
    return found[0].removeprefix("params/").removesuffix("/kernel"), found[1]


def _check_whole(found: Names, settings: peft_config.Settings, path: Path) -> None:
    """Refuses a file that lacks what the configuration says was trained, or has more: the model would be another one.

    Raises:
      ValueError: with all that is missing, or too much.
    """
    rows = found.whole.keys() | found.some.keys()
    missing = [f"rows of {name}" for name in settings.saved if name not in rows]
    if settings.tied and "embed_tokens" in rows and "rows of lm_head" in missing:
        missing.remove("rows of lm_head")  # a tied head may stand in the file once
    modules = {kernel(module, layer): layer for module, given in found.factors.items() for layer, _ in given}
    for name in settings.targets or ():
        layers = {layer for module, layer in modules.items() if peft_config.is_named(module, name)}
        if not layers:
            missing.append(f"factors of {name}")
        missing += [f"factors of {name} in layer {layer}" for layer in settings.layers if layers and layer not in layers]
    if missing:
        raise ValueError(
            f"{path.parent}: {peft_config.FILE} names {names.listed(missing)}, but {path.name} has none: save the adapter again, whole"
        )
    settings.require_named(list(modules), where=str(path.parent))


def _stack(
    reader: readers.Reader, settings: peft_config.Settings, path: str, found: Mapping[tuple[int, str], str], where: str
) -> dict[str, np.ndarray]:
    """a [L, I, R], b [L, R, O] and scale [L] of one module in all layers; smaller ranks and missing layers are zeros, which stay zeros."""
    layers = range(1 + max(layer for layer, _ in found))
    absent = [layer for layer in layers if not settings.every_layer and not {(layer, "A"), (layer, "B")} & found.keys()]
    missing = [f"layer {layer} lora_{side}" for layer in layers for side in "AB" if layer not in absent and (layer, side) not in found]
    if missing:
        raise ValueError(
            f"{where}: {path} lacks {names.listed(missing)}; by {peft_config.FILE} the adapter has factors in all layers: save it again, "
            "whole"
        )
    whole = [layer for layer in layers if layer not in absent]
    pairs = {layer: (_float32(reader, found[layer, "A"]), _float32(reader, found[layer, "B"])) for layer in whole}
    scale_L = np.empty(len(layers), np.float32)
    for layer in layers:
        module = kernel(path, layer)
        rank, scale_L[layer] = settings.rank_and_scale(module)
        if layer in absent:
            continue
        a_RI, b_OR = pairs[layer]
        if a_RI.shape[0] != rank or b_OR.shape[1] != rank:
            raise ValueError(
                f"{where}: {module} has factors {list(a_RI.shape)} and {list(b_OR.shape)}, {peft_config.FILE} says rank {rank}"
            )
    if len({(a_RI.shape[1], b_OR.shape[0]) for a_RI, b_OR in pairs.values()}) > 1:
        raise ValueError(f"{where}: the factors of {path} differ in shape between layers")
    some_RI, some_OR = next(iter(pairs.values()))
    rank = max(a_RI.shape[0] for a_RI, _ in pairs.values())
    a_LIR = np.zeros((len(layers), some_RI.shape[1], rank), np.float32)
    b_LRO = np.zeros((len(layers), rank, some_OR.shape[0]), np.float32)
    for layer, (a_RI, b_OR) in pairs.items():
        a_LIR[layer, :, : len(a_RI)] = a_RI.T
        b_LRO[layer, : len(a_RI)] = b_OR.T
    return {f"{path}/a": a_LIR, f"{path}/b": b_LRO, f"{path}/scale": scale_L}


def _all_rows(reader: readers.Watched, given: Sequence[str], path: Path) -> Rows:
    """The rows of a whole matrix; a file that has it under two names must have it twice alike."""
    for name in given:
        _look(reader, name)
    if len({reader.described[name]["sha256"] for name in given}) > 1:
        raise ValueError(f"{path}: {' and '.join(given)} are the same matrix with other numbers: keep the one that is meant")
    stored = reader.entries[given[0]]
    rows, width = stored.shape
    return Rows(np.arange(rows), width, True, stored.dtype, _again(path, lambda opened: opened.read(given[0], once=True)))


def _some_rows(reader: readers.Watched, ids: Sequence[int] | None, name: str, others: str | None, path: Path) -> Rows:
    """Single rows in the order of their ids; with the others under them, all rows."""
    _look(reader, name)
    rows, width = reader.entries[name].shape
    if ids is None or len(ids) != rows:
        raise ValueError(f"{path}: {name} has {rows:,} rows, trainable_token_indices names {0 if ids is None else len(ids):,}")
    order = np.argsort(ids, kind="stable")
    ordered = np.asarray(ids, np.int64)[order]
    if (np.diff(ordered) == 0).any():
        raise ValueError(f"{path}: {name}: trainable_token_indices names a row twice")
    if others is None:
        return Rows(ordered, width, False, reader.entries[name].dtype, _again(path, lambda opened: opened.read(name)[order]))
    _look(reader, others)
    under, under_width = reader.entries[others].shape
    if under_width != width or ordered[-1] >= under:
        raise ValueError(f"{path}: {name} has rows up to {ordered[-1]:,} of {width} numbers, {others} is {[under, under_width]}")

    dtypes = {reader.entries[name].dtype, reader.entries[others].dtype}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F32"

    def placed(opened: readers.Reader) -> np.ndarray:
        value_VD = np.array(opened.read(others), safetensors_io.DTYPES[dtype])
        value_VD[ordered] = opened.read(name)[order]
        return value_VD

    return Rows(np.arange(under), width, True, dtype, _again(path, placed))


def _again(path: Path, read: Callable[[readers.Reader], np.ndarray]) -> Callable[[], np.ndarray]:
    """What `read` takes from the file, opened anew each time.

    Its tensors were held against their digests when the adapter was loaded; since then the file must not have changed.
    """
    stamp = _stamp(path)

    def result() -> np.ndarray:
        if _stamp(path) != stamp:
            raise ValueError(f"{path} was changed while it was in use: start again")
        with open_file(path) as opened:
            return read(opened)

    return result


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _same(reader: readers.Watched, found: Names, rows: Mapping[str, Rows]) -> bool:
    """Whether both matrices have the same rows, as far as the file has them whole or by id alone."""
    if found.others or not np.array_equal(rows["embed_tokens"].ids, rows["lm_head"].ids):
        return False
    given = [(found.whole.get(matrix) or [found.some[matrix]])[0] for matrix in config_lib.MATRICES]
    return len({reader.described[name]["sha256"] for name in given}) == 1


def _float32(reader: readers.Reader, name: str) -> np.ndarray:
    return _look(reader, name).astype(np.float32, copy=False)


def _look(reader: readers.Reader, name: str) -> np.ndarray:
    """Reads a tensor that must be a matrix."""
    shape = reader.entries[name].shape
    if len(shape) != 2:
        raise ValueError(f"{reader.file(name)}: {name} must be a matrix, got shape {list(shape)}")
    return reader.read(name)
