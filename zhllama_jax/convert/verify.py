"""Are two model directories the same model? And is one the same model in transformers?

Tensors are compared one pair at a time, logits on a fixed set of prompts. A report is a dict of JSON values: what was compared, what
differs, by how much, and, where it can be told, why.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhllama_jax.convert import certificate, names, readers, safetensors_io, source, streamed, tokenizer_hf, view
from zhllama_jax.tokenizer import processor, proto

TOLERANCE = 1e-3
"""How far logits of the same model may be apart, both computed in float32, as a share of the largest."""

_WIDER = "the same numbers in another dtype"

MISSING = "the comparison with transformers needs the libraries transformers and torch: pip install torch transformers (the extra `verify`)"


def compare(left: str | Path, right: str | Path, *, logits: bool = False) -> dict[str, Any]:
    """Holds two models against each other.

    Args:
      left: a model directory.
      right: another one.
      logits: also compare logits, computed here in float32, on random prompts that are always the same.

    Returns:
      {"left", "right", "equal", "config": {field: [left, right]}, "tokenizer": "equal" | "differs (…)" | …, "tensors": {"compared",
      "equal", "wider", "only_left", "only_right", "differing": [{"name", "left", "right", "max_abs", "cosine", "why", "grown"}],
      "max_abs"}, "grown", "logits"}. `equal` is about the tensors: all there, bit for bit; `wider` counts those that have the same numbers
      in another dtype. `grown` is {"smaller", "larger", "rows"} where one has rows of the vocabulary more and is bit for bit the other
      besides, and null elsewhere.

    Raises:
      FileNotFoundError, ValueError: a directory is not a model that `host.load` would read.
    """
    with source.Source(left, as_found=True, once=True) as first, source.Source(right, as_found=True, once=True) as second:
        configs = [first.config, second.config]
        fields = [dataclasses.asdict(config) for config in configs]
        tensors = _compare_tensors(first.reader, second.reader)
        found = _compare_logits(first, second) if logits else None
    report = {
        "left": str(left),
        "right": str(right),
        "equal": not (tensors["only_left"] or tensors["only_right"] or tensors["differing"]),
        "config": {name: [value, fields[1][name]] for name, value in fields[0].items() if value != fields[1][name]},
        "tokenizer": _compare_tokenizers(left, right),
        "tensors": tensors,
        "grown": _grown(tensors, left, right),
    }
    if found is not None:
        report["logits"] = found
    return report


def against_transformers(directory: str | Path, *, texts: Sequence[str] = ()) -> dict[str, Any] | None:
    """Compares a directory's logits, and its tokenizer's ids on some texts, here and in transformers; None where that is not installed.

    Returns:
      {"logits": {"max_abs", "largest", "same_argmax"}, "texts", "texts_with_other_ids"}; both sides compute in float32.
    """
    try:
        import torch
        import transformers
    except ImportError:
        return None
    with source.Source(directory, as_found=True) as opened:
        tokens_BT = streamed.prompts(opened.config.vocab_size)
        ours_BTV = streamed.logits(view.stored(opened), tokens_BT)
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    finally:
        if shown:
            bars.enable_progress_bar()
    with torch.no_grad():
        theirs_BTV = model(torch.tensor(tokens_BT)).logits.numpy()
    report: dict[str, Any] = {"logits": certificate.distance(ours_BTV, theirs_BTV)}
    if texts:
        tokenizer = processor.Tokenizer.load(directory)
        found = transformers.AutoTokenizer.from_pretrained(directory)(list(texts))["input_ids"]
        expected = tokenizer.encode_batch(texts, bos=True)
        report["texts"] = len(texts)
        report["texts_with_other_ids"] = sum(one != other for one, other in zip(expected, found, strict=True))
    return report


def installed() -> bool:
    """Whether a comparison with transformers is possible here."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def agrees(logits: Mapping[str, float]) -> bool:
    """Whether logits, compared in float32, are those of one model: within `TOLERANCE`, and numbers."""
    return bool(logits["max_abs"] <= TOLERANCE * logits["largest"])


def _compare_logits(first: source.Source, second: source.Source) -> dict[str, float]:
    shared = min(first.config.vocab_size, second.config.vocab_size)
    tokens_BT = streamed.prompts(shared)
    left_BTV, right_BTV = (streamed.logits(view.stored(opened), tokens_BT)[..., :shared] for opened in (first, second))
    return certificate.distance(left_BTV, right_BTV)


def _compare_tensors(left: readers.Watched, right: readers.Watched) -> dict[str, Any]:
    counted = [[name for name in reader.entries if not names.IGNORED.fullmatch(name)] for reader in (left, right)]
    both = [name for name in counted[0] if name in right.entries]
    found = [_compare_pair(name, left.read(name), right.read(name)) for name in both]
    differing = [entry for entry in found if entry is not None]
    return {
        "compared": len(both),
        "equal": len(both) - len(differing),
        "only_left": [name for name in counted[0] if name not in right.entries],
        "only_right": [name for name in counted[1] if name not in left.entries],
        "wider": sum(entry["why"] == _WIDER for entry in differing),
        "max_abs": max((entry["max_abs"] for entry in differing if entry["max_abs"] is not None), default=0.0),
        "differing": differing,
    }


def _grown(tensors: dict[str, Any], left: str | Path, right: str | Path) -> dict[str, Any] | None:
    """Which of two models is the other with more rows, if that is all that their tensors differ in."""
    differing = tensors["differing"]
    if not differing or tensors["only_left"] or tensors["only_right"] or not all(entry["grown"] for entry in differing):
        return None
    more = {entry["right"]["shape"][0] - entry["left"]["shape"][0] for entry in differing}
    if len(more) > 1:
        return None
    rows = more.pop()
    smaller, larger = (left, right) if rows > 0 else (right, left)
    return {"smaller": str(smaller), "larger": str(larger), "rows": abs(rows)}


def _compare_pair(name: str, left: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    """What differs in one tensor; None for the same bits."""
    described = [safetensors_io.describe(array) for array in (left, right)]
    if described[0] == described[1]:
        return None
    entry: dict[str, Any] = {"name": name, "grown": False}
    entry |= {side: {key: said[key] for key in ("dtype", "shape")} for side, said in zip(("left", "right"), described, strict=True)}
    why = ""
    if left.shape != right.shape:
        known = names.find(name)
        if known is None or known[2] != "rows" or left.shape[1:] != right.shape[1:]:
            return entry | {"max_abs": None, "cosine": None, "why": "other shape"}
        rows = min(len(left), len(right))
        more = abs(len(left) - len(right))
        why = f"the {'left' if len(left) > rows else 'right'} one has {more:,} row{'s' * (more > 1)} more; of the first {rows:,}: "
        left, right = left[:rows], right[:rows]
        entry["grown"] = safetensors_io.describe(left) == safetensors_io.describe(right)
    first, second = left.astype(np.float32), right.astype(np.float32)
    distance = np.abs(first - second)
    norm = float(np.linalg.norm(first.ravel().astype(np.float64)) * np.linalg.norm(second.ravel().astype(np.float64)))
    entry["max_abs"] = float(distance.max())
    entry["cosine"] = float(np.vdot(first.astype(np.float64), second.astype(np.float64)) / norm) if norm else None
    return entry | {"why": why + _reason(left, right, distance)}


def _reason(left: np.ndarray, right: np.ndarray, distance: np.ndarray) -> str:
    if not distance.any():
        return "the same numbers" if left.dtype == right.dtype else _WIDER
    if left.dtype != right.dtype:
        for wide, narrow in ((left, right), (right, left)):
            with np.errstate(over="ignore"):
                rounded = wide.astype(narrow.dtype)
            if np.array_equal(rounded, narrow):
                return f"the same numbers, rounded to {safetensors_io.dtype_name(narrow.dtype)}"
    if distance.ndim == 2:
        changed = np.flatnonzero(distance.any(axis=1))
        if len(changed) < len(distance):
            return f"{len(changed):,} of {len(distance):,} rows differ, from {changed[0]:,} to {changed[-1]:,}"
    return "other numbers"


def _compare_tokenizers(left: str | Path, right: str | Path) -> str:
    found = [source.load_tokenizer(path) for path in (left, right)]
    missing = [str(path) for path, tokenizer in zip((left, right), found, strict=True) if tokenizer is None]
    if missing:
        return f"{' and '.join(missing)} without {tokenizer_hf.MODEL}"
    first, second = found
    assert first is not None and second is not None, "looked at above"
    if first.serialized == second.serialized:
        return "equal"
    if "gguf" in (source.recognise(left), source.recognise(right)) and first.same_pieces(second):
        return "equal"  # a GGUF file holds the pieces, not the file that they came in
    pieces = [[(piece.piece, piece.score, piece.type) for piece in proto.parse(one.serialized).pieces] for one in (first, second)]
    if len(pieces[0]) != len(pieces[1]):
        return f"differs ({len(pieces[0]):,} and {len(pieces[1]):,} pieces)"
    other = next((id_ for id_, (one, another) in enumerate(zip(*pieces, strict=True)) if one != another), None)
    return "differs (in settings)" if other is None else f"differs (from id {other:,} on)"
