"""Model directories: in and out unchanged, equal to transformers, refused clearly."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests.reference import transformers_llama
from zhllama_jax import tree
from zhllama_jax.convert import host, llama_hf, manifest, safetensors_io, source
from zhllama_jax.decode import config as decode_config
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

ORIGINAL = {"original_max_position_embeddings": 16}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def assert_equal_trees(left: Any, right: Any) -> None:
    left, right = tree.flatten(left), tree.flatten(right)
    assert left.keys() == right.keys()
    for path in left:
        assert left[path].dtype == right[path].dtype, path
        np.testing.assert_array_equal(np.asarray(left[path], np.float32), np.asarray(right[path], np.float32), err_msg=path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_keeps_every_bit(
    tmp_path: Path, config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer, dtype: str, tied: bool
) -> None:
    config = config.replace(tie_word_embeddings=tied)
    params = make_params(config, dtype=DTYPES[dtype])
    prompt = manifest.Prompt("alpaca", "faithful")
    history = [{"step": "resize", "init": "mean"}]
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, prompt=prompt, history=history, shard_bytes=9_000)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 3
    loaded = host.load(tmp_path / "m")
    assert (loaded.config, loaded.prompt, loaded.history, loaded.notes) == (config, prompt, history, [])
    assert loaded.generation | llama_hf.PAPER_GENERATION == loaded.generation
    assert_equal_trees(loaded.params, params)
    assert manifest.verify(tmp_path / "m") == []
    assert source.load_config(tmp_path / "m") == config
    assert source.load_prompt(tmp_path / "m") == prompt
    assert processor.Tokenizer.load(tmp_path / "m").sha256 == tokenizer.sha256
    page = (tmp_path / "m" / "README.md").read_text()
    assert "1. resize: init mean" in page
    assert f"{config.base_rows:,} and 40 new ones" in page


def test_arrays_on_devices_are_saved_alike(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    first = llama_hf.save(tmp_path / "a", config=config, params=params, tokenizer=tokenizer)
    second = llama_hf.save(tmp_path / "b", config=config, params=jax.tree.map(jnp.asarray, params), tokenizer=tokenizer)
    assert first["fingerprint"] == second["fingerprint"]
    assert first["files"]["model.safetensors"] == second["files"]["model.safetensors"]


def test_paper_values_are_those_of_decode() -> None:
    paper, sampling = llama_hf.PAPER_GENERATION, decode_config.Sampling()
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert paper[name] == getattr(sampling, name)
    assert paper["max_new_tokens"] == decode_config.Generation().max_new_tokens


def test_decoding_values_are_kept(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: Any) -> None:
    silent = {"_from_model_config": True, "transformers_version": "5.0", "max_length": 100}
    llama_hf.save(tmp_path / "a", config=config, params=params, tokenizer=tokenizer, generation=silent)
    assert host.load(tmp_path / "a").generation == {
        "max_length": 100,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    llama_hf.save(tmp_path / "b", config=config, params=params, tokenizer=tokenizer, generation={"temperature": 0.7})
    kept = {"temperature": 0.7, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    assert host.load(tmp_path / "b").generation == llama_hf.load_generation(tmp_path / "b") == kept
    assert llama_hf.with_sampling({"temperature": 0.7}) == {"temperature": 0.7}
    assert llama_hf.with_sampling({"max_length": 100}) == {"max_length": 100, **llama_hf.PAPER_GENERATION}
    (tmp_path / "b" / llama_hf.GENERATION).write_text("[]")
    with pytest.raises(ValueError, match="holds no object"):
        host.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("given", "kept"), [([2, 7], [2, 7]), ([7, 2], [7, 2]), ([2], 2), ([7, 8], 2), ([2, 99_999], 2), ([2, "x", True], 2), (7, 2)]
)
def test_several_ends_of_a_text_are_kept_with_the_tokenizer_s(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: Any, given: object, kept: object
) -> None:
    generation = {"temperature": 0.7, "eos_token_id": given}
    llama_hf.save(tmp_path / "a", config=config, params=params, tokenizer=tokenizer, generation=generation)
    assert host.load(tmp_path / "a").generation["eos_token_id"] == kept


HF_CONFIGS = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {"num_key_value_heads": 2},
    "tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "theta": {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-5},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 16},
    **{  # at 23 tokens, past the original 16
        name: {"max_position_embeddings": length, "rope_parameters": {"rope_theta": 100.0, **parameters}, "num_key_value_heads": 2}
        for name, length, parameters in (
            ("linear", 16, {"rope_type": "linear", "factor": 4.0}),
            ("dynamic", 16, {"rope_type": "dynamic", "factor": 4.0}),
            ("llama 3", 64, {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0, **ORIGINAL}),
            ("yarn", 64, {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.2, **ORIGINAL}),
        )
    },
}


@pytest.mark.parametrize("name", ["linear", "dynamic", "llama3", "yarn, all set"])
def test_neutral_keys_and_rope_scaling_go_through_a_directory(
    tmp_path: Path, make_params: Callable[..., Any], config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer, name: str
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kept = {"pretraining_tp": 2, "initializer_range": 0.01, "max_sequence_length": 77}
    scaled = transformers_llama.scaled(config, name)
    llama_hf.save(tmp_path / "m", config=scaled, params=make_params(scaled), tokenizer=tokenizer, kept=kept)
    checkpoint = host.load(tmp_path / "m")
    assert checkpoint.config == scaled
    assert dict(checkpoint.kept) == {**kept, "attention_dropout": 0.0, "use_cache": True}
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m")
    assert theirs.config.initializer_range == 0.01
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens_BT)).logits.numpy()
    np.testing.assert_allclose(our_logits(checkpoint, tokens_BT), expected, atol=2e-5)


def test_unknown_keys_need_leave(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer) -> None:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "frobnicate": 1}))
    (tmp_path / "m" / manifest.FILE).unlink()
    for read in (host.load, source.load_config, llama_hf.read_config):
        with pytest.raises(ValueError, match=r"frobnicate is unknown .*--allow_unknown_keys"):
            read(tmp_path / "m")
    found = host.load(tmp_path / "m", allow_unknown=True)
    assert found.config == config and len(found.notes) == 1 and "frobnicate" in found.notes[0]
    llama_hf.save(tmp_path / "n", config=config, params=found.params, tokenizer=tokenizer, kept=found.kept)
    assert host.load(tmp_path / "n").notes == []


def random_hf(torch: Any, transformers: Any, seed: int, **changes: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 301, "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **changes)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value += 0.2 * torch.randn_like(value) if "norm" in name else 0.1 * torch.randn_like(value)
    return model


def our_logits(checkpoint: host.Checkpoint, tokens_BT: Any) -> np.ndarray:
    @jax.jit
    def forward(params: Any, tokens_BT: Any) -> Any:
        x_BTD, _ = llama.hidden_states(checkpoint.config, {"params": params}, tokens_BT)
        return llama.logits(checkpoint.config, params, x_BTD)

    return np.asarray(forward(checkpoint.params, jnp.asarray(tokens_BT, jnp.int32)))


@pytest.mark.parametrize("name", HF_CONFIGS)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = random_hf(torch, transformers, 0, **HF_CONFIGS[name])
    theirs.save_pretrained(tmp_path)
    tokens_BT = np.random.default_rng(0).integers(0, 301, (2, 23))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens_BT)).logits.numpy()
    checkpoint = host.load(tmp_path)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(our_logits(checkpoint, tokens_BT), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back_through_transformers(
    tmp_path: Path, padded_tokenizer: processor.Tokenizer, make_params: Callable[..., Any], dtype: str, tied: bool
) -> None:
    """Theirs -> ours -> theirs, bit for bit; the last step from a directory of ours, with `Auto` classes and without warnings."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    size = padded_tokenizer.vocab_size
    theirs = random_hf(torch, transformers, 1, num_key_value_heads=2, tie_word_embeddings=tied)
    theirs.resize_token_embeddings(size)
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    checkpoint = host.load(tmp_path / "theirs")
    llama_hf.save(tmp_path / "ours", config=checkpoint.config, params=checkpoint.params, tokenizer=padded_tokenizer, shard_bytes=20_000)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert str(back.dtype) == f"torch.{dtype}"
    assert back.config.pad_token_id == size - 1
    assert back.generation_config.repetition_penalty == 1.3
    expected, found = theirs.state_dict(), back.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert source.fingerprint(tmp_path / "theirs") == source.fingerprint(tmp_path / "ours")


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_dtypes_are_cast_as_torch_does(tmp_path: Path, source: str, target: str) -> None:
    torch = pytest.importorskip("torch")
    numbers = torch.randn(2000, generator=torch.Generator().manual_seed(0)).to(getattr(torch, source))
    ours = numbers.float().numpy().astype(DTYPES[source])
    expected = numbers.to(getattr(torch, target)).float().numpy()
    found = llama_hf.cast("x", ours, llama_hf.parse_dtype(target))
    assert found.dtype == DTYPES[target]
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_numbers_beyond_float16_are_refused() -> None:
    with pytest.raises(ValueError, match=r"w holds numbers up to 70000, beyond float16's 65504"):
        llama_hf.cast("w", np.array([1.0, -7e4], np.float32), np.dtype(np.float16))


def test_load_casts_on_demand(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer) -> None:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, dtype="bfloat16")
    leaves = tree.flatten(host.load(tmp_path / "m", dtype="float32").params)
    for path, leaf in tree.flatten(params).items():
        assert leaves[path].dtype == np.float32
        np.testing.assert_array_equal(leaves[path], leaf.astype(ml_dtypes.bfloat16).astype(np.float32))
    with pytest.raises(ValueError, match="dtype must be one of"):
        host.load(tmp_path / "m", dtype="float8")


def test_mixed_dtypes_are_read_as_float32_and_not_written_unasked(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    path = tmp_path / "m" / safetensors_io.SINGLE
    tensors = safetensors.numpy.load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].astype(np.float16)
    safetensors.numpy.save_file(tensors, path)
    (tmp_path / "m" / manifest.FILE).unlink()
    loaded = host.load(tmp_path / "m")
    assert {leaf.dtype for leaf in tree.flatten(loaded.params).values()} == {np.dtype(np.float32)}
    assert "read as float32" in loaded.notes[0]
    mixed = {**params, "norm": {"weight": params["norm"]["weight"].astype(np.float16)}}
    with pytest.raises(ValueError, match="several dtypes"):
        llama_hf.save(tmp_path / "n", config=config, params=mixed, tokenizer=tokenizer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_none_are_refused_by_name(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, dtype: str
) -> None:
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, dtype=dtype)
    (tmp_path / "m" / manifest.FILE).unlink()
    path = tmp_path / "m" / safetensors_io.SINGLE
    tensors = safetensors.numpy.load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][2, 3], tensors[name][4, 5] = np.nan, np.inf
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: {re.escape(name)} holds 2 of 2,816 numbers that are NaN or infinite"):
        host.load(tmp_path / "m")
    assert host.load(tmp_path / "m", as_found=True).config == config


def test_tied_head_may_be_stored_if_it_is_equal(
    tmp_path: Path, config: config_lib.LlamaConfig, make_params: Callable[..., Any], tokenizer: processor.Tokenizer
) -> None:
    config = config.replace(tie_word_embeddings=True)
    llama_hf.save(tmp_path / "m", config=config, params=make_params(config), tokenizer=tokenizer)
    path = tmp_path / "m" / safetensors_io.SINGLE
    tensors = safetensors.numpy.load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    safetensors.numpy.save_file(tensors, path)
    (tmp_path / "m" / manifest.FILE).unlink()
    assert "lm_head" not in host.load(tmp_path / "m").params
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lm_head\.weight is there although"):
        host.load(tmp_path / "m")


def test_tokenizer_must_fit(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, padded_tokenizer: processor.Tokenizer) -> None:
    with pytest.raises(ValueError, match="zhllama resize"):
        llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=padded_tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_kept_unless_asked(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    first = llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="exists already"):
        llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    second = llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, dtype="float16", overwrite=True)
    assert first["fingerprint"] != second["fingerprint"] == source.fingerprint(tmp_path / "m")


def test_failure_leaves_nothing_behind(tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer) -> None:
    params = {**params, "norm": {"weight": params["norm"]["weight"] * 1e9}}
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_other_directories_are_explained(
    tmp_path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer
) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent not found: expected a model: config\.json"):
        host.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no model: expected a model: config\.json"):
        host.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        host.load(tmp_path)
    llama_hf.save(tmp_path / "m", config=config, params=params, tokenizer=tokenizer)
    (tmp_path / "m" / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match="SentencePiece tokenizer is the scope"):
        host.load(tmp_path / "m")
    config_path = tmp_path / "m" / "config.json"
    config_path.write_text(json.dumps({**json.loads(config_path.read_text()), "vocab_size": config.vocab_size + 1}))
    (tmp_path / "m" / "tokenizer.json").unlink()
    (tmp_path / "m" / manifest.FILE).unlink()
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight has shape"):
        host.load(tmp_path / "m")
