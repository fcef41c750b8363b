"""The table covers every leaf and every tensor, in both directions."""

import numpy as np
import pytest

from zhllama_jax import tree
from zhllama_jax.convert import names
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import llama

EXTENDED = config_lib.named("micro", vocab_size=300, base_vocab_size=260)
SHAPES = {tensor.name: tensor.shape for tensor in names.tensors(EXTENDED)}


def test_every_rule_names_a_leaf_and_every_leaf_has_a_rule() -> None:
    paths = tree.flatten({"params": llama.abstract(EXTENDED)})
    tree.match(names.RULES, paths, table="tensor names", unused="error")


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_are_those_of_transformers(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = EXTENDED.replace(tie_word_embeddings=tied)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_kv_heads,
            tie_word_embeddings=tied,
        )
    )
    assert {tensor.name: tensor.shape for tensor in names.tensors(config)} == {
        name: tuple(value.shape) for name, value in theirs.named_parameters()
    }


def test_collect_inverts_export() -> None:
    leaves = {path: np.random.default_rng(1).normal(size=leaf.shape) for path, leaf in tree.flatten(llama.abstract(EXTENDED)).items()}
    for path in leaves:  # spare rows are zeros and do not travel
        rows = {"base": 260, "extension": 40}.get(path.rsplit("/", 1)[-1])
        if rows:
            leaves[path][rows:] = 0
    exported = dict(names.export(EXTENDED, tree.unflatten(leaves)))
    assert {name: array.shape for name, array in exported.items()} == SHAPES
    back = tree.flatten(names.collect(EXTENDED, exported.__getitem__))
    assert back.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(back[path], leaf)


def test_kernels_are_transposed_and_layers_unstacked() -> None:
    params = names.collect(EXTENDED, lambda name: np.full(SHAPES[name], 7.0 if "layers.1" in name else 3.0))
    assert params["layers"]["mlp"]["down_proj"]["kernel"].shape == (2, 88, 32)
    assert np.all(params["layers"]["mlp"]["down_proj"]["kernel"][1] == 7.0)
    assert np.all(params["layers"]["input_layernorm"]["weight"][0] == 3.0)


def test_find_inverts_tensors() -> None:
    for tensor in names.tensors(EXTENDED):
        assert names.find(tensor.name) == (tensor.path, tensor.layer, tensor.form)
    for stranger in (
        "model.layers.01.mlp.up_proj.weight",
        "model.layers.x.mlp.up_proj.weight",
        "model.norm.bias",
        "layers.0.mlp.up_proj.weight",
    ):
        assert names.find(stranger) is None
    assert (names.matrix("embed_tokens"), names.matrix("lm_head")) == ("model.embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (257, 129), (128, 256)])
def test_tiles_make_the_transposed_matrix(shape: tuple[int, int]) -> None:
    matrix = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    for view in (matrix, np.asfortranarray(matrix)):
        found = names.transposed(view)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, matrix.T)


def test_check_lists_everything_that_is_wrong() -> None:
    shapes = dict(SHAPES)
    del shapes["model.norm.weight"]
    shapes["model.layers.2.mlp.up_proj.weight"] = (88, 32)
    shapes["model.layers.0.self_attn.q_proj.weight"] = (32, 16)
    shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = (4,)
    with pytest.raises(ValueError) as error:
        names.check(EXTENDED, shapes, where="here")
    message = str(error.value)
    assert "missing: model.norm.weight" in message
    assert "not part of this model: model.layers.2.mlp.up_proj.weight" in message
    assert "model.layers.0.self_attn.q_proj.weight has shape [32, 16], config.json asks for [32, 32]" in message
    assert "inv_freq" not in message


def test_check_explains_known_vocabularies() -> None:
    config = EXTENDED.replace(vocab_size=49_953, base_vocab_size=32_000)
    shapes = {tensor.name: tensor.shape for tensor in names.tensors(config)}
    shapes["lm_head.weight"] = (49_954, 32)
    with pytest.raises(ValueError, match=r"49,954 is the Chinese-Alpaca vocabulary, which is Chinese-LLaMA's with \[PAD\]; 49,953 is"):
        names.check(config, shapes, where="here")


def test_long_lists_are_cut() -> None:
    assert names.listed([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_of_two_long_names_both_are_told() -> None:
    left, right = "a" * 70, "b" * 90
    assert names.listed_pairs([(left, right), ("c", "d\n")]) == rf"{left} and {right[:80]}…, c and d\n"
