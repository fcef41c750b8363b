"""The certificate finds what is wrong in tensors and logits, and counts what two ways round to neighbours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.reference import released_adapters
from zhllama_jax.convert import certificate, llama_hf, rewrite, view
from zhllama_jax.lora import merge
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


def written(folder: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, dtype: str = "bfloat16") -> Path:
    llama_hf.save(folder, config=config, params=params, tokenizer=tokenizer, dtype=dtype)
    return folder


def proof(config: config_lib.LlamaConfig, params: Any, dtype: str = "bfloat16", logits: bool = True) -> certificate.Proof:
    return certificate.Proof(view.held(config, params), (), config, dtype, ["float32"], logits)


def test_what_was_meant_is_proved(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    found = certificate.certify(written(tmp_path / "m", config, params, tokenizer), proof(config, params))
    assert found["tensors"] == {"compared": 21, "equal": 21, "neighbours": 0, "max_abs": 0.0}
    assert found["logits"]["max_abs"] > 0 and found["logits"]["seconds"] >= 0
    json.dumps(found)


def test_one_other_number_is_found(
    config: config_lib.LlamaConfig, params: Any, make_params: Callable[..., Any], tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    other = make_params(config)
    other["layers"]["mlp"]["up_proj"]["kernel"][1, 3, 5] *= 1.1
    folder = written(tmp_path / "m", config, other, tokenizer)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight was written with other numbers than were meant"):
        certificate.certify(folder, proof(config, params))


def test_another_model_s_logits_are_found(
    config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    """The same tensors under another configuration: only the logits show it."""
    turned = config.replace(rope_theta=100.0)
    folder = written(tmp_path / "m", turned, params, tokenizer, dtype="float32")
    meant = certificate.Proof(view.held(config, params), (), config, "float32", ["bfloat16"], True)
    with pytest.raises(ValueError, match="the logits of what was written are up to"):
        certificate.certify(folder, meant)


def truncated(values: Any) -> np.ndarray:
    """Float32 cut to bfloat16 where it should be rounded."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)


def test_cutting_is_not_rounding(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", config, jax.tree.map(truncated, params), tokenizer)
    with pytest.raises(ValueError, match="was written with other numbers than were meant"):
        certificate.certify(folder, proof(config, params, logits=False))


def test_a_copy_has_no_neighbours(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    """One number that is off by the last of its bits, in a tensor that nothing was folded into."""
    other = jax.tree.map(np.array, params)
    numbers = other["layers"]["mlp"]["up_proj"]["kernel"]
    numbers[1, 3, 5] = np.nextafter(numbers[1, 3, 5], np.float32(9))
    folder = written(tmp_path / "m", config, other, tokenizer, dtype="float32")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight was written with other numbers"):
        certificate.certify(folder, proof(config, params, "float32", logits=False))


@pytest.fixture
def merged(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Merges an adapter into a bfloat16 model and returns the certificate."""
    base = written(tmp_path / "base", config, params, tokenizer)
    factors = {name: value for name, value in released_adapters.tensors(config).items() if "lora_" in name}
    adapter = released_adapters.write(tmp_path / "adapter", factors, modules_to_save=None)
    shutil.copy(base / "tokenizer.model", adapter)

    def run(**how: Any) -> dict[str, Any]:
        done = rewrite.run(base, tmp_path / "out", adapters=[adapter], logits=False, overwrite=True, **how)
        return dict(done.certificate)["tensors"]

    return run


def test_another_order_of_summation_is_told_from_another_number(
    merged: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed(round_: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        def folded(kernel_OI: np.ndarray, parts: Any, dtype: Any) -> np.ndarray:
            products = sum((b_RO.T.astype(np.float64) @ a_IR.T) * scale for a_IR, b_RO, scale in parts)
            return round_((kernel_OI.astype(np.float64) + products).astype(np.float32))

        return folded

    assert merged()["equal"] == 21
    monkeypatch.setattr(merge, "folded", summed(lambda values: values.astype(ml_dtypes.bfloat16)))
    found = merged()
    assert found["equal"] + found["neighbours"] >= 21 and found["neighbours"] < 100
    monkeypatch.setattr(merge, "folded", summed(truncated))
    with pytest.raises(ValueError, match="was written with other numbers than were meant"):
        merged()


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_an_adapter_that_was_left_out_is_found(merged: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    assert merged(to="gguf", dtype=dtype)["max_abs"] > 0
    monkeypatch.setattr(merge, "folded", lambda kernel_OI, parts, dtype: kernel_OI.astype(dtype))
    with pytest.raises(ValueError, match=r"_proj\.weight was written with other numbers than were meant"):
        merged(to="gguf", dtype=dtype)


def test_what_a_quantised_model_stores_plainly_is_held_to_its_bits(
    config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    base = written(tmp_path / "base", config, params, tokenizer, dtype="float32")
    rewrite.run(base, tmp_path / "out", to="gguf", dtype="q4_0", logits=False)
    certificate.certify(tmp_path / "out", proof(config, params, "q4_0", logits=False))
    other = {**params, "norm": {"weight": params["norm"]["weight"] * np.float32(1.004)}}
    with pytest.raises(ValueError, match=r"model\.norm\.weight was written with other numbers"):
        certificate.certify(tmp_path / "out", proof(config, other, "q4_0", logits=False))


def test_numbers_are_nearest_or_not() -> None:
    exact = np.array([1.0 + 2.0**-8, 1.0 + 2.0**-8, 3.1, -3.1], np.float32)
    slack = np.full(4, 1e-7, np.float32)
    either = np.array([1.0, 1.0 + 2.0**-7, 3.1, -3.1], ml_dtypes.bfloat16)  # the middle goes both ways
    assert certificate._is_nearest(either, exact, slack)
    assert not certificate._is_nearest(truncated([1 + 1.75 * 2.0**-7]), np.array([1 + 1.75 * 2.0**-7], np.float32), slack[:1])
    assert not certificate._is_nearest(np.array([1.0 + 2.0**-9], np.float16), np.array([1.0], np.float32), slack[:1])
    assert certificate._is_nearest(np.array([2.0**-24], np.float16), np.array([2.0**-25], np.float32), slack[:1])
