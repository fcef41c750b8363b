"""llama.cpp reads our files: it tokenizes like us, sees the same numbers, and says the same next token.

Needs the environment that `scripts/llama_cpp_check.sh` makes; the whole file runs there and in the nightly.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests.reference import llama_cpp_process, weights
from zhllama_jax import tree
from zhllama_jax.convert import gguf_file, gguf_io, gguf_quant, names
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, rope_config
from zhllama_jax.tokenizer import merge, processor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not llama_cpp_process.PYTHON.is_file(), reason="no llama.cpp: bash scripts/llama_cpp_check.sh builds it"),
]

STRINGS = 6_000
TOKENIZERS = ("safe", "reference", "padded")
# As a share of the largest logit. llama.cpp rounds what it multiplies with weights of 16 bits to 16 bits too, and to blocks of 8 bits
# for the quantised types, so only F32 is exact.
TOLERANCE = {"F32": 1e-5, "F16": 2e-3, "BF16": 1e-2, "Q8_0": 3e-2, "Q4_0": 3e-2}


@pytest.fixture(scope="module")
def tokenizers(english_pieces: Path, chinese_pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, processor.Tokenizer]:
    """The real merge in both modes and with [PAD] where there is real data, else one of small generated pieces."""
    real = llama_cpp_process.REPOSITORY.parent / "shared" / "data" / "tokenizers"
    base, added = (real / "llama_32000.model", real / "chinese_sp_20000.model") if real.is_dir() else (english_pieces, chinese_pieces)
    chosen: dict[str, dict[str, Any]] = {"safe": {}, "reference": {"mode": "reference"}, "padded": {"mode": "reference", "pad_token": True}}
    return {
        name: processor.Tokenizer.from_bytes(merge.merge(base, [added], proof_strings=100, **options).serialized)
        for name, options in chosen.items()
    }


@pytest.fixture(scope="module")
def strings() -> list[str]:
    """Texts of every kind: real lines where there are any, and mixtures of what is hard."""
    rng = random.Random(0)
    lines = [*conftest.ENGLISH, *conftest.CHINESE]
    data = llama_cpp_process.REPOSITORY.parent / "shared" / "data"
    for name in ("zh_corpus.jsonl", "zh_poems.jsonl", "en_c4.jsonl"):
        if (data / name).is_file():
            with open(data / name, encoding="utf-8") as stream:
                rows = [json.loads(line) for _, line in zip(range(300), stream, strict=False)]
            lines += [str(value) for row in rows for value in (row.values() if isinstance(row, dict) else [row])]
    specials = ["<s>", "</s>", "<unk>", "[PAD]", "<0x0A>", "<dummy00001>", "▁", "<|im_end|>"]
    spaces = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\u00a0", "\u200b"]
    marks = [
        "😀",
        "👨‍👩‍👧",
        "🇨🇳",
        "e\u0301",
        "ñ",
        "𠀀",
        "ｆｕｌｌ",
        "。",
        ",",
        "!",
        "(",
        "1234567890",
        "3.14",
        "\x00",
        "\x7f",
        "\ufeff",
        "\uffff",
    ]

    def piece() -> str:
        kind = rng.randrange(6)
        if kind == 0:
            return rng.choice(spaces)
        if kind == 1:
            return rng.choice(marks)
        if kind == 2:
            return rng.choice(specials)
        if kind == 3:
            return "".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(rng.randint(1, 8)))
        line = rng.choice(lines)
        start = rng.randrange(len(line) + 1)
        return line[start : start + rng.randint(1, 30)]

    hard = ["", *spaces, *marks, *specials, " a", "a ", "  a  b  ", "\n a", *(line[:2000] for line in lines)]
    return hard + ["".join(piece() for _ in range(rng.randint(1, 8))) for _ in range(STRINGS - len(hard))]


def model_of(tokenizer: processor.Tokenizer, **changes: Any) -> config_lib.LlamaConfig:
    """A small model with grouped heads, an extension and three rows that no piece has."""
    settings = {"num_key_value_heads": 2, "pad_token_id": tokenizer.pad_id, **changes}
    return config_lib.named("tiny", vocab_size=len(tokenizer) + 3, base_vocab_size=len(tokenizer) // 2, **settings)


def calm(config: config_lib.LlamaConfig) -> Any:
    """Weights that pass small errors on as small ones, as those of a trained model do: each layer changes the stream by a third."""
    return tree.map_with_path(
        lambda path, leaf: leaf * np.float32(0.3) if path.endswith(("o_proj/kernel", "down_proj/kernel")) else leaf, weights.lively(config)
    )


def our_logits(path: Path, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Logits [B, T, V] of a file, read by us and computed in float32."""
    with gguf_io.Reader(path) as reader:
        config = reader.config
        params = names.collect(config, lambda name: reader.read(name).astype(np.float32))

    @jax.jit
    def forward(params: Any, tokens_BT: Any) -> Any:
        x_BTD, _ = llama.hidden_states(config, {"params": params}, tokens_BT)
        return llama.logits(config, params, x_BTD)

    with jax.default_matmul_precision("highest"):
        return np.asarray(forward(params, jnp.asarray(prompts, jnp.int32)))


def prompts_of(config: config_lib.LlamaConfig, length: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[config.bos_token_id, *rng.integers(3, config.vocab_size, length - 1).tolist()] for _ in range(3)]


def learnt_by_heart(config: config_lib.LlamaConfig, params: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, np.ndarray]:
    """(params whose head answers each position of the prompts but BOS with a token of its own, by far; these tokens [B, T - 1])."""
    with jax.default_matmul_precision("highest"):
        x_BTD, _ = llama.hidden_states(config, {"params": params}, jnp.asarray(prompts, jnp.int32))
    hidden_ND = np.asarray(x_BTD, np.float32)[:, 1:].reshape(-1, config.hidden_size)
    targets_N = np.random.default_rng(1).permutation(np.arange(3, config.vocab_size))[: len(hidden_ND)]
    head = {name: block.copy() for name, block in params["lm_head"].items()}
    for block in config.blocks:
        inside_N = block.holds(targets_N)
        rows = targets_N[inside_N] - block.first
        head[block.name][rows] = 10 * hidden_ND[inside_N] / np.sum(hidden_ND[inside_N] ** 2, axis=1, keepdims=True)
    return {**params, "lm_head": head}, targets_N.reshape(len(prompts), -1)


def save(path: Path, config: config_lib.LlamaConfig, params: Any, tokenizer: processor.Tokenizer, dtype: str) -> Path:
    gguf_io.write(path, names.export(config, params), config=config, tokenizer=tokenizer, dtype=dtype)
    return path


@pytest.mark.parametrize("which", TOKENIZERS)
def test_texts_have_our_ids(which: str, tokenizers: dict[str, processor.Tokenizer], strings: list[str], tmp_path: Path) -> None:
    tokenizer = tokenizers[which]
    config = model_of(tokenizer, num_hidden_layers=1)
    answer = llama_cpp_process.ask(save(tmp_path / "m.gguf", config, calm(config), tokenizer, "Q8_0"), texts=strings)
    different = [text for text, found, ours in zip(strings, answer.ids, tokenizer.encode_batch(strings), strict=True) if found != ours]
    assert different == []
    assert answer.special == [1, 2, -1 if tokenizer.pad_id is None else tokenizer.pad_id]


@pytest.mark.parametrize("dtype", gguf_quant.WRITABLE)
@pytest.mark.parametrize("which", ["safe", "padded"])
def test_logits_are_close_and_the_next_token_is_the_same(
    which: str, dtype: str, tokenizers: dict[str, processor.Tokenizer], tmp_path: Path
) -> None:
    tokenizer = tokenizers[which]
    config = model_of(tokenizer)
    prompts = prompts_of(config)
    params, targets_BT = learnt_by_heart(config, calm(config), prompts)
    path = save(tmp_path / "m.gguf", config, params, tokenizer, dtype)
    ours_BTV, theirs_BTV = our_logits(path, prompts), np.stack(llama_cpp_process.ask(path, prompts=prompts).logits)
    apart = np.abs(ours_BTV - theirs_BTV).max() / np.abs(ours_BTV).max()
    print(f"{which} {dtype}: apart by {apart:.2e} of the largest logit")
    assert apart <= TOLERANCE[dtype]
    np.testing.assert_array_equal(ours_BTV.argmax(-1)[:, 1:], theirs_BTV.argmax(-1)[:, 1:])
    np.testing.assert_array_equal(ours_BTV.argmax(-1)[:, 1:], targets_BT)


def test_a_tied_model_without_grouped_heads_computes_the_same(tokenizers: dict[str, processor.Tokenizer], tmp_path: Path) -> None:
    config = model_of(tokenizers["safe"], tie_word_embeddings=True, num_key_value_heads=4, head_dim=48)
    path = save(tmp_path / "m.gguf", config, calm(config), tokenizers["safe"], "F32")
    assert "output.weight" not in gguf_file.read(path).tensors
    ours_BTV, theirs_BTV = our_logits(path, prompts_of(config)), np.stack(llama_cpp_process.ask(path, prompts=prompts_of(config)).logits)
    assert np.abs(ours_BTV - theirs_BTV).max() <= TOLERANCE["F32"] * np.abs(ours_BTV).max()


SCALINGS = {
    "linear": rope_config.RopeScaling("linear", 4),
    "yarn": rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=16),
    "yarn, sharper": rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=16, attention_factor=1.7),
    "llama3": rope_config.RopeScaling("llama3", 8, original_max_position_embeddings=32, low_freq_factor=1, high_freq_factor=4),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_rope_computes_the_same(kind: str, tokenizers: dict[str, processor.Tokenizer], tmp_path: Path) -> None:
    config = model_of(tokenizers["safe"], rope_scaling=SCALINGS[kind], max_position_embeddings=64)
    path = save(tmp_path / "m.gguf", config, weights.lively(config), tokenizers["safe"], "F32")
    prompts = prompts_of(config, 64)
    ours_BTV, theirs_BTV = our_logits(path, prompts), np.stack(llama_cpp_process.ask(path, prompts=prompts).logits)
    assert np.abs(ours_BTV - theirs_BTV).max() <= 1e-4 * np.abs(ours_BTV).max()


@pytest.mark.parametrize("dtype", gguf_quant.WRITABLE)
def test_llama_cpp_reads_the_numbers_that_we_read(dtype: str, tokenizers: dict[str, processor.Tokenizer], tmp_path: Path) -> None:
    """It writes the file anew in float32: every number is the one that we read from ours."""
    config = model_of(tokenizers["safe"])
    path = save(tmp_path / "m.gguf", config, weights.lively(config), tokenizers["safe"], dtype)
    llama_cpp_process.ask(path, quantize=(tmp_path / "wide.gguf", 0))
    with gguf_io.Reader(path) as ours, gguf_io.Reader(tmp_path / "wide.gguf") as theirs:
        for name in ours.entries:
            assert theirs.entries[name].dtype == "F32"
            np.testing.assert_array_equal(ours.read(name).astype(np.float32), theirs.read(name))


@pytest.mark.parametrize(("kind", "file_type"), [("Q4_1", 3), ("Q5_0", 8), ("Q5_1", 9), ("Q4_K", 15), ("Q5_K", 17), ("Q6_K", 18)])
def test_what_llama_quantize_makes_is_read_as_llama_cpp_reads_it(
    kind: str, file_type: int, tokenizers: dict[str, processor.Tokenizer], tmp_path: Path
) -> None:
    config = model_of(tokenizers["safe"], hidden_size=256, intermediate_size=512, num_hidden_layers=2)
    sound = save(tmp_path / "sound.gguf", config, weights.lively(config), tokenizers["safe"], "F16")
    llama_cpp_process.ask(sound, quantize=(tmp_path / "made.gguf", file_type))
    llama_cpp_process.ask(tmp_path / "made.gguf", quantize=(tmp_path / "wide.gguf", 0))
    with gguf_io.Reader(tmp_path / "made.gguf") as ours, gguf_io.Reader(tmp_path / "wide.gguf") as theirs:
        assert ours.config == theirs.config == config
        assert kind in {entry.dtype for entry in ours.entries.values()}
        for name in ours.entries:
            np.testing.assert_array_equal(ours.read(name), theirs.read(name))


@pytest.mark.parametrize(("dtype", "file_type"), [("F16", 1), ("BF16", 32), ("Q8_0", 7), ("Q4_0", 2)])
def test_types_and_bytes_are_those_of_llama_quantize(
    dtype: str, file_type: int, tokenizers: dict[str, processor.Tokenizer], tmp_path: Path
) -> None:
    """Made of the same model in float32; rows of 128 keep its head from becoming Q6_K, so that it is Q8_0 there too."""
    config = model_of(tokenizers["safe"])
    wide = save(tmp_path / "wide.gguf", config, weights.lively(config), tokenizers["safe"], "F32")
    llama_cpp_process.ask(wide, quantize=(tmp_path / "theirs.gguf", file_type))
    save(tmp_path / "ours.gguf", config, weights.lively(config), tokenizers["safe"], dtype)
    octets = {side: np.memmap(tmp_path / f"{side}.gguf", np.uint8, "r") for side in ("ours", "theirs")}
    ours, theirs = (gguf_file.read(tmp_path / f"{side}.gguf").tensors for side in ("ours", "theirs"))
    assert {name: (entry.dtype, entry.shape) for name, entry in ours.items()} == {
        name: (entry.dtype, entry.shape) for name, entry in theirs.items()
    }
    for name in ours:
        left, right = octets["ours"][ours[name].begin : ours[name].end], octets["theirs"][theirs[name].begin : theirs[name].end]
        # Where its compiler fuses a product with a sum, a quotient beside a half may be rounded to the other side.
        assert np.mean(left != right) <= (1e-5 if dtype == "Q4_0" else 0)
