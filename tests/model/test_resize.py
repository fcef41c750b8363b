"""Growing a vocabulary moves no old bit, starts new rows where it says, and adds nothing that counts or can be sampled."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama, resize

PLAIN = config_lib.named("micro", vocab_size=200)
TIED = config_lib.named("micro", vocab_size=200, tie_word_embeddings=True)
EXTENDED = config_lib.named("micro", vocab_size=260, base_vocab_size=200)
CONFIGS = {"plain": PLAIN, "tied": TIED, "extended": EXTENDED}
# For every new id the old ids that spell it: several, one, the same twice, none (a control piece), the last id there is.
PIECES = [[3, 199, 7], [5], [8, 8, 9], [], [199]]


def bits(array: arrays.Array) -> bytes:
    return np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_old_row_and_every_other_weight_keeps_its_bits(name: str, dtype: type) -> None:
    config = CONFIGS[name]
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), reference_weights.lively(config))
    before = {path: bits(leaf) for path, leaf in tree.flatten(params).items()}
    grown, after = resize.grow(config, params, pieces=PIECES)
    assert grown == config.replace(vocab_size=config.vocab_size + 5, base_vocab_size=200)
    matrices = [name for name in config_lib.MATRICES if name in params]
    assert matrices == (["embed_tokens"] if config.tie_word_embeddings else ["embed_tokens", "lm_head"])
    for path, leaf in tree.flatten(after).items():
        assert leaf.dtype == dtype, path
        if not path.endswith("/extension"):
            assert bits(leaf) == before[path], path
    for matrix in matrices:
        assert bits(resize.rows(after[matrix], grown)[: config.vocab_size]) == bits(resize.rows(params[matrix], config))
    assert {path: bits(leaf) for path, leaf in tree.flatten(params).items()} == before, "the given tree was changed"
    assert tree.abstract(after) == llama.abstract(grown, dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_mean_of_pieces_starts_rows_at_the_mean_of_their_pieces_in_both_matrices(name: str) -> None:
    config = CONFIGS[name]
    params = reference_weights.lively(config)
    pieces = [*PIECES, [config.vocab_size - 1, 0]]
    grown, after = resize.grow(config, params, pieces=pieces)
    state = reference_weights.hf_state(config, params)
    for matrix, key in (("embed_tokens", "model.embed_tokens.weight"), ("lm_head", "lm_head.weight")):
        if matrix not in params:
            continue
        old_VD = state[key].astype(np.float64)
        expected = [sum(old_VD[id_] for id_ in entry) / len(entry) if entry else old_VD.mean(axis=0) for entry in pieces]
        np.testing.assert_allclose(resize.rows(after[matrix], grown)[config.vocab_size :], expected, atol=1e-6)


@pytest.mark.parametrize("init", ["mean_of_pieces", "mean"])
def test_means_of_bfloat16_rows_are_taken_in_float32_over_logical_rows(init: str) -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), reference_weights.lively(EXTENDED))
    grown, after = resize.grow(EXTENDED, params, pieces=[range(260), []], init=init)
    old_VD = np.asarray(resize.rows(params["embed_tokens"], EXTENDED), np.float64)
    new_VD = np.asarray(resize.rows(after["embed_tokens"], grown)[260:], np.float32)
    np.testing.assert_allclose(new_VD, np.stack([old_VD.mean(axis=0)] * 2), rtol=2**-8)


def test_normal_draws_small_rows_of_their_own_for_each_matrix() -> None:
    params = reference_weights.lively(PLAIN)
    grown, after = resize.grow(PLAIN, params, pieces=[[]] * 300, init="normal", key=jax.random.key(0))
    new = {matrix: np.asarray(resize.rows(after[matrix], grown)[200:]) for matrix in config_lib.MATRICES}
    for rows_VD in new.values():
        assert rows_VD.shape == (300, 32)
        assert 0.019 < rows_VD.std() < 0.021 and abs(rows_VD.mean()) < 0.001
    assert abs(np.corrcoef(new["embed_tokens"].ravel(), new["lm_head"].ravel())[0, 1]) < 0.05


def test_only_control_pieces_take_the_mean_of_all_rows() -> None:
    params = reference_weights.lively(PLAIN)
    _, after = resize.grow(PLAIN, params, pieces=[[]], pad_token_id=200)
    np.testing.assert_allclose(after["lm_head"]["extension"][0], params["lm_head"]["base"][:200].mean(axis=0), atol=1e-6)


def test_growing_by_the_padding_piece_keeps_the_shape_and_the_rows() -> None:
    """The small twin of 49,953 -> 49,954: the row of the padding piece was spare before."""
    params = reference_weights.lively(EXTENDED)
    grown, after = resize.grow(EXTENDED, params, pieces=[[]], pad_token_id=260)
    assert (grown.vocab_size, grown.base_rows, grown.pad_token_id) == (261, 200, 260)
    assert tree.abstract(after) == tree.abstract(params)
    for matrix in config_lib.MATRICES:
        np.testing.assert_array_equal(after[matrix]["extension"][:60], params[matrix]["extension"][:60])
        assert np.any(after[matrix]["extension"][60]) and not np.any(after[matrix]["extension"][61:])
    seven_b = config_lib.named("7b", vocab_size=49_953, base_vocab_size=32_000)
    alpaca = seven_b.replace(vocab_size=49_954)
    assert llama.abstract(alpaca) == llama.abstract(seven_b)


def test_growing_twice_appends_and_outgrowing_the_spare_rows_adds_a_block_of_128() -> None:
    params = reference_weights.lively(PLAIN)
    once_config, once = resize.grow(PLAIN, params, pieces=[[id_] for id_ in range(100)])
    twice_config, twice = resize.grow(once_config, once, pieces=[[200 + id_] for id_ in range(40)])
    assert once["embed_tokens"]["extension"].shape == (128, 32) and twice["embed_tokens"]["extension"].shape == (256, 32)
    whole = np.asarray(resize.rows(twice["embed_tokens"], twice_config))
    old = params["embed_tokens"]["base"]
    np.testing.assert_array_equal(whole, np.concatenate([old[:200], old[:100], old[:40]]))
    assert not np.any(twice["embed_tokens"]["extension"][140:])


def test_the_grown_model_scores_new_ids_by_their_new_rows_and_old_ids_as_before() -> None:
    params = reference_weights.lively(PLAIN)
    grown, after = resize.grow(PLAIN, params, pieces=PIECES)
    x_TD = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    before_TV, after_TV = llama.logits(PLAIN, params, x_TD), llama.logits(grown, after, x_TD)
    assert after_TV.shape == (4, 205)
    np.testing.assert_array_equal(after_TV[:, :200], before_TV)
    np.testing.assert_allclose(after_TV[:, 200], before_TV[:, jnp.array([3, 199, 7])].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(after_TV[:, 201], before_TV[:, 5], atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_is_the_inverse_of_rows_without_a_device(name: str) -> None:
    config = CONFIGS[name]
    matrix_VD = np.random.default_rng(0).standard_normal((config.vocab_size, 8)).astype(ml_dtypes.bfloat16)
    cut = resize.blocks(matrix_VD, config)
    assert {block: leaf.shape for block, leaf in cut.items()} == (
        {"base": (256, 8), "extension": (128, 8)} if config.extension_rows else {"base": (256, 8)}
    )
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == ml_dtypes.bfloat16 for leaf in cut.values())
    assert bits(resize.rows(cut, config)) == bits(matrix_VD)
    assert not cut["base"][200:].any()


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a matrix of 261 rows does not fit a vocabulary of 260"):
        resize.blocks(np.zeros((261, 8)), EXTENDED)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pieces": []}, "nothing to add: the model has 200 rows already"),
        ({"pieces": [[1], [200, 2], [-1]]}, r"pieces \[-1, 200\] lie outside the model's vocabulary of 200"),
        ({"pieces": [[1]], "init": "zeros"}, "init must be one of mean_of_pieces, mean, normal, got 'zeros'"),
        ({"pieces": [[1]], "pad_token_id": 201}, "pad_token_id 201 is no id of a vocabulary of 201"),
        ({"pieces": [[1]], "init": "normal"}, "init 'normal' needs a key"),
    ],
)
def test_what_cannot_be_done_is_refused(more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize.grow(PLAIN, {}, **more)


@pytest.mark.parametrize("keep", [250, 200, 150])
def test_cut_keeps_the_first_rows_on_their_side_of_the_split(keep: int) -> None:
    config = config_lib.named("micro", vocab_size=300, base_vocab_size=200, pad_token_id=240)
    rng = np.random.default_rng(0)
    matrix_VD = rng.standard_normal((300, 32)).astype(np.float32)
    params = {"embed_tokens": resize.blocks(matrix_VD, config), "norm": {"weight": np.ones(32)}}
    smaller, kept = resize.cut(config, params, keep)
    assert (smaller.vocab_size, smaller.base_rows, smaller.pad_token_id) == (keep, min(200, keep), 240 if keep == 250 else None)
    assert ("extension" in kept["embed_tokens"]) == (keep > 200)
    np.testing.assert_array_equal(resize.rows(kept["embed_tokens"], smaller), matrix_VD[:keep])
    for name, block in kept["embed_tokens"].items():
        rows = {"base": smaller.base_rows, "extension": smaller.extension_rows}[name]
        assert block.shape[0] % 128 == 0 and not np.any(block[rows:]), "rows that are gone leave nothing"
    assert kept["norm"] is params["norm"]
    with pytest.raises(ValueError, match="a vocabulary of 300 cannot be cut to 301"):
        resize.cut(config, params, 301)
