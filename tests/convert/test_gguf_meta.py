"""Keys are llama.cpp's, say what a configuration says, and give it back; what they cannot say is refused."""

import math
from typing import Any

import numpy as np
import pytest

from zhllama_jax.convert import gguf_meta, manifest
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config

gguf = pytest.importorskip("gguf")

MICRO = config_lib.named("micro", vocab_size=300, max_position_embeddings=512)
LINEAR = rope_config.RopeScaling("linear", 2.5)
YARN = rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=128)
SHARP = rope_config.RopeScaling("yarn", 4, original_max_position_embeddings=128, attention_factor=1.5)
RELEASED = rope_config.RopeScaling("llama3", 8, original_max_position_embeddings=8192, low_freq_factor=1, high_freq_factor=4)
LLAMA3 = rope_config.RopeScaling("llama3", 3, original_max_position_embeddings=64, low_freq_factor=1.5, high_freq_factor=5)

CONFIGS = {
    "plain": MICRO,
    "extended": MICRO.replace(base_vocab_size=200),
    "all heads": MICRO.replace(num_key_value_heads=4),
    "own head width": MICRO.replace(head_dim=16),
    "tied": MICRO.replace(tie_word_embeddings=True),
    "padding": MICRO.replace(pad_token_id=299),
    "other numbers": MICRO.replace(rms_norm_eps=1e-5, rope_theta=500_000.0, max_position_embeddings=1 << 20),
    "linear": MICRO.replace(rope_scaling=LINEAR),
    "yarn": MICRO.replace(rope_scaling=YARN),
    "llama3": MICRO.replace(rope_scaling=LLAMA3),
}


def said(config: config_lib.LlamaConfig, **more: Any) -> dict[str, Any]:
    """The metadata of a model as a file would give them back: float32 for floats, and the tokenizer's ids."""
    metadata = gguf_meta.keys(config, dtype="F16", name="a", **{"prompt": None, **more})
    ids = {"bos": config.bos_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    metadata |= {f"tokenizer.ggml.{name}_token_id": id_ for name, id_ in ids.items() if id_ is not None}
    return {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in metadata.items()}


def back(metadata: dict[str, Any], config: config_lib.LlamaConfig, **more: Any) -> config_lib.LlamaConfig:
    given = {"rows": config.vocab_size, "tied": config.tie_word_embeddings, "divisors": gguf_meta.rope_divisors(config)}
    return gguf_meta.read_config(metadata, **{**given, **more})


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_comes_back(case: str) -> None:
    assert back(said(CONFIGS[case]), CONFIGS[case]) == CONFIGS[case]


def test_the_attention_factor_of_yarn_comes_back() -> None:
    config = MICRO.replace(rope_scaling=SHARP)
    scaling = back(said(config), config).rope_scaling
    assert scaling is not None
    assert scaling.attention_factor == pytest.approx(1.5, rel=1e-6)


def test_keys_are_the_librarys() -> None:
    keys = gguf.constants.Keys
    expected = {
        keys.General.ARCHITECTURE: "llama",
        keys.General.TYPE: "model",
        keys.General.NAME: "a",
        keys.General.QUANTIZATION_VERSION: gguf.GGML_QUANT_VERSION,
        keys.General.FILE_TYPE: int(gguf.LlamaFileType.MOSTLY_F16),
        keys.LLM.VOCAB_SIZE: 300,
        keys.LLM.CONTEXT_LENGTH: 512,
        keys.LLM.EMBEDDING_LENGTH: 32,
        keys.LLM.BLOCK_COUNT: 2,
        keys.LLM.FEED_FORWARD_LENGTH: 88,
        keys.Attention.HEAD_COUNT: 4,
        keys.Attention.HEAD_COUNT_KV: 2,
        keys.Attention.KEY_LENGTH: 16,
        keys.Attention.VALUE_LENGTH: 16,
        keys.Attention.LAYERNORM_RMS_EPS: 1e-6,
        keys.Rope.DIMENSION_COUNT: 16,
        keys.Rope.FREQ_BASE: 10_000.0,
        keys.Rope.SCALING_TYPE: gguf.RopeScalingType.YARN.value,
        keys.Rope.SCALING_FACTOR: 4.0,
        keys.Rope.SCALING_ORIG_CTX_LEN: 128,
        keys.Rope.SCALING_ATTN_FACTOR: 1.5 / (1 + 0.1 * math.log(4)),
    }
    config = MICRO.replace(head_dim=16, rope_scaling=SHARP)
    found = gguf_meta.keys(config, dtype="F16", name="a", prompt=None)
    assert found == {key.format(arch="llama"): value for key, value in expected.items()}
    assert {key: type(value) for key, value in found.items()} == {key.format(arch="llama"): type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("F32", "ALL_F32"), ("F16", "MOSTLY_F16"), ("BF16", "MOSTLY_BF16"), ("Q8_0", "MOSTLY_Q8_0"), ("Q4_0", "MOSTLY_Q4_0")],
)
def test_file_types_are_the_librarys(dtype: str, name: str) -> None:
    metadata = gguf_meta.keys(MICRO, dtype=dtype, name="a", prompt=None)
    assert metadata["general.file_type"] == gguf.LlamaFileType[name].value


def test_divisors_are_those_of_the_paper() -> None:
    """LLaMA-3.1's own: long waves are slowed by the factor, short ones are not, those between partly; computed from the wave lengths."""
    config = config_lib.named("micro", vocab_size=300, head_dim=128, rope_theta=500_000.0, rope_scaling=RELEASED)
    divisors = gguf_meta.rope_divisors(config)
    assert divisors is not None
    assert divisors.dtype == np.float32
    for number, divisor in enumerate(divisors):
        wave = 2 * math.pi * 500_000 ** (2 * number / 128)
        if wave < 8192 / 4:
            expected = 1.0
        elif wave > 8192:
            expected = 8.0
        else:
            share = (8192 / wave - 1) / 3
            expected = 1 / ((1 - share) / 8 + share)
        assert divisor == pytest.approx(expected, rel=1e-6)
    assert all(gguf_meta.rope_divisors(CONFIGS[case]) is None for case in ("plain", "linear", "yarn"))


def test_divisors_of_a_released_model_are_recognised_without_our_key() -> None:
    config = config_lib.named("micro", vocab_size=300, head_dim=128, rope_theta=500_000.0, rope_scaling=RELEASED)
    metadata = {key: value for key, value in said(config).items() if not key.startswith("zhllama.")}
    assert back(metadata, config) == config
    with pytest.raises(ValueError, match="divisors of the rotary frequencies that belong to no scaling"):
        back(metadata, config, divisors=np.linspace(1, 2, 64, dtype=np.float32))
    with pytest.raises(ValueError, match="divisors of the rotary frequencies that belong to no scaling"):
        back(said(CONFIGS["llama3"]), CONFIGS["llama3"], divisors=np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (rope_config.RopeScaling("dynamic", 2), "dynamic does not exist in llama.cpp.*texts of up to 512 tokens come out the same"),
        (rope_config.RopeScaling("yarn", 2, truncate=False), "beta_fast 32, beta_slow 1, truncate False cannot be said"),
        (rope_config.RopeScaling("yarn", 2, beta_fast=20), "beta_fast 20, beta_slow 1, truncate True cannot be said"),
        (rope_config.RopeScaling("yarn", 2, beta_slow=0.5), "beta_fast 32, beta_slow 0.5, truncate True cannot be said"),
    ],
)
def test_scaling_that_llama_cpp_lacks_is_refused(scaling: rope_config.RopeScaling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gguf_meta.keys(MICRO.replace(rope_scaling=scaling), dtype="F16", name="a", prompt=None)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general.architecture": "qwen2"}, "architecture 'qwen2': only 'llama'"),
    "no architecture": ({"general.architecture": None}, "architecture None"),
    "layers": ({"llama.block_count": 10**9}, "block_count must be one whole number from 1 to 1,024, found 1000000000"),
    "no layers": ({"llama.block_count": None}, "block_count must be one whole number"),
    "heads by layer": ({"llama.attention.head_count": np.array([4, 4])}, "attention.head_count must be one whole number"),
    "truth as number": ({"llama.embedding_length": True}, "embedding_length must be one whole number"),
    "epsilon": ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "epsilon must be one number from 1e-12"),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, "epsilon must be one number"),
    "no number": ({"llama.rope.freq_base": math.nan}, "freq_base must be one number from 1.0"),
    "experts": ({"llama.expert_count": 8}, "expert_count = 8 changes the numbers and is not supported"),
    "half a rotation": ({"llama.rope.dimension_count": 4}, "RoPE over a part of a head"),
    "widths": ({"llama.attention.key_length": 16, "llama.attention.value_length": 8}, "heads of several widths"),
    "large width": ({"llama.attention.key_length": 1 << 30}, "key_length must be one whole number from 2 to 4,096"),
    "vocabulary": ({"llama.vocab_size": 301}, "vocab_size is 301, the embedding has 300 rows"),
    "scaling": ({"llama.rope.scaling.type": "longrope"}, "only linear and yarn"),
    "sharper without yarn": ({"llama.rope.scaling.attn_factor": 1.5}, "attn_factor 1.5 without yarn"),
    "another ramp": ({"llama.rope.scaling.yarn_beta_slow": 0.5}, "yarn_beta_slow = 0.5 changes the numbers"),
    "scaling without a factor": ({"llama.rope.scaling.type": "linear"}, "factor must be a number from 1"),
    "factor as text": ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": "2"}, "with a number for each parameter"),
    "unknown key": ({"llama.logit_softcap": 30.0}, "unknown keys, which may change the numbers: logit_softcap"),
    "ids": ({"tokenizer.ggml.eos_token_id": 300}, "eos_token_id 300 is no id of a vocabulary of 300"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_change_the_numbers_is_refused(case: str) -> None:
    changes, message = WRONG[case]
    metadata = {key: value for key, value in {**said(MICRO), **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        back(metadata, MICRO)


def test_a_factor_without_a_kind_is_linear() -> None:
    metadata = {key: value for key, value in said(CONFIGS["linear"]).items() if key != "llama.rope.scaling.type"}
    assert back(metadata, CONFIGS["linear"]) == CONFIGS["linear"]


def test_both_kinds_of_scaling_are_refused() -> None:
    with pytest.raises(ValueError, match=r"both rope_freqs\.weight and RoPE scaling of type 'linear'"):
        back(said(CONFIGS["linear"]), MICRO, divisors=np.ones(4, np.float32))


def test_neutral_keys_pass_and_unknown_ones_on_demand() -> None:
    neutral = {"llama.expert_count": 0, "llama.tensor_data_layout": "Meta AI original pth", "general.license": "x"}
    assert back(said(MICRO) | neutral, MICRO) == MICRO
    assert back(said(MICRO) | {"llama.logit_softcap": 30.0}, MICRO, allow_unknown=True) == MICRO


def test_what_a_file_need_not_say_has_llama_cpps_default() -> None:
    plain = MICRO.replace(num_key_value_heads=4)
    for key in ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.rope.dimension_count", "llama.vocab_size"):
        metadata = said(plain)
        del metadata[key]
        assert back(metadata, plain) == plain


@pytest.mark.parametrize("prompt", [None, manifest.Prompt("alpaca"), manifest.Prompt("llama_cpp", "faithful", "closed")])
def test_the_prompt_comes_back(prompt: manifest.Prompt | None) -> None:
    assert gguf_meta.read_prompt(said(MICRO, prompt=prompt)) == prompt


@pytest.mark.parametrize("wrong", [{"template": 3}, {"boundary": "near"}, {"boundary": None}, {"turns": []}])
def test_a_prompt_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    metadata = said(MICRO, prompt=manifest.Prompt("alpaca")) | {f"zhllama.prompt.{field}": value for field, value in wrong.items()}
    with pytest.raises(ValueError, match=r"zhllama\.prompt says .* no way to put instructions"):
        gguf_meta.read_prompt(metadata)
