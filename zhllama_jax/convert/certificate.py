"""What was proved of a model before it took its name: every tensor, read back, and logits where numbers were changed.

Tensors are read from the new files by the format's own reader and held against the source, read again and computed again on another way:
W + Σ scale · (B A) by XLA, where the writer took NumPy. Stored numbers must be the same bits; where a product of float32 falls so close to
the middle between two numbers that the two ways round it to neighbours, these are counted. Quantised numbers must lie within half a step
of their block, or a whole one where the format's range is uneven.
"""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zhllama_jax.convert import ahead, llama_hf, names, peft, source, streamed, view
from zhllama_jax.lora import merge
from zhllama_jax.model import config as config_lib

# How far logits may be from those of the source in float32, as a share of the largest: rounding of weights, over all layers.
TOLERANCES = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 0.25, "q8_0": 0.25, "q4_0": 1.0}

# Numbers in a block of a quantised tensor, and how far one may be from what was meant, as a share of the largest of its block.
_BLOCK = 32
_STEPS = {"q8_0": 0.51 / 127, "q4_0": 1.01 / 8}
_EPSILONS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_ROUNDED = 2.0**-10  # a block's scale is a float16
_PART = 1 << 17


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
    with source.Source(folder, as_found=True) as opened:
        found = _tensors(opened, proof)
        changed = bool(proof.adapters) or proof.source_dtypes != [proof.dtype]
        seconds = time.monotonic() - begun
        compared = _logits(opened, proof) if proof.logits and changed else None
    return {"dtype": proof.dtype, "tensors": found, "logits": compared, "seconds": round(seconds, 3)}


def _tensors(opened: source.Source, proof: Proof) -> dict[str, Any]:
    dtype = llama_hf.parse_dtype(proof.dtype if proof.dtype in llama_hf.DTYPES else "float32")
    rows_only = view.folded(proof.base, [adapter._replace(lora={}) for adapter in proof.adapters], dtype)
    equal = neighbours = 0
    largest = 0.0
    wanted = names.tensors(proof.config)[::-1]  # what was read and written last is in memory still, however large the model

    def compare(tensor: names.Tensor) -> tuple[int, float] | None:
        stored = opened.read(tensor.name)
        parts = _factors(proof, tensor)
        if not parts:
            meant = rows_only.read(tensor.name)
            return None if _same_bits(meant, stored) else _apart(tensor, meant, stored, proof)
        kernel_OI = proof.base.read(tensor.name)
        again = functools.partial(merge.folded_again, kernel_OI, parts, dtype)
        if stored.shape == kernel_OI.shape and all(_same_bits(meant_OI, stored[rows]) for rows, meant_OI in again()):
            return None
        return _apart(tensor, np.concatenate([meant_OI for _, meant_OI in again()]), stored, proof)

    with ahead.ahead(compare, wanted) as compared:
        for found in compared:
            if found is None:
                equal += 1
            else:
                neighbours, largest = neighbours + found[0], max(largest, found[1])
    return {"compared": len(wanted), "equal": equal, "neighbours": neighbours, "max_abs": largest}


def _factors(proof: Proof, tensor: names.Tensor) -> list[merge.Factors]:
    """What was folded into a tensor."""
    path = tensor.path.removeprefix("params/").removesuffix("/kernel")
    return view.factors(proof.adapters, path, tensor.layer) if tensor.form == "kernel" else []


def _apart(tensor: names.Tensor, meant: np.ndarray, stored: np.ndarray, proof: Proof) -> tuple[int, float]:
    """How many numbers of a tensor were rounded to neighbours, and how far two numbers are apart at the most.

    Raises:
      ValueError: further than the dtype explains.
    """
    first, second = meant.astype(np.float32), stored.astype(np.float32)
    distance = float(np.abs(first - second).max()) if first.shape == second.shape else float("inf")
    count = _beyond(first, second, meant, stored, proof.dtype)
    if count is None and tensor.form == "kernel" and meant.dtype == stored.dtype:
        count = _within_rounding(first, second, proof, tensor)
    if count is None:
        raise ValueError(f"{tensor.name} was written with other numbers than were meant (up to {distance:g} apart): nothing was kept")
    return count, distance


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two arrays are the same numbers of one dtype; looked at in parts that stay in a processor's cache."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    first, second = (np.asarray(array, order="C").reshape(-1).view(f"u{array.itemsize}") for array in (left, right))
    return all(np.array_equal(first[start : start + _PART], second[start : start + _PART]) for start in range(0, first.size, _PART))


def _beyond(first: np.ndarray, second: np.ndarray, meant: np.ndarray, stored: np.ndarray, dtype: str) -> int | None:
    """How many numbers of two tensors are neighbours and not equal; None if some are further apart."""
    if first.shape != second.shape:
        return None
    if meant.dtype == stored.dtype and dtype not in _STEPS:
        apart = np.abs(_ordinals(meant) - _ordinals(stored))
        return int((apart == 1).sum()) if apart.max() <= 1 else None
    if dtype in _STEPS and first.size % _BLOCK == 0 and first.shape[-1] % _BLOCK == 0:
        error, peak = (np.abs(part).reshape(-1, _BLOCK).max(axis=-1) for part in (first - second, first))
        return 0 if bool((error <= peak * (_STEPS[dtype] + _ROUNDED) + 1e-7).all()) else None
    if dtype in _STEPS:  # rows that no block divides are stored as float16
        return 0 if bool(np.allclose(first, second, rtol=2.0**-10, atol=1e-7)) else None
    return 0 if np.array_equal(first, second) else None  # one is stored in a wider dtype


def _within_rounding(first: np.ndarray, second: np.ndarray, proof: Proof, tensor: names.Tensor) -> int | None:
    """How many numbers of a folded kernel differ, if none by more than two orders of summation in float32 may, and one rounding each."""
    size_OI = np.abs(proof.base.read(tensor.name)).astype(np.float32)
    rank = 0
    for a_IR, b_RO, scale in _factors(proof, tensor):
        size_OI += np.abs(b_RO.T) @ np.abs(a_IR.T) * abs(scale)
        rank += a_IR.shape[1]
    if not rank:
        return None
    bound_OI = (2 * rank + 4) * 2.0**-24 * size_OI + np.abs(first) * 2 * _EPSILONS[proof.dtype]
    return int((first != second).sum()) if bool((np.abs(first - second) <= bound_OI).all()) else None


def _ordinals(values: np.ndarray) -> np.ndarray:
    """Floats as integers in their order, so that neighbours differ by one."""
    bits = np.ascontiguousarray(values).view(f"i{values.itemsize}").astype(np.int64)
    lowest = -(1 << (8 * values.itemsize - 1))
    return np.where(bits < 0, lowest - bits, bits)


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
