"""Partition rules: every weight has one, every rule has a weight, and moments follow their weights."""

import re

import jax
from jax.sharding import PartitionSpec as P

from zhllama_jax import tree
from zhllama_jax.lora import adapters
from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.shard import rules


def weights() -> dict:
    """Paths and shapes of an extended model with adapters on every kernel."""
    params = llama.abstract(model_config.named("micro", vocab_size=300, base_vocab_size=200))
    lora = jax.eval_shape(lambda key: adapters.init(key, params, lora_config.LoraConfig()), jax.random.key(0))
    return tree.flatten({"params": params, "lora": lora})


def test_every_weight_has_a_spec_of_its_rank() -> None:
    leaves = weights()
    specs = rules.specs(leaves)
    assert all(len(specs[path]) in (0, len(leaf.shape)) for path, leaf in leaves.items())


def test_every_rule_decides_something() -> None:
    for pattern, _ in rules.WEIGHTS:
        assert any(re.fullmatch(pattern, path) for path in weights()), pattern


def test_products_meet_along_one_axis() -> None:
    """What a kernel puts out along `tensor` is what the next one takes in along `tensor`."""
    specs = rules.specs(weights())
    for inward, outward in (("self_attn/v_proj", "self_attn/o_proj"), ("mlp/up_proj", "mlp/down_proj")):
        assert specs[f"params/layers/{inward}/kernel"] == P(None, "fsdp", "tensor")
        assert specs[f"params/layers/{outward}/kernel"] == P(None, "tensor", "fsdp")
        assert specs[f"lora/layers/{inward}/b"][2] == specs[f"lora/layers/{outward}/a"][1] == "tensor"


def test_moments_follow_their_weights_and_counters_lie_everywhere() -> None:
    specs = rules.state_specs(["opt_state/1/mu/params/lm_head/base", "opt_state/1/count", "step", "trainable/lora/layers/mlp/up_proj/a"])
    assert list(specs.values()) == [P("tensor", "fsdp"), P(), P(), P(None, "fsdp", None)]
