"""The estimate beside XLA's own plan of the compiled step."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from zhllama_jax import tree
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place, rules
from zhllama_jax.train import config, feed, machines, memory, optimizer, stages
from zhllama_jax.train import state as state_lib
from zhllama_jax.train import step as step_lib

LEAST, MOST = 0.9, 1.4
"""The estimate of everything that a device holds at once, as parts of the plan: it may say too much rather than too little."""


def planned(
    llama_config: model_config.LlamaConfig,
    stage: config.Stage,
    mesh: config.Mesh,
    *,
    remat: str,
    micro_batch: int,
    length: int,
    **more: Any,
) -> tuple[int, int]:
    """(bytes of the step's arguments, bytes of all that one device holds at once) in XLA's plan, without making a weight."""
    chunk, accumulation = more.get("loss_chunk", 512), more.get("accumulation", 1)
    shape = (mesh.data, mesh.fsdp, mesh.tensor)
    devices = mesh_lib.make(*shape, devices=jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor])
    weights = stages.abstract(stage, llama_config, config.Lora())
    plan = stages.plan(stage, weights)

    def placed(part: Any) -> Any:
        leaves = tree.flatten(part)
        places = place.shardings(leaves, rules.specs(leaves), devices)
        return tree.unflatten({path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=places[path]) for path, leaf in leaves.items()})

    trainable, frozen = map(placed, tree.partition(weights, plan.mask))
    rate = optimizer.schedule(config.Schedule(), peak=1e-3, steps=10)
    tx = optimizer.make(config.Optimizer(), rate, plan.trainable)
    zero = jnp.zeros((), jnp.int32)
    state = jax.eval_shape(lambda leaves: state_lib.State(zero, leaves, tx.init(leaves), zero, zero), trainable)
    places = state_lib.shardings(state, devices)
    state = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), state, places)
    shards = mesh.data * mesh.fsdp
    dropout = 0.05 if stage.lora_targets else 0.0
    options = llama.Options(remat=remat, lora_dropout=dropout, sharding=place.tokens(devices))
    recipe = step_lib.Recipe(llama_config, tx, rate, options, 0, chunk * shards)
    batch = feed.abstract_batch(devices, batch=micro_batch * shards * accumulation, accumulation=accumulation, length=length)
    found = step_lib.compiled(step_lib.train(recipe), state).lower(state, frozen, batch).compile().memory_analysis()
    return found.argument_size_in_bytes, found.argument_size_in_bytes + found.temp_size_in_bytes


ONE = config.Mesh(1, 1, 1)
CASES: list[tuple[str, config.Mesh, dict[str, Any]]] = [
    ("embeddings", ONE, {"remat": "none", "micro_batch": 4, "length": 128}),
    ("pretrain_lora", ONE, {"remat": "dots", "micro_batch": 8, "length": 64, "loss_chunk": 128}),
    ("sft", ONE, {"remat": "full", "micro_batch": 4, "length": 256, "loss_chunk": 128, "accumulation": 2}),
    ("full", ONE, {"remat": "full", "micro_batch": 2, "length": 128}),
    ("embeddings", config.Mesh(1, 4, 1), {"remat": "full", "micro_batch": 4, "length": 128, "loss_chunk": 128}),
    ("pretrain_lora", config.Mesh(1, 2, 2), {"remat": "dots", "micro_batch": 4, "length": 128, "loss_chunk": 128}),
]


@pytest.mark.parametrize(
    ("preset", "mesh", "how"), CASES, ids=[f"{preset}-{mesh.fsdp}x{mesh.tensor}-{how['remat']}" for preset, mesh, how in CASES]
)
def test_the_estimate_is_near_the_compilers_plan(preset: str, mesh: config.Mesh, how: dict[str, Any]) -> None:
    llama_config, stage = model_config.named("tiny", vocab_size=1500, base_vocab_size=1000), config.Stage(preset)
    estimate = memory.estimate(llama_config, stage, config.Lora(), mesh, dtype="float32", **how)
    arguments, total = planned(llama_config, stage, mesh, **how)
    rows = 5 * 4 * how["micro_batch"] * how["length"] * how.get("accumulation", 1)
    assert estimate.stored + rows == pytest.approx(arguments, rel=0.005), "weights and moments are exact"
    assert LEAST * total <= estimate.total <= MOST * total, estimate


def test_every_way_to_save_memory_saves_some() -> None:
    shape, stage = model_config.named("7b", vocab_size=49_953, base_vocab_size=32_000), config.Stage("sft")

    def total(fsdp: int = 8, **changes: Any) -> int:
        how: dict[str, Any] = {"micro_batch": 8, "length": 512, "dtype": "bfloat16", "remat": "dots", **changes}
        return memory.estimate(shape, stage, config.Lora(), config.Mesh(1, fsdp, 1), **how).total

    base = total()
    assert total(micro_batch=4) < base
    assert total(remat="full") < base < total(remat="none")
    assert total(16) < base < total(4)
    assert total(dtype="float32") > base
    assert total(length=256, remat="full", loss_chunk=64) < total(length=256, remat="full", loss_chunk=4096)


def test_the_base_of_7b_in_bfloat16_takes_its_known_size() -> None:
    """jax.md's table ahead of time: 7B with LoRA, embedding and head takes 2.21 GiB of arguments on each of 8 chips."""
    shape = model_config.named("7b", vocab_size=49_953, base_vocab_size=32_000)
    found = memory.estimate(
        shape, config.Stage("sft"), config.Lora(), config.Mesh(1, 8, 1), micro_batch=4, length=512, dtype="bfloat16", remat="full"
    )
    assert found.stored / machines.GIB == pytest.approx(2.21, rel=0.05)
