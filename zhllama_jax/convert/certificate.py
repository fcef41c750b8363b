"""What was proved of a model before it took its name: every tensor, read back, and logits where numbers were changed.

Tensors are read from the new files by the format's own reader and held against the source, read again. Numbers that are stored plainly must
be the same bits as those of the source, rounded to the stored type. What adapters were folded into is computed again on another way: W + Σ
scale · (B A) by XLA, where the writer took NumPy. Where the two sums of float32 lie on two sides of the middle between two numbers, the
stored one is right if it is the nearest to a sum that another order of summation may make; such numbers are counted. Quantised numbers must
lie within half a step of their block, or a whole one where the format's range is uneven.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from zhllama_jax.convert import ahead, gguf_quant, llama_hf, names, peft, source, streamed, view
from zhllama_jax.lora import merge
from zhllama_jax.model import config as config_lib

# How far logits may be from those of the source in float32, as a share of the largest: rounding of weights, over all layers. In float32 it
# is the rounding of sums alone, which differs between processors: adapters with numbers far larger than the model's reach 1e-4.
TOLERANCES = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 0.25, "q8_0": 0.25, "q4_0": 0.5}

# How far a number of a quantised tensor may be from what was meant, as a share of the largest of its block; a block's scale is a float16.
_STEPS = {"Q8_0": 0.51 / 127 + 2.0**-10, "Q4_0": 1.01 / 8 + 2.0**-10}
_BITS = {"float32": 24, "float16": 11, "bfloat16": 8}  # of a significand
_AT_ONCE = 1 << 17
"""So many numbers are compared at a time: they stay in a processor's cache."""


class _Found(NamedTuple):
    """What was found in a tensor: numbers that another order of summation rounds otherwise, and the largest difference."""

    neighbours: int
    max_abs: float


class Proof(NamedTuple):
    """What is to be proved.

    Attributes:
      base: the model before adapters were folded in and numbers were rounded.
      adapters: what was folded in.
      config: the new model's shape.
      dtype: in which it is stored.
      source_dtypes: in which the model was stored.
      logits: compare logits too, where numbers were changed.
    """

    base: view.View
    adapters: Sequence[peft.Adapter]
    config: config_lib.LlamaConfig
    dtype: str
    source_dtypes: Sequence[str]
    logits: bool


def certify(folder: Path, proof: Proof) -> dict[str, Any]:
    """Proves that a folder holds what was meant.

    Returns:
      {"dtype", "tensors": {"compared", "equal", "neighbours", "max_abs"}, "logits": {"max_abs", "largest", "same_argmax", "tolerance",
      "prompts", "seconds"} or null, "seconds"}: JSON values. `neighbours` counts numbers that the two ways rounded to neighbours.

    Raises:
      ValueError: with the first tensor that differs, or how far the logits are apart.
    """
    begun = time.monotonic()
    with source.Source(folder, as_found=True, once=True) as opened:
        found = _tensors(opened, proof)
        changed = bool(proof.adapters) or proof.source_dtypes != [proof.dtype]
        seconds = time.monotonic() - begun
        compared = _logits(opened, proof) if proof.logits and changed else None
    return {"dtype": proof.dtype, "tensors": found, "logits": compared, "seconds": round(seconds, 3)}


def _tensors(opened: source.Source, proof: Proof) -> dict[str, Any]:
    wanted = names.tensors(proof.config)
    dtype = llama_hf.parse_dtype(proof.dtype if proof.dtype in llama_hf.DTYPES else "float32")
    rows_only = view.folded(proof.base, [adapter._replace(lora={}) for adapter in proof.adapters], dtype)
    if not proof.config.tie_word_embeddings:
        rows_only = view.untied(rows_only)  # of a tied model in a format without tied heads

    def compare(tensor: names.Tensor) -> _Found | None:
        stored = opened.read(tensor.name)
        kind = opened.reader.entries[tensor.name].dtype
        parts = _factors(proof, tensor)
        meant = (proof.base if parts else rows_only).read(tensor.name)
        if meant.shape != stored.shape:
            raise _refused(tensor, float("inf"))
        if parts:
            return _compare_folded(tensor, meant, parts, stored, kind, dtype)
        return _compare_plain(tensor, meant, stored, kind)

    equal = neighbours = 0
    largest = 0.0
    with ahead.ahead(compare, wanted) as compared:
        for found in compared:
            if found is None:
                equal += 1
            else:
                neighbours, largest = neighbours + found.neighbours, max(largest, found.max_abs)
    return {"compared": len(wanted), "equal": equal, "neighbours": neighbours, "max_abs": largest}


def _compare_plain(tensor: names.Tensor, meant: np.ndarray, stored: np.ndarray, kind: str) -> _Found | None:
    """Holds a tensor against what was meant, `kind` being the type in which it is stored; None for the same bits.

    Raises:
      ValueError: it differs by more than the type explains.
    """
    meant, stored = np.atleast_2d(meant), np.atleast_2d(stored)
    largest = None if meant.dtype == stored.dtype and kind not in _STEPS else 0.0
    for rows in _blocks(stored.shape, _AT_ONCE):
        if kind in _STEPS:
            largest = max(largest or 0.0, _quantised(tensor, meant[rows], stored[rows], kind))
        elif not _same_bits(meant[rows].astype(stored.dtype, copy=False), stored[rows]):
            raise _refused(tensor, _distance(meant[rows], stored[rows]))
    return None if largest is None else _Found(0, largest)


def _compare_folded(
    tensor: names.Tensor, kernel_OI: np.ndarray, parts: Sequence[merge.Factors], stored_OI: np.ndarray, kind: str, dtype: np.dtype
) -> _Found | None:
    """Holds a kernel with adapters folded in, in `dtype`, against the source's and them; else as `_compare_plain`."""
    neighbours, largest, other = 0, 0.0, kind in _STEPS or dtype != stored_OI.dtype
    for rows in _blocks(kernel_OI.shape, merge.BLOCK_OF_XLA):
        meant_OI = merge.folded_again(kernel_OI, parts, rows, dtype)
        if kind in _STEPS:
            largest = max(largest, _quantised(tensor, meant_OI, stored_OI[rows], kind))
        elif not _same_bits(meant_OI.astype(stored_OI.dtype, copy=False), stored_OI[rows]):
            exact_OI = merge.folded_again(kernel_OI, parts, rows, np.dtype(np.float32))
            slack_OI = _slack(kernel_OI[rows], [part._replace(b_RO=part.b_RO[:, rows]) for part in parts])
            if not _is_nearest(stored_OI[rows], exact_OI, slack_OI):
                raise _refused(tensor, _distance(exact_OI, stored_OI[rows]))
            neighbours += int((meant_OI.astype(stored_OI.dtype) != stored_OI[rows]).sum())
            largest, other = max(largest, _distance(meant_OI, stored_OI[rows])), True
    return _Found(neighbours, largest) if other else None


def _factors(proof: Proof, tensor: names.Tensor) -> list[merge.Factors]:
    """What was folded into a tensor."""
    path = tensor.path.removeprefix("params/").removesuffix("/kernel")
    return view.factors(proof.adapters, path, tensor.layer) if tensor.form == "kernel" else []


def _blocks(shape: Sequence[int], numbers: int) -> Iterator[slice]:
    """Slices of rows that have about so many numbers."""
    step = max(1, numbers // shape[1])
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays of one dtype and shape are the same bits."""
    first, second = (np.asarray(array, order="C").reshape(-1).view(f"u{array.itemsize}") for array in (left, right))
    return np.array_equal(first, second)


def _quantised(tensor: names.Tensor, meant: np.ndarray, stored: np.ndarray, kind: str) -> float:
    """How far the numbers of a quantised tensor are from what was meant.

    Raises:
      ValueError: further than the type explains.
    """
    wide = meant.astype(np.float32)
    error, peak = (np.abs(part).reshape(-1, gguf_quant.BLOCK).max(axis=-1) for part in (wide - stored, wide))
    if not bool((error <= peak * _STEPS[kind] + 1e-7).all()):
        raise _refused(tensor, float(error.max()))
    return float(error.max())


def _slack(kernel_OI: np.ndarray, parts: Sequence[merge.Factors]) -> np.ndarray:
    """How far two sums of W and the products in float32 may be apart: every sum and product is rounded once, whatever their order."""
    size_OI = np.abs(kernel_OI.astype(np.float32))
    for a_IR, b_RO, scale in parts:
        size_OI += np.abs(b_RO.T) @ np.abs(a_IR.T) * abs(scale)
    slack_OI: np.ndarray = (2 * sum(part.a_IR.shape[1] for part in parts) + 4) * 2.0**-24 * size_OI
    return slack_OI


def _is_nearest(stored: np.ndarray, exact: np.ndarray, slack: np.ndarray) -> bool:
    """Whether each stored number is the nearest of its dtype to a number that lies within `slack` of the exact one."""
    values = stored.astype(np.float32)
    power = (values.view(np.uint32) & 0x7F80_0000).view(np.float32)  # of two, at or below the number
    half_step = power * np.float32(2.0 ** -_BITS[stored.dtype.name])
    smallest = float(ml_dtypes.finfo(stored.dtype).smallest_subnormal)
    return bool((np.abs(values - exact) <= np.maximum(half_step, smallest) + slack).all())


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(np.float32) - right.astype(np.float32)).max())


def _refused(tensor: names.Tensor, distance: float) -> ValueError:
    return ValueError(f"{tensor.name} was written with other numbers than were meant (up to {distance:g} apart): nothing was kept")


def _logits(opened: source.Source, proof: Proof) -> dict[str, Any]:
    begun = time.monotonic()
    tokens_BT = streamed.prompts(proof.config.vocab_size)
    expected_BTV = streamed.logits(proof.base, tokens_BT, proof.adapters)
    found_BTV = streamed.logits(view.stored(opened), tokens_BT)
    found = distance(found_BTV, expected_BTV)
    tolerance = TOLERANCES[proof.dtype]
    if not found["max_abs"] <= tolerance * found["largest"]:
        raise ValueError(
            f"the logits of what was written are up to {found['max_abs']:.3g} from those of what was read, of which the largest is "
            f"{found['largest']:.3g}; {proof.dtype} allows {tolerance:g} of that: nothing was kept"
        )
    return {**found, "tolerance": tolerance, "prompts": list(tokens_BT.shape), "seconds": round(time.monotonic() - begun, 3)}


def distance(left_BTV: np.ndarray, right_BTV: np.ndarray) -> dict[str, float]:
    """How far two sets of logits are apart, beside the largest of them, and how often the likeliest token is the same."""
    return {
        "max_abs": float(np.abs(left_BTV - right_BTV).max()),
        "largest": float(np.abs(right_BTV).max()),
        "same_argmax": float((left_BTV.argmax(-1) == right_BTV.argmax(-1)).mean()),
    }
