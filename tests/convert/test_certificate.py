"""The certificate finds what is wrong in tensors and logits, and counts what two ways round to neighbours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zhllama_jax.convert import certificate, llama_hf, view
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


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_neighbours_are_told_from_others(dtype: Any) -> None:
    values = np.array([1.0, -1.0, 0.0, 3.5], dtype)
    bits = values.view(f"i{values.itemsize}").copy()
    bits[[0, 1]] += 1  # away from zero by one step
    near = bits.view(dtype)
    name = {2: "bfloat16", 4: "float32"}[values.itemsize]
    both = values.astype(np.float32), near.astype(np.float32)
    assert certificate._beyond(*both, values, near, name) == 2
    bits[3] += 2
    far = bits.view(dtype)
    assert certificate._beyond(values.astype(np.float32), far.astype(np.float32), values, far, name) is None
    zeros = np.array([0.0, -0.0], dtype)
    assert certificate._ordinals(zeros)[0] - certificate._ordinals(zeros)[1] <= 1
