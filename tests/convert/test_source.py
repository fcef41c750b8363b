"""A model is recognised by what is there, and what surrounds it comes along."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhllama_jax.convert import llama_hf, manifest, rewrite, source, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


@pytest.fixture(scope="module")
def model(config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source") / "model"
    llama_hf.save(directory, config=config, params=params, tokenizer=tokenizer, prompt=manifest.Prompt("alpaca"))
    return directory


@pytest.mark.parametrize("to", ["hf", "meta", "gguf"])
def test_every_format_is_recognised_and_says_the_same(
    model: Path, tmp_path: Path, to: source.Format, config: config_lib.LlamaConfig
) -> None:
    rewrite.run(model, tmp_path / "out", to=to)
    assert source.recognise(tmp_path / "out") == to
    assert source.load_config(tmp_path / "out") == source.load_config(model)
    assert source.load_prompt(tmp_path / "out") == manifest.Prompt("alpaca")
    found = source.load_tokenizer(tmp_path / "out")
    assert found is not None and found.encode("the sea is calm") == source.load_tokenizer(model).encode("the sea is calm")  # type: ignore[union-attr]
    with source.Source(model) as first, source.Source(tmp_path / "out") as second:
        assert second.format == to and second.dtypes == ["float32"]
        for name in first.reader.entries:
            np.testing.assert_array_equal(first.read(name), second.read(name))


def test_meta_finds_its_tokenizer_in_the_folder_above(model: Path, tmp_path: Path) -> None:
    rewrite.run(model, tmp_path / "7B", to="meta")
    shutil.move(tmp_path / "7B" / "tokenizer.model", tmp_path / "tokenizer.model")
    assert source.tokenizer_path(tmp_path / "7B") == tmp_path / "tokenizer.model"


def test_a_folder_of_several_gguf_files_asks_for_one(model: Path, tmp_path: Path) -> None:
    done = rewrite.run(model, tmp_path / "out", to="gguf")
    assert source.load_config(tmp_path / "out" / str(done.file)) == source.load_config(model)
    shutil.copy(tmp_path / "out" / str(done.file), tmp_path / "out" / "other.gguf")
    with pytest.raises(ValueError, match=r"holds several GGUF files: name one of other\.gguf, out-f32\.gguf"):
        source.load_config(tmp_path / "out")


def test_what_is_no_model_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent not found: expected a model: config\.json"):
        source.recognise(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        source.recognise(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        source.recognise(tmp_path)


@pytest.mark.parametrize("to", ["hf", "meta"])
def test_a_flipped_bit_is_found_as_it_is_read(model: Path, tmp_path: Path, to: source.Format) -> None:
    rewrite.run(model, tmp_path / "out", to=to)
    with source.Source(tmp_path / "out") as opened:
        [name] = [name for name in opened.reader.entries if name.endswith("layers.1.mlp.up_proj.weight")]
        file, needle = opened.reader.file(name), opened.read(name).tobytes()[:64]
    data = bytearray(file.read_bytes())
    data[data.index(needle)] ^= 1
    file.write_bytes(data)
    with source.Source(tmp_path / "out") as opened, pytest.raises(ValueError, match=r"up_proj|checksum|CRC"):
        opened.read(name)


def test_what_fails_to_open_leaves_no_file_open(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while the error is still held: a tokenizer that is none, which is read to tell the rows of an extension."""
    rewrite.run(model, tmp_path / "m", to="meta", logits=False)
    (tmp_path / "m" / manifest.FILE).unlink()
    (tmp_path / "m" / tokenizer_hf.MODEL).write_bytes(b"damaged")
    monkeypatch.setattr(config_lib, "LLAMA_VOCAB_SIZE", 100)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        try:
            source.Source(tmp_path / "m")
        finally:
            left = sorted(os.listdir("/proc/self/fd"))
    assert left == before


def test_rows_behind_llama_s_are_an_extension_where_nobody_said_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """As a released Chinese-LLaMA comes: a config.json without our key, and a tokenizer that begins with the original's pieces."""
    shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("zhllama.json"))
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    original = raw.pop("base_vocab_size")
    (tmp_path / "m" / "config.json").write_text(json.dumps(raw))
    assert source.load_config(tmp_path / "m").extension_rows == 0
    monkeypatch.setattr(config_lib, "LLAMA_VOCAB_SIZE", original)
    monkeypatch.setattr(tokenizer_hf, "begins_with_llama", lambda tokenizer: True)
    found = source.shape(tmp_path / "m")
    assert found.config.base_rows == original and "are taken for an extension" in found.notes[0]


def test_llama_s_pieces_are_known(shared_data: Path) -> None:
    names = ("llama_32000.model", "chinese_sp_20000.model")
    llama, chinese = (processor.Tokenizer.load(shared_data / "tokenizers" / name) for name in names)
    assert tokenizer_hf.begins_with_llama(llama)
    assert not tokenizer_hf.begins_with_llama(chinese)


def test_a_tied_model_may_hold_its_head_once_more(
    config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    tied = config.replace(tie_word_embeddings=True)
    llama_hf.save(tmp_path / "m", config=tied, params=make_params(tied), tokenizer=tokenizer)
    (tmp_path / "m" / "zhllama.json").unlink()
    tensors = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    safetensors.numpy.save_file(tensors, tmp_path / "m" / "model.safetensors")
    assert source.load_config(tmp_path / "m").tie_word_embeddings
    source.Source(tmp_path / "m").close()
    tensors["lm_head.weight"][0, 0] += 1
    safetensors.numpy.save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight is there although config\.json says tie_word_embeddings"):
        source.Source(tmp_path / "m")
