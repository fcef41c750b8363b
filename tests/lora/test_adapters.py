"""New adapters change nothing, are where the targets say, and start the same whatever stands beside them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as config_lib
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama

MICRO = model_config.named("micro", vocab_size=200)
PARAMS = llama.abstract(MICRO)
KEY = jax.random.key(0)


@functools.cache
def fresh(targets: tuple[str, ...] = config_lib.ATTENTION + config_lib.MLP) -> dict[str, arrays.Array]:
    """The leaves of new adapters of rank 4 by path."""
    return tree.flatten(adapters.init(KEY, PARAMS, config_lib.LoraConfig(rank=4, targets=targets)))


@functools.partial(jax.jit, static_argnames="options")
def logits(weights: arrays.Tree, tokens_BT: arrays.Array, options: llama.Options, key: arrays.Array | None = None) -> arrays.Array:
    x_BTD, _ = llama.hidden_states(MICRO, weights, tokens_BT, options=options, dropout_key=key)
    return llama.logits(MICRO, weights["params"], x_BTD)


@pytest.mark.parametrize(("dtype", "dropout"), [(jnp.float32, 0.0), (jnp.bfloat16, 0.5)])
def test_at_the_start_the_model_is_the_base_bit_for_bit(dtype: jnp.dtype, dropout: float) -> None:
    params, tokens_BT = reference_weights.lively(MICRO), np.arange(20).reshape(2, 10)
    options = llama.Options(dtype=dtype, lora_dropout=dropout)
    base = logits({"params": params}, tokens_BT, options)
    adapted = logits({"params": params, "lora": tree.unflatten(fresh())}, tokens_BT, options, KEY if dropout else None)
    np.testing.assert_array_equal(adapted, base)


def test_each_target_gets_factors_and_a_scale_for_every_layer() -> None:
    shapes = {path: leaf.shape for path, leaf in fresh(("q_proj", "k_proj", "down_proj")).items()}
    assert shapes == {
        "layers/self_attn/q_proj/a": (2, 32, 4),
        "layers/self_attn/q_proj/b": (2, 4, 32),
        "layers/self_attn/q_proj/scale": (2,),
        "layers/self_attn/k_proj/a": (2, 32, 4),
        "layers/self_attn/k_proj/b": (2, 4, 16),
        "layers/self_attn/k_proj/scale": (2,),
        "layers/mlp/down_proj/a": (2, 88, 4),
        "layers/mlp/down_proj/b": (2, 4, 32),
        "layers/mlp/down_proj/scale": (2,),
    }


def test_a_fills_the_bound_of_pefts_kaiming_start_and_b_is_zero() -> None:
    """kaiming_uniform(a=√5) over a fan-in of I is uniform within ± √(6 / ((1 + 5) I)) = ± 1/√I."""
    for path, leaf in fresh().items():
        if path.endswith("/a"):
            bound = 1 / math.sqrt(leaf.shape[1])
            assert 0.97 * bound < np.abs(leaf).max() <= bound, path
            assert abs(leaf.mean()) < 0.15 * bound and abs(leaf.std() - bound / math.sqrt(3)) < 0.1 * bound, path
            assert np.abs(leaf[0] - leaf[1]).max() > 0.1 * bound, f"{path}: layers start differently"
        elif path.endswith("/b"):
            assert not leaf.any(), path
        else:
            np.testing.assert_array_equal(leaf, np.full(2, 8.0, np.float32))


def test_adding_targets_leaves_the_start_of_the_others() -> None:
    few, many = fresh(("q_proj", "v_proj")), fresh()
    assert few.keys() < many.keys()
    for path, leaf in few.items():
        np.testing.assert_array_equal(leaf, many[path])


def test_kernels_of_equal_shape_and_other_keys_start_differently() -> None:
    all_seven = fresh()
    names = [path for path in all_seven if path.endswith("/a")]
    drawn = [all_seven[path].ravel()[:64] for path in names]
    drawn.append(adapters.init(jax.random.key(1), PARAMS, config_lib.LoraConfig(rank=4))["layers"]["self_attn"]["q_proj"]["a"].ravel()[:64])
    correlation = np.corrcoef(np.stack(drawn)) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 0.5


def test_factors_take_the_dtype_and_the_scale_stays_float32() -> None:
    lora = jax.eval_shape(lambda: adapters.init(KEY, PARAMS, config_lib.LoraConfig(), dtype=jnp.bfloat16))
    assert {path.rpartition("/")[2]: leaf.dtype for path, leaf in tree.flatten(lora).items()} == {
        "a": jnp.bfloat16,
        "b": jnp.bfloat16,
        "scale": jnp.float32,
    }


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("layers/mlp/.*",), ["gate_proj", "up_proj", "down_proj"]),
        ((".*/(q|v)_proj", "up_proj"), ["q_proj", "v_proj", "up_proj"]),
        (("q_proj|layers/mlp/up_proj",), ["up_proj"]),
    ],
)
def test_targets_may_be_regexes_over_the_whole_path(names: tuple[str, ...], found: list[str]) -> None:
    assert sorted(path.rsplit("/", 1)[-1] for path in adapters.targets(PARAMS, names)) == sorted(found)
    made = fresh(names)
    assert {path.split("/")[-2] for path in made} == set(found)


def test_a_target_that_an_earlier_one_covers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"lora targets: '\.\*/q_proj/kernel' decides nothing"):
        adapters.targets(PARAMS, ("layers/self_attn/.*", "q_proj"))


def test_targets_are_found_by_the_name_of_their_module() -> None:
    assert adapters.targets(PARAMS, ("up_proj", "q_proj")) == ["layers/mlp/up_proj", "layers/self_attn/q_proj"]
    assert len(adapters.targets(PARAMS, config_lib.ATTENTION + config_lib.MLP)) == 7


@pytest.mark.parametrize("name", ["q", "qproj", "embed_tokens", "norm", "self_attn", "query_key_value"])
def test_a_target_that_names_no_kernel_is_an_error_that_lists_the_names(name: str) -> None:
    with pytest.raises(ValueError, match=rf"lora targets: '\.\*/{name}/kernel' decides nothing; the paths are .*mlp/gate_proj/kernel"):
        adapters.init(KEY, PARAMS, config_lib.LoraConfig(targets=("q_proj", name)))


# Trainable factors of the paper's runs.
@pytest.mark.parametrize(
    ("size", "rank", "targets", "count"),
    [
        ("7b", 8, config_lib.ATTENTION, 8_388_608),
        ("7b", 8, config_lib.ATTENTION + config_lib.MLP, 19_988_480),
        ("7b", 64, config_lib.ATTENTION + config_lib.MLP, 159_907_840),
        ("13b", 8, config_lib.ATTENTION + config_lib.MLP, 31_293_440),
        ("33b", 8, config_lib.ATTENTION + config_lib.MLP, 60_948_480),
    ],
)
def test_count_gives_the_papers_numbers_on_abstract_shapes(size: str, rank: int, targets: tuple[str, ...], count: int) -> None:
    params = llama.abstract(model_config.named(size, vocab_size=49_953, base_vocab_size=32_000))
    lora = jax.eval_shape(lambda: adapters.init(KEY, params, config_lib.LoraConfig(rank=rank, targets=targets)))
    assert adapters.count(lora) == count


def changed(**changes: object) -> dict:
    """New adapters of q_proj with leaves changed, added or (None) taken away, by path."""
    leaves = {**fresh(("q_proj",)), **{path.replace("__", "/"): leaf for path, leaf in changes.items()}}
    return tree.unflatten({path: leaf for path, leaf in leaves.items() if leaf is not None})


FACTORS = {"a": np.zeros((2, 32, 4)), "b": np.zeros((2, 4, 32)), "scale": np.zeros(2)}
WRONG = {
    "a misspelt module": (changed(layers__self_attn__qq_proj=FACTORS), "layers/self_attn/qq_proj names no kernel"),
    "the head": (changed(lm_head=FACTORS), "lm_head names no kernel"),
    "a without b": (changed(layers__self_attn__q_proj__b=None), "q_proj must hold a, b, scale, and holds a, scale"),
    "a leaf too many": (changed(layers__self_attn__q_proj__bias=np.zeros(2)), "and holds a, b, scale, bias"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_adapters_that_nobody_would_read_are_refused_where_they_are_made_and_where_they_are_used(wrong: str) -> None:
    lora, message = WRONG[wrong]
    with pytest.raises(ValueError, match=f"the adapter does not fit the model: .*{message}"):
        adapters.check(PARAMS, lora)
    with pytest.raises(ValueError, match="adapters are a, b and scale beside a kernel"):
        jax.eval_shape(lambda: llama.hidden_states(MICRO, {"params": llama.init(MICRO, KEY), "lora": lora}, jnp.zeros((1, 2), jnp.int32)))


@pytest.mark.parametrize(
    ("leaf", "shape"),
    [("a", (2, 16, 4)), ("a", (3, 32, 4)), ("a", (2, 32, 5)), ("b", (2, 4, 16)), ("b", (4, 32)), ("scale", ()), ("scale", (3,))],
)
def test_shapes_that_do_not_fit_are_told(leaf: str, shape: tuple[int, ...]) -> None:
    lora = changed(**{f"layers__self_attn__q_proj__{leaf}": np.zeros(shape)})
    with pytest.raises(ValueError, match=r"q_proj has a \[.*\], beside a kernel of \[2, 32, 32\] \(layers, inputs, outputs\)"):
        adapters.check(PARAMS, lora)


def test_what_is_made_fits() -> None:
    assert adapters.problems(PARAMS, tree.unflatten(fresh())) == []
