"""A model goes out as llama.cpp's own converter writes it, comes back bit for bit where nothing is quantised, and computes the same."""

import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from tests.reference import weights
from zhllama_jax import files
from zhllama_jax.convert import gguf_file, gguf_io, gguf_meta, gguf_quant, manifest, names, streamed, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, rope_config
from zhllama_jax.tokenizer import processor

gguf = pytest.importorskip("gguf")

LLAMA3 = rope_config.RopeScaling("llama3", 3, original_max_position_embeddings=64, low_freq_factor=1.5, high_freq_factor=5)
LINEAR = rope_config.RopeScaling("linear", 2)
KINDS = gguf_quant.WRITABLE


@pytest.fixture(scope="module")
def sized(tokenizer: processor.Tokenizer) -> Callable[..., config_lib.LlamaConfig]:
    """Small configurations with seven rows more than the tokenizer has pieces, and rows of 96 in the MLP."""

    def make(**changes: Any) -> config_lib.LlamaConfig:
        size = tokenizer.vocab_size + 7
        return config_lib.named("micro", vocab_size=size, **{"base_vocab_size": size - 40, "intermediate_size": 96, **changes})

    return make


VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "all heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "own head width": {"head_dim": 16},
    "tied": {"tie_word_embeddings": True},
    "llama3": {"rope_scaling": LLAMA3},
    "linear": {"rope_scaling": LINEAR},
}


def save(path: Path, config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer, dtype: str = "F32", **more: Any) -> gguf_io.Written:
    stream = names.export(config, weights.lively(config))
    return gguf_io.write(path, stream, config=config, tokenizer=tokenizer, dtype=dtype, **more)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("variant", ["grouped", "tied"])
def test_a_model_comes_back(variant: str, dtype: str, sized: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    config = sized(**VARIANTS[variant])
    written = save(tmp_path / "m.gguf", config, tokenizer, dtype)
    assert written.notes == []
    assert written.files == {"m.gguf": {"sha256": files.sha256(tmp_path / "m.gguf"), "bytes": (tmp_path / "m.gguf").stat().st_size}}
    with gguf_io.Reader(tmp_path / "m.gguf") as reader:
        assert reader.config == config
        assert list(reader.entries) == [tensor.name for tensor in names.tensors(config)] == list(written.tensors)
        for name, array in names.export(config, weights.lively(config)):
            entry, found = reader.entries[name], reader.read(name)
            stored = gguf_quant.storage(array.shape, dtype, head=name == names.matrix(config.head_matrix))
            assert (entry.dtype, entry.shape) == (stored, array.shape)
            expected = gguf_quant.decode(gguf_quant.encode(array, stored), stored, array.shape)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
            assert written.tensors[name]["dtype"] == stored
        quantised = [entry.dtype for entry in reader.entries.values() if entry.dtype not in gguf_quant.PLAIN]
        assert len(reader.notes) == len(set(quantised))
        assert all("and read as float32" in note for note in reader.notes)
        assert len(reader.tokenizer()) == len(tokenizer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_the_order_of_rows_are_llama_cpps(
    variant: str, sized: Any, tokenizer: processor.Tokenizer, tmp_path: Path
) -> None:
    """Read by the library; pairs of rows are put together one by one."""
    config = sized(**VARIANTS[variant])
    save(tmp_path / "m.gguf", config, tokenizer)
    theirs = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert ("rope_freqs.weight" in theirs) == (variant == "llama3")
    theirs.pop("rope_freqs.weight", None)
    map_name = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers).get_name
    state = weights.hf_state(config, weights.lively(config))
    assert theirs.keys() == {map_name(name, (".weight",)) for name in state}
    half = config.head_width // 2
    for name, array in state.items():
        if "q_proj" in name or "k_proj" in name:
            order = [first + part for head in range(0, len(array), 2 * half) for first in range(head, head + half) for part in (0, half)]
            array = array[order]
        np.testing.assert_array_equal(theirs[map_name(name, (".weight",))], array)


@pytest.mark.parametrize("variant", ["grouped", "all heads", "tied"])
def test_transformers_computes_the_same_from_the_file(variant: str, sized: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = sized(**VARIANTS[variant])
    save(tmp_path / "m.gguf", config, tokenizer)
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    finally:
        if shown:
            bars.enable_progress_bar()
    tokens_BT = streamed.prompts(config.vocab_size)
    with torch.no_grad():
        theirs_BTV = model(torch.tensor(tokens_BT)).logits.numpy()
    params = weights.lively(config)
    x_BTD, _ = llama.hidden_states(config, {"params": params}, tokens_BT)
    np.testing.assert_allclose(np.asarray(llama.logits(config, params, x_BTD)), theirs_BTV, atol=2e-4)


def test_narrow_weights_are_stored_as_they_are(sized: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    config = sized()
    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in names.export(config, weights.lively(config))}
    gguf_io.write(tmp_path / "m.gguf", state.items(), config=config, tokenizer=tokenizer, dtype="BF16")
    with gguf_io.Reader(tmp_path / "m.gguf") as reader:
        for name, array in state.items():
            assert reader.read(name).astype(np.float32).tobytes() == array.astype(np.float32).tobytes()


def test_rows_that_make_no_blocks_are_stored_as_f16_with_a_note(sized: Any, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    config = sized(intermediate_size=88)
    written = save(tmp_path / "m.gguf", config, tokenizer, "Q4_0")
    expected = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
    assert written.notes == [f"2 matrices are stored as F16, since their rows are no multiple of 32: {', '.join(expected)}"]
    with gguf_io.Reader(tmp_path / "m.gguf") as reader:
        assert [name for name, entry in reader.entries.items() if entry.dtype == "F16"] == expected


def test_the_prompt_gives_the_chat_template_and_comes_back(sized: Any, padded_tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    config, prompt = sized(pad_token_id=padded_tokenizer.pad_id), manifest.Prompt("alpaca", "joined", "closed")
    save(tmp_path / "m.gguf", config, padded_tokenizer, prompt=prompt, name="zh")
    with gguf_io.Reader(tmp_path / "m.gguf") as reader:
        assert reader.prompt() == prompt
        assert reader.metadata["tokenizer.chat_template"] == tokenizer_hf.chat_template(prompt)
        assert reader.metadata["general.name"] == "zh"
        assert reader.config.pad_token_id == reader.tokenizer().pad_id == padded_tokenizer.pad_id
    save(tmp_path / "base.gguf", config, padded_tokenizer)
    with gguf_io.Reader(tmp_path / "base.gguf") as reader:
        assert reader.prompt() is None
        assert reader.metadata["general.name"] == "base"
        assert "tokenizer.chat_template" not in reader.metadata


@pytest.mark.parametrize("dtype", ["F16", "Q8_0", "Q4_0"])
def test_one_tensor_is_held_at_a_time(dtype: str, tokenizer: processor.Tokenizer, tmp_path: Path) -> None:
    config = config_lib.named("micro", vocab_size=tokenizer.vocab_size, hidden_size=512, intermediate_size=1024, num_hidden_layers=6)

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        for tensor in names.tensors(config):
            yield tensor.name, rng.random(tensor.shape, np.float32)

    tracemalloc.start()
    try:
        gguf_io.write(tmp_path / "m.gguf", stream(), config=config, tokenizer=tokenizer, dtype=dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    total, largest = (function(4 * math.prod(tensor.shape) for tensor in names.tensors(config)) for function in (sum, max))
    # The tensor, the permuted copy of it or its bytes, the chunk at work.
    assert peak < 2.1 * largest + (8 << 20) < total / 2


def test_what_does_not_fit_leaves_nothing(sized: Any, tokenizer: processor.Tokenizer, padded_tokenizer: Any, tmp_path: Path) -> None:
    config = sized()
    small = config_lib.named("micro", vocab_size=tokenizer.vocab_size)
    with pytest.raises(ValueError, match="grow the model first"):
        save(tmp_path / "m.gguf", small, padded_tokenizer)
    with pytest.raises(ValueError, match="one of F32, F16, BF16, Q8_0, Q4_0"):
        save(tmp_path / "m.gguf", config, tokenizer, "float16")
    with pytest.raises(ValueError, match=r"dynamic does not exist in llama\.cpp"):
        save(tmp_path / "m.gguf", sized(rope_scaling=rope_config.RopeScaling("dynamic", 2)), tokenizer)
    stream = ((name, array * np.float32(1e6)) for name, array in names.export(config, weights.lively(config)))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight holds numbers up to .* beyond F16's range"):
        gguf_io.write(tmp_path / "m.gguf", stream, config=config, tokenizer=tokenizer, dtype="F16")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def parts(
    sized: Any, tokenizer: processor.Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors (F32, under llama.cpp's names) of a sound file."""
    path = tmp_path_factory.mktemp("sound") / "m.gguf"
    save(path, sized(), tokenizer)
    metadata, tensors = gguf_file.read(path)
    contents = np.fromfile(path, np.uint8)
    return metadata, {name: contents[entry.begin : entry.end].view(np.float32).reshape(entry.shape) for name, entry in tensors.items()}


def build(path: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray], stored: dict[str, str]) -> None:
    plan = {name: (stored.get(name, "F32"), array.shape) for name, array in tensors.items()}
    octets = {name: np.zeros(gguf_quant.num_bytes(shape, kind), np.uint8) for name, (kind, shape) in plan.items()}
    gguf_file.write(path, metadata, plan, octets.items())


Q, NORM, HEAD, EMBED = "blk.1.attn_q.weight", "output_norm.weight", "output.weight", "token_embd.weight"
WRONG: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any], dict[str, str]], Any], str]] = {
    "a tensor is missing": (lambda said, tensors, stored: tensors.pop(Q), r"missing: model\.layers\.1\.self_attn\.q_proj\.weight"),
    "no embedding": (lambda said, tensors, stored: tensors.pop(EMBED), r"no token_embd\.weight with rows"),
    "a bias": (
        lambda said, tensors, stored: tensors.update({"blk.0.attn_q.bias": np.zeros(32)}),
        r"not part of a LLaMA: blk\.0\.attn_q\.bias",
    ),
    "an expert": (lambda said, tensors, stored: tensors.update({"blk.0.ffn_gate_exps.weight": np.zeros((2, 2, 32))}), "ffn_gate_exps"),
    "Hugging Face's name": (
        lambda said, tensors, stored: tensors.update({"model.norm.weight": np.ones(32)}),
        r"LLaMA: model\.norm\.weight",
    ),
    "a layer too many": (
        lambda said, tensors, stored: tensors.update({"blk.9.attn_q.weight": np.ones((32, 32))}),
        r"not part of this model",
    ),
    "another shape": (lambda said, tensors, stored: tensors.update({NORM: np.zeros(33)}), r"model\.norm\.weight has shape \[33\]"),
    "rows as a vector": (lambda said, tensors, stored: tensors.update({EMBED: np.zeros(64)}), r"no token_embd\.weight with rows"),
    "more layers": (lambda said, tensors, stored: said.update({"llama.block_count": 3}), r"missing: model\.layers\.2"),
    "many layers": (lambda said, tensors, stored: said.update({"llama.block_count": 1024}), "claims 1,024 layers and has 21 tensors"),
    "other types": (
        lambda said, tensors, stored: stored.update({HEAD: "IQ4_NL", Q: "MXFP4"}),
        "stores tensors as IQ4_NL, MXFP4; read are F32",
    ),
    "one part": (lambda said, tensors, stored: said.update({"split.count": 3}), "one part of several: join them"),
    "divisors as rows": (lambda said, tensors, stored: tensors.update({gguf_meta.ROPE_FREQS: np.zeros((1, 4))}), "must be one row of F32"),
    "divisors": (lambda said, tensors, stored: tensors.update({gguf_meta.ROPE_FREQS: np.zeros(4)}), "belong to no scaling known here"),
    "another model": (lambda said, tensors, stored: said.update({"general.architecture": "mamba"}), "only 'llama' is in scope"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_models_are_refused(case: str, parts: Any, tmp_path: Path) -> None:
    change, message = WRONG[case]
    metadata, tensors, stored = dict(parts[0]), dict(parts[1]), {}
    build(tmp_path / "m.gguf", metadata, tensors, stored)
    gguf_io.Reader(tmp_path / "m.gguf").close()
    change(metadata, tensors, stored)
    build(tmp_path / "m.gguf", metadata, tensors, stored)
    with pytest.raises(ValueError, match=rf"m\.gguf.*{message}"):
        gguf_io.Reader(tmp_path / "m.gguf")


@hypothesis.settings(deadline=2000, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_extreme_metadata_are_refused_or_sound(data: st.DataObject, parts: Any, tmp_path: Path) -> None:
    """Whatever the keys say, nothing but our error comes, and nothing is made by a claim."""
    metadata = dict(parts[0])
    keys = st.sampled_from(sorted(metadata)) | st.sampled_from([f"llama.{key}" for key in ("rope.scaling.type", "expert_count")])
    extremes = [
        0,
        1,
        2,
        7,
        1024,
        2**31,
        2**32 - 1,
        0.0,
        -1.0,
        1e-9,
        math.inf,
        math.nan,
        True,
        "",
        "linear",
        [],
        ["a"],
        np.zeros(3, np.int32),
    ]
    for _ in range(data.draw(st.integers(1, 3))):
        metadata[data.draw(keys)] = data.draw(st.sampled_from(extremes))
    metadata.pop("general.alignment", None)
    build(tmp_path / "m.gguf", metadata, parts[1], {})
    for ask in (lambda reader: reader.config, lambda reader: reader.tokenizer(), lambda reader: reader.prompt()):
        try:
            with gguf_io.Reader(tmp_path / "m.gguf", allow_unknown=True) as reader:
                ask(reader)
        except ValueError:
            pass


def test_names_go_both_ways() -> None:
    assert gguf_io.to_gguf("model.layers.31.mlp.down_proj.weight") == "blk.31.ffn_down.weight"
    for hf, name in gguf_io.NAMES:
        assert gguf_io.to_hf(gguf_io.to_gguf(hf.format(layer=12))) == hf.format(layer=12)
        assert gguf_io.to_gguf(gguf_io.to_hf(name.format(layer=0))) == name.format(layer=0)
    for strange in ("blk.01.attn_q.weight", "blk.attn_q.weight", "blk.{layer}.attn_q.weight", "a.0.b", "blk.0.attn_q.bias"):
        assert gguf_io.to_hf(strange) == strange
