"""Run as a program with module names: hides all but jax, flax, optax, numpy and what these need, imports the modules, trains one step."""

import importlib
import importlib.abc
import re
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec

CORE = ("jax", "jaxlib", "flax", "optax", "numpy")


def needed(names: tuple[str, ...]) -> set[str]:
    """The distributions that `names` pull in, themselves included."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [requirement for requirement in requirements if "extra ==" not in requirement]
    return found


class Hidden(importlib.abc.MetaPathFinder):
    """Pretends that distributions other than the needed ones are not installed."""

    def __init__(self) -> None:
        allowed = needed(CORE) | {"zhllama-jax"}
        self.packages = {
            package
            for package, distributions in metadata.packages_distributions().items()
            if not {name.lower().replace("_", "-") for name in distributions} & allowed
        }

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Refuses hidden packages, and leaves all others to the usual finders."""
        if fullname.split(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{fullname} is hidden: the core must do without it", name=fullname)
        return None


def run_step() -> None:
    """Trains LoRA factors, embedding and head of a micro model for one step."""
    import jax
    import numpy as np

    from zhllama_jax import tree
    from zhllama_jax.data import batches
    from zhllama_jax.lora import adapters
    from zhllama_jax.model import config as model_config
    from zhllama_jax.model import llama
    from zhllama_jax.shard import mesh as mesh_lib
    from zhllama_jax.train import choices, optimizer, stages, state, step

    config = model_config.named("micro", vocab_size=300, base_vocab_size=200)
    stage, lora = choices.Stage("pretrain_lora"), choices.Lora(rank=2)
    params = llama.init(config, jax.random.key(0))
    weights = {"params": params, "lora": adapters.init(jax.random.key(1), params, lora.targeting(stage.lora_targets))}
    plan = stages.plan(stage, weights)
    trainable, frozen = tree.partition(weights, plan.mask)
    rate = optimizer.schedule(choices.Schedule(), peak=1e-3, steps=4)
    tx = optimizer.make(choices.Optimizer(), rate, plan.trainable)
    first = state.init(trainable, tx, mesh_lib.make(devices=jax.devices()[:1]))
    tokens_ABT = np.arange(2 * 9, dtype=np.int32).reshape(1, 2, 9) + 3
    ones_ABT, positions_ABT = np.ones((1, 2, 8), np.int32), np.tile(np.arange(8, dtype=np.int32), (1, 2, 1))
    batch = batches.Batch(tokens_ABT[..., :-1], tokens_ABT[..., 1:], ones_ABT.astype(np.float32), positions_ABT, ones_ABT)
    train = step.compiled(step.train(step.Recipe(config, tx, rate, llama.Options())), first)
    second, metrics = train(first, frozen, batch)
    assert int(second.step) == 1, "one step was counted"
    assert np.isfinite(float(metrics.loss)), "the loss is a number"
    print(f"a step was run: loss {float(metrics.loss):.3f}")


if __name__ == "__main__":
    sys.meta_path.insert(0, Hidden())
    for module in sys.argv[1:]:
        importlib.import_module(module)
    run_step()
