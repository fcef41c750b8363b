"""The forward pass equals two independent ones, sees only what it may, and computes the same however it is computed."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import llama_numpy, transformers_llama
from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.model import cache as cache_lib
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama

GQA = config_lib.named("micro", vocab_size=200)
EXTENDED = config_lib.named("micro", vocab_size=260, base_vocab_size=200)
VARIANTS = {
    "grouped heads": GQA,
    "as many key/value heads": config_lib.named("micro", vocab_size=200, num_key_value_heads=4, rope_theta=500.0),
    "wide heads": config_lib.named("micro", vocab_size=199, head_dim=10, rms_norm_eps=1e-2),
    "tied": config_lib.named("micro", vocab_size=201, tie_word_embeddings=True),
    "extended": EXTENDED,
    "tied and extended": config_lib.named("micro", vocab_size=260, base_vocab_size=200, tie_word_embeddings=True),
}


PLAIN = llama.Options()


@functools.partial(jax.jit, static_argnames=("config", "options"))
def forward(
    config: config_lib.LlamaConfig, weights: arrays.Tree, tokens_BT: arrays.Array, options: llama.Options = PLAIN, **more: Any
) -> tuple[jax.Array, cache_lib.KVCache | None]:
    """(logits [B, T, V], cache): the front of the module as everybody uses it. Shapes recur below so that few programs compile."""
    x_BTD, cache = llama.hidden_states(config, weights, tokens_BT, options=options, **more)
    return llama.logits(config, weights["params"], x_BTD), cache


def logits(config: config_lib.LlamaConfig, params: arrays.Tree, tokens_BT: np.ndarray) -> np.ndarray:
    return np.asarray(forward(config, {"params": params}, tokens_BT)[0])


def packed_logits(params: arrays.Tree, tokens_BT: np.ndarray, segment_ids_T: list[int], positions_T: Sequence[int]) -> np.ndarray:
    """Logits of GQA for two rows of nine tokens that share their segments and positions."""
    more = {"segment_ids_BT": np.array([segment_ids_T] * 2), "positions_BT": np.array([positions_T] * 2)}
    return np.asarray(forward(GQA, {"params": params}, tokens_BT, **more)[0])


def random_tokens(config: config_lib.LlamaConfig, *shape: int) -> np.ndarray:
    """Ids of both blocks; the last id, the first new one and the last old one are always among the first three."""
    tokens = np.random.default_rng(7).integers(0, config.vocab_size, shape)
    tokens[..., :3] = config.vocab_size - 1, config.base_rows % config.vocab_size, config.base_rows - 1
    return tokens.astype(np.int32)


def numpy_logits(config: config_lib.LlamaConfig, params: arrays.Tree, tokens_T: np.ndarray, first_position: int = 0) -> np.ndarray:
    return llama_numpy.logits(
        reference_weights.hf_state(config, params),
        tokens_T,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_kv_heads,
        eps=config.rms_norm_eps,
        theta=config.rope_theta,
        first_position=first_position,
    )


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_equals_the_numpy_reference(config: config_lib.LlamaConfig) -> None:
    params, tokens_BT = reference_weights.lively(config), random_tokens(config, 2, 9)
    ours = logits(config, params, tokens_BT)
    assert ours.shape == (2, 9, config.vocab_size) and ours.dtype == np.float32
    for ours_TV, tokens_T in zip(ours, tokens_BT, strict=True):
        np.testing.assert_allclose(ours_TV, numpy_logits(config, params, tokens_T), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["extended", "tied", "as many key/value heads", "wide heads"])
def test_equals_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    config = VARIANTS[name]
    params, tokens_BT = reference_weights.lively(config), random_tokens(config, 2, 9)
    with torch.no_grad():
        expected = transformers_llama.model(config, params)(torch.from_numpy(tokens_BT).long()).logits.numpy()
    np.testing.assert_allclose(logits(config, params, tokens_BT), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("seed", "rope"), list(enumerate([None, *transformers_llama.SCALINGS])))
@pytest.mark.parametrize("heads", [(3, 3), (6, 2)], ids=["own", "grouped"])
def test_shapes_by_chance_equal_transformers(heads: tuple[int, int], seed: int, rope: str | None) -> None:
    """Every scaling, with a tied head and with its own, with new rows and without, and an odd vocabulary."""
    torch = pytest.importorskip("torch")
    choice = seed + heads[1]
    config = transformers_llama.drawn(seed, heads=heads, tied=choice % 2 == 0, new=choice // 2 % 2 == 0, rope=rope)
    params, tokens_BT = reference_weights.lively(config, seed), random_tokens(config, 2, 33)
    if config.tie_word_embeddings:  # the first norm undoes the scale; the logits keep it
        params["embed_tokens"] = jax.tree.map(
            lambda rows_VD: rows_VD / np.sqrt(config.hidden_size, dtype=np.float32), params["embed_tokens"]
        )
    with torch.no_grad():
        theirs = transformers_llama.model(config, params, transformers_llama.SCALINGS[rope] if rope else None)
        expected = theirs(torch.from_numpy(tokens_BT).long()).logits.numpy()
    ours = logits(config, params, tokens_BT)
    assert 2 < np.abs(expected).max() < 10
    np.testing.assert_allclose(ours, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", transformers_llama.SCALINGS)
def test_every_rope_scaling_equals_transformers(name: str) -> None:
    """Texts below, at and beyond the original length of 24, as rows with padding; transformers reads each alone, with a fresh model."""
    torch = pytest.importorskip("torch")
    config, lengths = transformers_llama.scaled(GQA, name), (10, 24, 25, 40)
    params, tokens_BT = reference_weights.lively(config), random_tokens(config, 4, 40)
    segments_BT = (np.arange(40)[None] < np.array(lengths)[:, None]).astype(np.int32)
    ours, _ = forward(config, {"params": params}, tokens_BT, segment_ids_BT=segments_BT)
    for ours_TV, tokens_T, length in zip(np.asarray(ours), tokens_BT, lengths, strict=True):
        with torch.no_grad():
            theirs = transformers_llama.model(config, params, transformers_llama.SCALINGS[name])
            [expected_TV] = theirs(torch.from_numpy(tokens_T[None, :length]).long()).logits.numpy()
        np.testing.assert_allclose(ours_TV[:length], expected_TV, atol=3e-5, rtol=1e-5, err_msg=str(length))


def test_no_output_depends_on_a_later_token_or_another_document() -> None:
    """By gradient: every token has an embedding row of its own, and rows that must not matter get a gradient of exactly zero."""
    params, length = reference_weights.lively(GQA), 8
    tokens_BT = np.random.default_rng(0).permutation(GQA.vocab_size)[None, :length]
    direction_V = np.random.default_rng(1).standard_normal(GQA.vocab_size).astype(np.float32)

    @jax.jit
    @jax.jacrev
    def gradient_of(base_VD: arrays.Array, segment_ids_BT: arrays.Array) -> arrays.Array:
        weights = {"params": {**params, "embed_tokens": {"base": base_VD}}}
        return forward(GQA, weights, tokens_BT, segment_ids_BT=segment_ids_BT)[0][0] @ direction_V

    for segments in ([1] * 8, [1, 1, 1, 2, 2, 2, 2, 0]):
        segment_T = np.array(segments)
        gradient_TVD = np.asarray(gradient_of(params["embed_tokens"]["base"], segment_T[None]))
        depends_TS = gradient_TVD[:, tokens_BT[0]].any(axis=-1)
        np.testing.assert_array_equal(depends_TS, np.tril(segment_T[:, None] == segment_T[None]))
        unused = np.setdiff1d(np.arange(256), tokens_BT[0])
        assert not gradient_TVD[:, unused].any()


def test_one_segment_is_the_causal_mask_and_positions_count_from_zero() -> None:
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 9)
    np.testing.assert_allclose(packed_logits(params, tokens_BT, [1] * 9, range(9)), logits(GQA, params, tokens_BT), atol=1e-5)


def test_packed_documents_equal_separate_ones() -> None:
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 9)
    packed = packed_logits(params, tokens_BT, [1, 1, 1, 1, 2, 2, 2, 0, 0], [0, 1, 2, 3, 0, 1, 2, 0, 1])
    for row in range(2):
        for document in (slice(0, 4), slice(4, 7)):
            expected = numpy_logits(GQA, params, tokens_BT[row, document])
            np.testing.assert_allclose(packed[row, document], expected, atol=2e-5, rtol=1e-5)
    assert np.isfinite(packed).all()


def test_what_stands_in_the_padding_changes_no_bit_of_the_rest() -> None:
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 9)
    segments = [0, 0, 1, 1, 0, 2, 2, 0, 0]
    is_real_T = np.array(segments) != 0
    kept = [packed_logits(params, np.where(is_real_T, tokens_BT, padding), segments, range(9))[:, is_real_T] for padding in (0, 150)]
    np.testing.assert_array_equal(*kept)


def test_only_differences_of_positions_matter() -> None:
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 9)
    shifted = packed_logits(params, tokens_BT, [1] * 9, range(100, 109))
    np.testing.assert_allclose(shifted[0], numpy_logits(GQA, params, tokens_BT[0], first_position=100), atol=2e-4)
    np.testing.assert_allclose(shifted, logits(GQA, params, tokens_BT), atol=2e-4)
    assert np.abs(packed_logits(params, tokens_BT, [1] * 9, range(0, 27, 3)) - shifted).max() > 0.01


@pytest.mark.parametrize("chunks", [(6, 1, 1, 1, 1, 1, 1), (6, 3, 1, 1, 1)], ids=["prefill and single steps", "chunked prefill"])
def test_cached_equals_uncached(chunks: tuple[int, ...]) -> None:
    params, tokens_BT = reference_weights.lively(EXTENDED), random_tokens(EXTENDED, 2, 12)
    cache, start, parts = cache_lib.init(EXTENDED, batch=2, length=14), 0, []
    for length in chunks:
        part, cache = forward(EXTENDED, {"params": params}, tokens_BT[:, start : start + length], cache=cache)
        parts.append(part)
        start += length
        assert cache.cursor == start
    for row, ours_TV in enumerate(np.concatenate(parts, axis=1)):
        np.testing.assert_allclose(ours_TV, numpy_logits(EXTENDED, params, tokens_BT[row]), atol=2e-5, rtol=1e-5)
    assert cache.valid_BS[:, :12].all() and not cache.valid_BS[:, 12:].any()


@pytest.mark.parametrize("positions", ["each row's own", "the slots' numbers"])
def test_left_padded_prompts_equal_unpadded_ones(positions: str) -> None:
    """Rows of 6 and 3 real tokens in one batch, then two single steps; what stands in the padding changes no bit."""
    params, spare = reference_weights.lively(EXTENDED), np.array([0, 3])
    tokens_BT = random_tokens(EXTENDED, 2, 8)
    slot_BT = np.arange(8)[None].repeat(2, axis=0)
    is_real_BT = slot_BT >= spare[:, None]
    own = positions == "each row's own"

    def decode(padding: int) -> np.ndarray:
        padded_BT = np.where(is_real_BT, tokens_BT, padding)
        cache, parts = cache_lib.init(EXTENDED, batch=2, length=14), []
        for part in (slice(0, 6), slice(6, 7), slice(7, 8)):
            more = {"segment_ids_BT": is_real_BT[:, part].astype(np.int32)}
            if own:
                more["positions_BT"] = np.maximum(slot_BT - spare[:, None], 0)[:, part]
            scores, cache = forward(EXTENDED, {"params": params}, padded_BT[:, part], cache=cache, **more)
            parts.append(scores)
        return np.concatenate(parts, axis=1)

    ours = decode(padding=0)
    for row, first in enumerate(spare):
        expected = numpy_logits(EXTENDED, params, tokens_BT[row, first:])
        np.testing.assert_allclose(ours[row, first:], expected, atol=2e-5 if own else 1e-4, rtol=1e-5)
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours[is_real_BT], decode(padding=99)[is_real_BT])


def adapter(params: arrays.Tree) -> arrays.Tree:
    """An adapter of rank 2 on q_proj, written by hand: this file knows no other package."""
    rng = np.random.default_rng(5)
    num_layers, fan_in, fan_out = params["layers"]["self_attn"]["q_proj"]["kernel"].shape
    a_LIR = rng.standard_normal((num_layers, fan_in, 2)).astype(np.float32) / np.sqrt(fan_in)
    b_LRO = rng.standard_normal((num_layers, 2, fan_out)).astype(np.float32)
    return {"layers": {"self_attn": {"q_proj": {"a": a_LIR, "b": b_LRO, "scale": np.full((num_layers,), 0.5, np.float32)}}}}


def test_remat_and_unroll_change_neither_values_nor_gradients() -> None:
    """With dropout, so that a recomputed layer must also drop the same inputs again."""
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 6)

    @functools.partial(jax.jit, static_argnames="options")
    def value_and_gradients(trained: arrays.Tree, options: llama.Options) -> tuple[jax.Array, arrays.Tree]:
        def loss(trained: arrays.Tree) -> arrays.Array:
            weights = {"params": {**params, "embed_tokens": trained["embed_tokens"]}, "lora": trained["lora"]}
            x_BTD, _ = llama.hidden_states(GQA, weights, tokens_BT, options=options, dropout_key=jax.random.key(3))
            return (x_BTD**3).mean()

        return jax.value_and_grad(loss)(trained)

    # The gradient of the embedding comes down through everything; those of the other kernels would only take time to compile.
    trained = {"embed_tokens": jax.tree.map(jnp.asarray, params["embed_tokens"]), "lora": adapter(params)}
    value, gradients = value_and_gradients(trained, llama.Options(lora_dropout=0.5))
    for options in ({"remat": "full"}, {"remat": "dots", "unroll": 2}):
        other, other_gradients = value_and_gradients(trained, llama.Options(lora_dropout=0.5, **options))
        np.testing.assert_allclose(other, value, rtol=1e-5, err_msg=str(options))
        for path, gradient in tree.flatten(gradients).items():
            assert gradient.any(), path
            ours = tree.flatten(other_gradients)[path]
            np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-5, err_msg=f"{path} {options}")


def test_dropout_acts_on_adapters_only_and_only_with_a_key() -> None:
    """Where it must not act, the lowered program is letter for letter the one without dropout."""
    params, tokens_BT = reference_weights.lively(GQA), random_tokens(GQA, 2, 9)
    adapted, plain = {"params": params, "lora": adapter(params)}, {"params": params}
    dropping, key = llama.Options(lora_dropout=0.5), jax.random.key(0)

    def program(weights: arrays.Tree, options: llama.Options, key: arrays.Array | None) -> str:
        return jax.jit(lambda weights: forward(GQA, weights, tokens_BT, options, dropout_key=key)).lower(weights).as_text()

    assert program(adapted, dropping, None) == program(adapted, PLAIN, None)
    assert program(adapted, PLAIN, key) == program(adapted, PLAIN, None)
    assert program(plain, dropping, key) == program(plain, PLAIN, None)
    assert program(adapted, dropping, key) != program(adapted, PLAIN, None)


def test_every_layer_and_every_key_drops_other_inputs() -> None:
    """Two equal layers whose MLPs see a constant: each adds the constant twice to what it keeps and nothing to what it drops."""
    config = GQA.replace(intermediate_size=32)
    values = {"kernel": 1 / 32, "weight": 1.0, "base": 1.0}
    params = tree.map_with_path(lambda path, leaf: np.full(leaf.shape, values[path.rpartition("/")[2]], leaf.dtype), llama.abstract(config))
    params["layers"]["self_attn"]["o_proj"]["kernel"][:] = 0
    params["layers"]["mlp"]["down_proj"]["kernel"][:] = 0
    eye = np.stack([np.eye(32, dtype=np.float32)] * 2)

    @jax.jit
    def dropped_from(params: arrays.Tree, scale_L: arrays.Array, key: arrays.Array) -> arrays.Array:
        lora = {"layers": {"mlp": {"down_proj": {"a": eye, "b": eye, "scale": scale_L}}}}
        options = llama.Options(lora_dropout=0.5)
        x_BTD, _ = llama.hidden_states(config, {"params": params, "lora": lora}, jnp.zeros((1, 64), int), options=options, dropout_key=key)
        return x_BTD[0] > x_BTD[0].min(axis=-1, keepdims=True)

    def kept(layer: int, seed: int) -> np.ndarray:
        return np.asarray(dropped_from(params, np.eye(2, dtype=np.float32)[layer], jax.random.key(seed)))

    mask_TD = kept(layer=0, seed=0)
    assert 0.45 < mask_TD.mean() < 0.55
    np.testing.assert_array_equal(mask_TD, kept(layer=0, seed=0))
    for other_TD in (kept(layer=1, seed=0), kept(layer=0, seed=1)):
        assert 0.45 < (mask_TD == other_TD).mean() < 0.55


def test_bfloat16_computes_near_float32_with_float32_logits() -> None:
    params, tokens_BT = reference_weights.lively(EXTENDED), random_tokens(EXTENDED, 2, 9)
    options = llama.Options(dtype=jnp.bfloat16)
    x_BTD, _ = jax.eval_shape(lambda params: llama.hidden_states(EXTENDED, {"params": params}, tokens_BT, options=options), params)
    assert x_BTD.dtype == jnp.bfloat16
    rough, exact = forward(EXTENDED, {"params": params}, tokens_BT, options)[0], logits(EXTENDED, params, tokens_BT)
    assert rough.dtype == np.float32
    assert 1e-4 < np.sqrt(np.mean((rough - exact) ** 2)) < 0.05 * exact.std()


@pytest.mark.parametrize("name", ["extended", "tied and extended"])
def test_spare_rows_are_never_seen_and_never_learn(name: str) -> None:
    config = VARIANTS[name]
    params, tokens_BT = reference_weights.lively(config), random_tokens(config, 2, 9)
    blocks = {"base": config.base_rows, "extension": config.extension_rows}

    def spoil(path: str, leaf: np.ndarray) -> np.ndarray:
        rows = blocks.get(path.rpartition("/")[2], len(leaf))
        return np.concatenate([leaf[:rows], np.full_like(leaf[rows:], 1e6)])

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients_and_logits(vocabulary: arrays.Tree) -> tuple[arrays.Array, arrays.Array]:
        scores_BTV, _ = forward(config, {"params": {**params, **vocabulary}}, tokens_BT)
        return jax.nn.logsumexp(scores_BTV, axis=-1).mean(), scores_BTV

    vocabulary = {name: params[name] for name in ("embed_tokens", "lm_head") if name in params}
    spoilt = tree.map_with_path(spoil, vocabulary)
    assert spoilt["embed_tokens"]["base"].max() == spoilt["embed_tokens"]["extension"].max() == 1e6
    gradients, scores_BTV = gradients_and_logits(spoilt)
    np.testing.assert_array_equal(scores_BTV, gradients_and_logits(vocabulary)[1])
    for path, gradient in tree.flatten(gradients).items():
        rows = blocks[path.rpartition("/")[2]]
        assert gradient[:rows].any() and not gradient[rows:].any(), path


def test_logits_take_hidden_states_of_any_rank() -> None:
    params = reference_weights.lively(EXTENDED)
    x_BTD = np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32)
    whole = llama.logits(EXTENDED, params, x_BTD)
    np.testing.assert_allclose(llama.logits(EXTENDED, params, x_BTD[1, 2]), whole[1, 2], atol=1e-5)
    np.testing.assert_allclose(llama.logits(EXTENDED, params, x_BTD[0]), whole[0], atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_tree_has_the_documented_leaves(config: config_lib.LlamaConfig) -> None:
    """No extension leaf unless extended, no head when tied, spare rows up to a multiple of 128."""
    heads, kv_heads = config.num_attention_heads * config.head_width, config.num_kv_heads * config.head_width
    shapes = {
        "layers/self_attn/q_proj/kernel": (2, 32, heads),
        "layers/self_attn/k_proj/kernel": (2, 32, kv_heads),
        "layers/self_attn/v_proj/kernel": (2, 32, kv_heads),
        "layers/self_attn/o_proj/kernel": (2, heads, 32),
        "layers/mlp/gate_proj/kernel": (2, 32, 88),
        "layers/mlp/up_proj/kernel": (2, 32, 88),
        "layers/mlp/down_proj/kernel": (2, 88, 32),
        "layers/input_layernorm/weight": (2, 32),
        "layers/post_attention_layernorm/weight": (2, 32),
        "norm/weight": (32,),
    }
    for name in ("embed_tokens",) if config.tie_word_embeddings else ("embed_tokens", "lm_head"):
        shapes[f"{name}/base"] = (256, 32)
        if config.extension_rows:
            shapes[f"{name}/extension"] = (128, 32)
    assert {path: leaf.shape for path, leaf in tree.flatten(llama.abstract(config)).items()} == shapes


def test_init_draws_small_weights_unit_norms_and_zero_spare_rows() -> None:
    config = EXTENDED.replace(hidden_size=64)
    params = llama.init(config, jax.random.key(0))
    assert tree.abstract(params) == llama.abstract(config)
    for path, leaf in tree.flatten(params).items():
        if path.endswith("weight"):
            assert (leaf == 1).all()
        elif path.endswith("kernel"):
            assert 0.018 < leaf.std() < 0.022 and abs(leaf.mean()) < 0.002, path
            assert np.abs(leaf[0] - leaf[1]).max() > 0.01, "layers start differently"
        else:
            rows = config.base_rows if path.endswith("base") else config.extension_rows
            assert 0.018 < leaf[:rows].std() < 0.022 and not leaf[rows:].any(), path


# Parameters of the released models, and of the 7B model with the merged vocabulary of 49,953.
@pytest.mark.parametrize(
    ("name", "vocab_size", "count"),
    [
        ("7b", 32_000, 6_738_415_616),
        ("7b", 49_953, 6_885_486_592),
        ("13b", 32_000, 13_015_864_320),
        ("33b", 32_000, 32_528_943_616),
        ("65b", 32_000, 65_285_660_672),
    ],
)
def test_named_sizes_have_the_published_number_of_parameters(name: str, vocab_size: int, count: int) -> None:
    config = config_lib.named(name, vocab_size=vocab_size, base_vocab_size=32_000)
    leaves = tree.flatten(llama.abstract(config, jnp.bfloat16))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in leaves.values())
    body = sum(leaf.size for path, leaf in leaves.items() if not path.startswith(("embed_tokens", "lm_head")))
    assert body + 2 * vocab_size * config.hidden_size == count
    spare = config_lib.padded_rows(config.extension_rows) - config.extension_rows
    assert sum(leaf.size for leaf in leaves.values()) == count + 2 * spare * config.hidden_size


def test_options_are_checked_and_fit_to_be_static() -> None:
    with pytest.raises(ValueError, match="remat must be one of none, dots, full, got 'all'"):
        llama.Options(remat="all")
    assert hash(llama.Options(dtype=jnp.bfloat16)) == hash(llama.Options(dtype=jnp.bfloat16))
