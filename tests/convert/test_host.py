"""A model in memory is the source's, cast where that is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax import tree
from zhllama_jax.convert import host, llama_hf, source
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


@pytest.fixture
def model(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> Path:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, history=[{"step": "train"}])
    return tmp_path / "m"


def test_everything_comes_along(model: Path, config: config_lib.LlamaConfig, params: Any) -> None:
    found = host.load(model, digest=True)
    assert (found.config, found.directory, found.notes) == (source.load_config(model), model, [])
    assert found.fingerprint == source.fingerprint(model) and found.history == [{"step": "train"}]
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(tree.flatten(found.params)[path], leaf, err_msg=path)


def test_another_dtype_and_several(model: Path) -> None:
    assert {leaf.dtype.name for leaf in tree.flatten(host.load(model, dtype="bfloat16").params).values()} == {"bfloat16"}
    (model / "zhllama.json").unlink()
    tensors = safetensors.numpy.load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    safetensors.numpy.save_file(tensors, model / "model.safetensors")
    mixed = host.load(model)
    assert {leaf.dtype.name for leaf in tree.flatten(mixed.params).values()} == {"float32"}
    assert mixed.notes == ["the weights are stored as float16, float32 and read as float32"]


def test_a_model_without_a_tokenizer_is_noted(model: Path) -> None:
    (model / "zhllama.json").unlink()
    for name in ("tokenizer.model", "tokenizer.json"):
        (model / name).unlink()
    assert host.load(model).notes == [f"{model} has no tokenizer"]
