"""Any format in, any format out: the same model, and a certificate beside it, or nothing at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from zhllama_jax import tree
from zhllama_jax.convert import certificate, host, llama_hf, llama_meta, manifest, rewrite, source, verify, view
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


@pytest.fixture(scope="module")
def model(
    config: config_lib.LlamaConfig,
    make_params: Callable[..., Any],
    tokenizer: processor.Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bfloat16 model in Hugging Face's format."""
    directory = tmp_path_factory.mktemp("rewrite") / "model"
    params = make_params(config, dtype=ml_dtypes.bfloat16)
    llama_hf.save(directory, config=config, params=params, tokenizer=tokenizer, prompt=manifest.Prompt("alpaca", "faithful"))
    return directory


@pytest.mark.parametrize("shards", [1, 2])
def test_meta_and_back_is_the_same_model(model: Path, tmp_path: Path, shards: int) -> None:
    there = rewrite.run(model, tmp_path / "meta", to="meta", shards=shards)
    assert sorted(path.name for path in (tmp_path / "meta").glob("*.pth")) == [f"consolidated.0{number}.pth" for number in range(shards)]
    assert there.certificate["tensors"]["equal"] == there.certificate["tensors"]["compared"] == 21
    assert there.certificate["logits"] is None, "no number was changed"
    assert manifest.verify(tmp_path / "meta") == []
    rewrite.run(tmp_path / "meta", tmp_path / "back")
    assert source.fingerprint(tmp_path / "back") == source.fingerprint(tmp_path / "meta") == source.fingerprint(model)
    first, second = source.load_config(model), source.load_config(tmp_path / "back")
    assert first == second, "the split into base and extension too"
    assert source.load_prompt(tmp_path / "back") == source.load_prompt(model)
    assert [step.get("to") for step in host.load(tmp_path / "back").history] == ["meta", "hf"]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_tied_head_is_stored_by_itself_where_the_format_has_none(
    config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer, tmp_path: Path, shards: int
) -> None:
    shape = config.replace(tie_word_embeddings=True)
    llama_hf.save(tmp_path / "tied", config=shape, params=make_params(shape), tokenizer=tokenizer)
    done = rewrite.run(tmp_path / "tied", tmp_path / "meta", to="meta", shards=shards)
    assert "Meta's format has no tied heads: the head is stored by itself, equal to the embedding" in done.notes
    assert done.certificate["tensors"]["equal"] == done.certificate["tensors"]["compared"] == 21
    assert manifest.verify(tmp_path / "meta") == []
    rewrite.run(tmp_path / "meta", tmp_path / "back")
    assert not source.load_config(tmp_path / "back").tie_word_embeddings
    found = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    np.testing.assert_array_equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    for name, value in safetensors.numpy.load_file(tmp_path / "tied" / "model.safetensors").items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0", "q4_0"])
def test_gguf_holds_the_model_as_far_as_its_type_can(model: Path, tmp_path: Path, dtype: str) -> None:
    done = rewrite.run(model, tmp_path / "gguf", to="gguf", dtype=dtype)
    assert done.file == f"gguf-{dict(float32='f32', float16='f16', bfloat16='bf16').get(dtype, dtype)}.gguf"
    assert {"Modelfile", "certificate.json", "zhllama.json", "README.md"} <= {path.name for path in (tmp_path / "gguf").iterdir()}
    assert manifest.verify(tmp_path / "gguf") == []
    logits = done.certificate["logits"]
    assert (logits is None) == (dtype == "bfloat16")
    report = verify.compare(model, tmp_path / "gguf" / str(done.file), logits=True)
    assert report["tokenizer"] == "equal"
    assert report["logits"]["max_abs"] <= {"float32": 0, "bfloat16": 0, "float16": 2e-3, "q8_0": 0.1, "q4_0": 2.0}[dtype]
    if dtype in ("float32", "bfloat16"):
        assert all(entry["max_abs"] == 0 for entry in report["tensors"]["differing"])
    assert source.load_prompt(tmp_path / "gguf") == source.load_prompt(model)


def test_a_file_of_llama_cpp_goes_back_in_the_dtype_of_its_matrices(
    config: config_lib.LlamaConfig, make_params: Callable[..., Any], padded_tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    """With a padding piece, which GGUF calls a control piece; norms are float32 there."""
    larger = config.replace(vocab_size=padded_tokenizer.vocab_size)
    llama_hf.save(tmp_path / "m", config=larger, params=make_params(larger), tokenizer=padded_tokenizer, dtype="float16")
    rewrite.run(tmp_path / "m", tmp_path / "gguf", to="gguf")
    report = verify.compare(tmp_path / "m", tmp_path / "gguf")
    tensors = report["tensors"]
    assert report["tokenizer"] == "equal" and tensors["wider"] == 5 and tensors["equal"] + 5 == tensors["compared"]
    rewrite.run(tmp_path / "gguf", tmp_path / "back")
    assert source.fingerprint(tmp_path / "back") == source.fingerprint(tmp_path / "m")
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == padded_tokenizer.serialized
    rewrite.run(tmp_path / "m", tmp_path / "meta", to="meta")
    assert verify.compare(tmp_path / "m", tmp_path / "meta")["config"] == {}


def test_pytorch_weights_are_read(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors", "zhllama.json"))
    with source.Source(model) as opened:
        tensors = {name: torch.tensor(opened.read(name).astype(np.float32)).to(torch.bfloat16) for name in opened.reader.entries}
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    rewrite.run(tmp_path / "bin", tmp_path / "out")
    assert source.fingerprint(tmp_path / "out") == source.fingerprint(tmp_path / "bin") == source.fingerprint(model)


def test_rounding_is_certified_by_logits(model: Path, tmp_path: Path) -> None:
    done = rewrite.run(model, tmp_path / "out", dtype="float16")
    found = done.certificate["logits"]
    assert 0 < found["max_abs"] <= found["tolerance"] * found["largest"] and found["prompts"] == [2, 32]
    assert json.loads((tmp_path / "out" / "certificate.json").read_text()) == done.certificate
    assert rewrite.run(model, tmp_path / "quick", dtype="float16", logits=False).certificate["logits"] is None


def test_padding_rows_are_zero_and_belong_to_no_piece(model: Path, tmp_path: Path, config: config_lib.LlamaConfig) -> None:
    done = rewrite.run(model, tmp_path / "out", pad_vocab_multiple=64)
    padded = source.load_config(tmp_path / "out")
    assert padded.vocab_size % 64 == 0 and 0 < padded.vocab_size - config.vocab_size < 64
    with source.Source(tmp_path / "out") as opened:
        for name in view.MATRICES:
            assert not opened.read(name)[config.vocab_size :].any()
    assert not done.same_numbers
    assert rewrite.run(model, tmp_path / "same", pad_vocab_multiple=1).same_numbers


def test_a_failed_proof_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = llama_meta.write

    def wrong(folder: Path, tensors: Any, **rest: Any) -> Any:
        """A writer that swaps two tensors of one shape."""
        swap = {"model.layers.0.self_attn.k_proj.weight": "model.layers.0.self_attn.v_proj.weight"}
        kept = dict(tensors)
        both = {**swap, **{value: key for key, value in swap.items()}}
        return write(folder, ((name, kept[both.get(name, name)]) for name in kept), **rest)

    monkeypatch.setattr(llama_meta, "write", wrong)
    with pytest.raises(ValueError, match=r"[kv]_proj\.weight was written with other numbers than were meant"):
        rewrite.run(model, tmp_path / "out", to="meta")
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_another_model_s_are_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "TOLERANCES", dict.fromkeys(certificate.TOLERANCES, 1e-9))
    with pytest.raises(ValueError, match="the logits of what was written are up to"):
        rewrite.run(model, tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype must be one of float32, float16, bfloat16 for Hugging Face, got 'q8_0'"):
        rewrite.run(model, tmp_path / "out", dtype="q8_0")
    with pytest.raises(ValueError, match="3 files cannot share 4 heads"):
        rewrite.run(model, tmp_path / "out", to="meta", shards=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [{"dtype": "float16"}, {"to": "gguf", "dtype": "q8_0"}])
def test_a_few_tensors_are_in_memory(
    tmp_path: Path, tokenizer: processor.Tokenizer, make_params: Callable[..., Any], how: dict[str, Any]
) -> None:
    """Peak of NumPy's memory: a few of the largest tensor, of which the model has dozens."""
    import tracemalloc

    shape = config_lib.named("micro", vocab_size=tokenizer.vocab_size, num_hidden_layers=12, hidden_size=128, intermediate_size=512)
    params = make_params(shape)
    total = sum(leaf.nbytes for leaf in tree.flatten(params).values())
    largest = 4 * 128 * 512
    llama_hf.save(tmp_path / "m", config=shape, params=params, tokenizer=tokenizer)
    del params
    tracemalloc.start()
    try:
        rewrite.run(tmp_path / "m", tmp_path / "out", logits=False, **how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * largest + 3_000_000 < total, f"{peak / largest:.1f} times the largest"
