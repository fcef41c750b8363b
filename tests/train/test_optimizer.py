"""The optimizer: the reference's schedule, AdamW's own update, rules by leaf, and a clip that sees trainables only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zhllama_jax.train import config, optimizer

WEIGHTS = {"params": {"norm": {"weight": jnp.ones(4)}, "head": {"kernel": jnp.full((2, 3), 2.0)}}}
PLAIN = {"params/norm/weight": config.Rule("x"), "params/head/kernel": config.Rule("x")}


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedule_is_that_of_transformers(kind) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    steps, warmup, peak = 50, 5, 2e-4
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    arguments = {} if kind == "constant" else {"num_training_steps": steps}
    name = "get_constant_schedule_with_warmup" if kind == "constant" else f"get_{kind}_schedule_with_warmup"
    scheduler = getattr(transformers, name)(dummy, num_warmup_steps=warmup, **arguments)
    rate = optimizer.schedule(config.Schedule(kind=kind, warmup_ratio=0.1), peak=peak, steps=steps)
    for step in range(steps + 1):
        assert float(rate(jnp.int32(step))) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5, abs=1e-9)
        dummy.step()
        scheduler.step()


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    rate = optimizer.schedule(config.Schedule(warmup_steps=0), peak=1.0, steps=4)
    np.testing.assert_allclose([rate(jnp.int32(t)) for t in range(5)], 0.5 * (1 + np.cos(np.pi * np.arange(5) / 4)), atol=1e-7)


def gradients(step: int) -> dict:
    keys = jax.random.split(jax.random.key(step), 2)
    return {"params": {"norm": {"weight": jax.random.normal(keys[0], (4,))}, "head": {"kernel": 10 * jax.random.normal(keys[1], (2, 3))}}}


def run(tx: optax.GradientTransformation, steps: int = 5) -> dict:
    weights, state = WEIGHTS, tx.init(WEIGHTS)
    for step in range(steps):
        updates, state = tx.update(gradients(step), state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


def test_update_is_clipped_adamw() -> None:
    ours = optimizer.make(config.Optimizer(learning_rate=1e-2, weight_decay=0.1), optax.constant_schedule(1e-2), PLAIN)
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    jax.tree.map(np.testing.assert_array_equal, run(ours), run(reference))


def test_scale_and_decay_by_rule() -> None:
    rules = {
        "params/norm/weight": config.Rule("x", lr_scale=0.5, weight_decay=0.0),
        "params/head/kernel": config.Rule("x", weight_decay=0.3),
    }
    ours = run(optimizer.make(config.Optimizer(weight_decay=0.1, clip_norm=0), optax.constant_schedule(1e-2), rules))
    norm = run(optax.adamw(0.5e-2, weight_decay=0.0))["params"]["norm"]["weight"]
    head = run(optax.adamw(1e-2, weight_decay=0.3))["params"]["head"]["kernel"]
    np.testing.assert_allclose(ours["params"]["norm"]["weight"], norm, rtol=1e-6)
    np.testing.assert_allclose(ours["params"]["head"]["kernel"], head, rtol=1e-6)


def test_zero_rows_stay_zero_under_decay() -> None:
    """Spare rows of the vocabulary have neither gradient nor weight: no update moves them."""
    tx = optimizer.make(config.Optimizer(), optax.constant_schedule(1.0), {"rows": config.Rule("x")})
    weights = {"rows": jnp.zeros((3, 2))}
    updates, _ = tx.update({"rows": jnp.zeros((3, 2))}, tx.init(weights), weights)
    assert not np.any(updates["rows"])


def test_moments_are_named_after_the_weights() -> None:
    tx = optimizer.make(config.Optimizer(), optax.constant_schedule(1.0), PLAIN)
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_flatten_with_path(tx.init(WEIGHTS))[0]
    }
    assert {name for name in names if name.endswith("kernel")} == {"1/mu/params/head/kernel", "1/nu/params/head/kernel"}
