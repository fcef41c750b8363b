"""The training step is that of transformers and PEFT: loss, every gradient, and fifty updates, on packed and padded rows."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.reference import peft_llama, transformers_llama
from tests.reference import weights as reference_weights
from zhllama_jax import arrays, tree
from zhllama_jax.data import batches, pack
from zhllama_jax.lora import adapters
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.shard import mesh as mesh_lib
from zhllama_jax.shard import place, rules
from zhllama_jax.train import config, optimizer, stages
from zhllama_jax.train import state as state_lib
from zhllama_jax.train import step as step_lib

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

LENGTH = 40  # beyond the 24 that the stretched models were trained for
LORA = config.Lora(rank=8, alpha=32.0, dropout=0.0)


def weights_of(stage: config.Stage, shape: model_config.LlamaConfig) -> arrays.Tree:
    """Weights of order-one activations; the factors of adapters are both away from zero."""
    rng = np.random.default_rng(1)

    def factor(path: str, leaf: arrays.Array) -> np.ndarray:
        if path.endswith("/scale"):
            return np.full(leaf.shape, LORA.alpha / LORA.rank, np.float32)
        return (0.3 * rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[1])).astype(np.float32)

    found = stages.abstract(stage, shape, LORA)
    return {"params": reference_weights.lively(shape)} | ({"lora": tree.map_with_path(factor, found["lora"])} if "lora" in found else {})


def examples(vocab_size: int, seed: int, *, rows: int) -> batches.Batch:
    """Prompts and answers of all lengths, laid into rows as training lays them, with padding; one fills a row. [2, rows / 2, T]"""
    rng = np.random.default_rng(seed)
    sizes = [LENGTH, *rng.integers(2, 27, 3 * rows)]
    made = [pack.Example(rng.integers(0, vocab_size, size).tolist(), (np.arange(size) > size // 3).astype(int).tolist()) for size in sizes]
    packed = list(pack.pack_examples(made, length=LENGTH))[:rows]
    batch = batches.collate(packed, separate=True)
    assert batch.segment_ids.max() > 1 and (batch.segment_ids == 0).any()
    return jax.tree.map(lambda field: field.reshape(2, rows // 2, LENGTH), batch)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of PyTorch that wait for each other cost more than tiny products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Trainer:
    """The compiled step of a stage, its optimizer given, on one device."""

    def __init__(self, stage: config.Stage, shape: model_config.LlamaConfig, weights: arrays.Tree, tx: Any, rate: Any) -> None:
        self.mesh = mesh_lib.make(devices=jax.devices()[:1])
        trainable, frozen = tree.partition(weights, stages.plan(stage, weights).mask)
        self.frozen = place.weights(frozen, self.mesh)
        self.state = state_lib.init(place.weights(trainable, self.mesh), tx, self.mesh)
        # 24 tokens whose logits exist at a time, of 80 in a micro-batch.
        self._step = step_lib.compiled(step_lib.train(step_lib.Recipe(shape, tx, rate, llama.Options(), chunk=24)), self.state)

    def step(self, batch: batches.Batch) -> step_lib.Metrics:
        self.state, metrics = self._step(self.state, self.frozen, place.batch(batch, self.mesh, rules.BATCH))
        return jax.device_get(metrics)


def keeping_gradients() -> optax.GradientTransformation:
    """An optimizer that moves nothing and whose state is the last gradient."""
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(zeros, lambda gradients, state, weights=None: (zeros(gradients), gradients))


def in_peft(stage: config.Stage, shape: model_config.LlamaConfig, weights: arrays.Tree, rope: str | None = None) -> Any:
    """What the stage trains, said in PEFT's settings; the matrices whose rows learn are named, and nothing else of the model learns."""
    matrices = [name for name in model_config.MATRICES[: 1 + stage.trains_head] if name in weights["params"]]
    parameters = transformers_llama.SCALINGS[rope] if rope else None
    if not stage.lora_targets:
        model = peft_llama.model(shape, weights, parameters)
        for name, value in model.named_parameters():
            value.requires_grad_(stage.full or any(matrix in name for matrix in matrices))
        return model
    new = list(range(shape.base_rows, shape.vocab_size))
    learns = {"modules_to_save": matrices} if stage.trained_rows == "all" else {"trainable_token_indices": dict.fromkeys(matrices, new)}
    return peft_llama.model(
        shape, weights, parameters, r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(stage.lora_targets), **learns
    )


STAGE2 = config.Stage("pretrain_lora")
CASES: Mapping[str, tuple[config.Stage, Mapping[str, Any]]] = {
    "stage 1, grouped heads, new rows": (config.Stage("embeddings"), {"heads": (4, 2), "new": True}),
    "stage 2, grouped heads, new rows": (STAGE2, {"heads": (4, 2), "new": True}),
    "stage 2, all heads, linear": (STAGE2, {"heads": (3, 3), "rope": "linear"}),
    "stage 2, tied, new rows, llama3": (STAGE2, {"heads": (6, 2), "new": True, "tied": True, "rope": "llama3"}),
    "stage 2, new rows alone": (config.Stage("pretrain_lora", rows="new"), {"heads": (4, 4), "new": True, "rope": "yarn, own attention"}),
    "instructions, one head of keys": (config.Stage("sft"), {"heads": (4, 1), "new": True, "rope": "dynamic"}),
    "instructions, tied": (config.Stage("sft"), {"heads": (4, 4), "tied": True}),
    "full, grouped heads, new rows": (config.Stage("full"), {"heads": (6, 3), "new": True, "rope": "yarn"}),
    "full, tied": (config.Stage("full"), {"heads": (2, 1), "tied": True, "rope": "yarn, all set"}),
    "full, all heads": (config.Stage("full"), {"heads": (3, 3), "rope": "dynamic"}),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_peft(name: str) -> None:
    """Of the real step, over two micro-batches; there the same documents one by one, padded to one length, and packed under a mask."""
    stage, sizes = CASES[name]
    model_shape = transformers_llama.drawn(list(CASES).index(name), **sizes)
    weights, rope = weights_of(stage, model_shape), sizes.get("rope")
    batch = examples(model_shape.vocab_size, 3, rows=4)
    ours = Trainer(stage, model_shape, weights, keeping_gradients(), optax.constant_schedule(0.0))
    metrics = ours.step(batch)
    gradients = jax.device_get(ours.state.opt_state)
    zeros = jax.tree.map(np.zeros_like, weights)
    found = peft_llama.state(model_shape, tree.unflatten(tree.flatten(zeros) | tree.flatten(gradients)))

    model = in_peft(stage, model_shape, weights, rope)
    learns = peft_llama.named(model)
    expected_names = {key for key, value in found.items() if value.any()}
    assert learns.keys() == expected_names
    for layout in peft_llama.LAYOUTS if rope != "dynamic" else ["alone"]:  # which there stretches a batch by its longest row
        model.zero_grad()
        loss = peft_llama.loss(model, batch, layout)
        np.testing.assert_allclose(metrics.loss, loss, rtol=2e-6, err_msg=layout)
        for key, value in learns.items():
            theirs, mine = value.grad.numpy(), found[key]
            if len(mine) != len(theirs):  # the new rows of a matrix
                assert not mine[: -len(theirs)].any()
                mine = mine[-len(theirs) :]
            difference = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
            assert difference < 5e-5, f"{key}, {layout}"


def texts(vocab_size: int, *, rows: int) -> list[pack.Row]:
    """Documents that count upwards from somewhere, so that there is something to learn, packed as text is."""
    rng = np.random.default_rng(5)
    starts, sizes = rng.integers(3, vocab_size, 2 * rows), rng.integers(5, 50, 2 * rows)
    documents = [(start + np.arange(size)) % (vocab_size - 3) + 3 for start, size in zip(starts, sizes, strict=True)]
    return list(pack.pack(documents, length=LENGTH, bos_id=1, eos_id=2))


CURVES: Mapping[str, tuple[config.Stage, float, Mapping[str, Any]]] = {
    "stage 2": (STAGE2, 1.0, {"heads": (4, 2), "new": True}),
    "stage 2, tied": (STAGE2, 1.0, {"heads": (3, 3), "tied": True, "rope": "llama3"}),
    "full, clipped at first": (config.Stage("full"), 1.3, {"heads": (4, 2), "new": True}),
}


@pytest.mark.parametrize("name", CURVES)
def test_fifty_updates_equal_peft_and_adamw_of_pytorch(name: str) -> None:
    """Stage 2's recipe at a higher rate: AdamW, decay 0.01 (none for norms), a clip, warm-up of a twentieth, cosine, two micro-batches."""
    steps, (stage, clip, sizes) = 50, CURVES[name]
    model_shape = transformers_llama.drawn(111, **sizes)
    weights = weights_of(stage, model_shape)
    if stage.lora_targets:  # as training begins: B is zero
        weights["lora"] = jax.device_get(adapters.init(jax.random.key(0), weights["params"], LORA.targeting(stage.lora_targets)))
    constants = config.Optimizer(learning_rate=3e-3, weight_decay=0.01, clip_norm=clip)
    schedule = config.Schedule(kind="cosine", warmup_ratio=0.05)
    rate = optimizer.schedule(schedule, peak=constants.learning_rate, steps=steps)
    ours = Trainer(stage, model_shape, weights, optimizer.make(constants, rate, stages.plan(stage, weights).trainable), rate)

    theirs = in_peft(stage, model_shape, weights, sizes.get("rope"))
    learns = peft_llama.named(theirs)
    norms = [value for key, value in learns.items() if "norm" in key]
    others = [value for key, value in learns.items() if "norm" not in key]
    assert len(norms) == (5 if stage.full else 0)
    groups = [{"params": others, "weight_decay": constants.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=constants.learning_rate, betas=(constants.b1, constants.b2), eps=constants.eps)
    scheduler = transformers.get_cosine_schedule_with_warmup(adamw, num_warmup_steps=3, num_training_steps=steps)

    source = batches.Batches([texts(model_shape.vocab_size, rows=60)], global_batch=4, seed=0)
    curve, norm = np.zeros((2, steps)), np.zeros((2, steps))
    for number in range(steps):
        batch = jax.tree.map(lambda field: field.reshape(2, 2, LENGTH), source.rows(number))
        metrics = ours.step(batch)
        adamw.zero_grad()
        loss = peft_llama.loss(theirs, batch, "packed")
        size = torch.nn.utils.clip_grad_norm_(learns.values(), clip)
        assert metrics.learning_rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-6 * constants.learning_rate)
        adamw.step()
        scheduler.step()
        curve[:, number], norm[:, number] = (metrics.loss, loss), (metrics.grad_norm, size.item())
    np.testing.assert_allclose(curve[0], curve[1], rtol=5e-5)
    np.testing.assert_allclose(norm[0], norm[1], rtol=5e-4)
    assert curve[0, -5:].mean() < 0.8 * curve[0, :5].mean(), "it learns"
    assert norm[0].max() > clip and (norm[0].min() < clip) == stage.full, "clipped; the last one's later steps are not"

    after = jax.device_get(tree.combine(ours.state.trainable, ours.frozen))
    before, found = peft_llama.state(model_shape, weights), peft_llama.state(model_shape, after)
    for key, value in learns.items():
        moved = np.linalg.norm(found[key] - before[key])
        assert np.linalg.norm(found[key] - value.detach().numpy()) < 3e-4 * moved, key
