"""The rules of `adapter:`: what a stage may do with what former stages learnt, told of adapters at hand or still to come. No JAX here."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from zhllama_jax.lora import config as lora_config
from zhllama_jax.train import config as config_lib

FOLD = "fold, which begins new factors"
KERNELS = (*(f"layers/self_attn/{name}" for name in lora_config.ATTENTION), *(f"layers/mlp/{name}" for name in lora_config.MLP))


class Former(NamedTuple):
    """An adapter that a former stage leaves.

    Attributes:
      name: for messages: its directory, or the training that will make it.
      lora: its factors; None where it holds rows only.
    """

    name: str
    lora: lora_config.LoraConfig | None


def kernels(targets: Sequence[str]) -> tuple[str, ...]:
    """Names of the kernels that a stage's targets, names or regexes over paths, stand for.

    Raises:
      ValueError: one of them stands for none.
    """
    patterns = {target: f".*/{target}" if target.isidentifier() else target for target in targets}
    dead = [target for target, pattern in patterns.items() if not any(re.fullmatch(pattern, path) for path in KERNELS)]
    if dead:
        raise ValueError(f"stage.lora: {', '.join(map(repr, dead))} names no kernel; the kernels are {', '.join(KERNELS)}")
    chosen = [path for path in KERNELS if any(re.fullmatch(pattern, path) for pattern in patterns.values())]
    return tuple(path.rpartition("/")[2] for path in chosen)


def goes_on(mode: config_lib.Takeover, wanted: lora_config.LoraConfig | None, listed: Sequence[Former]) -> bool:
    """Whether a stage goes on training the last adapter's factors, and so takes its place; else it begins an adapter of its own.

    Args:
      mode: see `config.Experiment.adapter`.
      wanted: the stage's factors; None if it has none.
      listed: what former stages leave, in order.

    Raises:
      ValueError: the adapters do not allow the take-over.
    """
    with_factors = [former.name for former in listed if former.lora]
    if mode == "fresh" and with_factors:
        raise ValueError(f"adapter: fresh, but {', '.join(with_factors)} holds LoRA factors: say continue, extend or fold")
    if mode == "fold" and not listed:
        raise ValueError("adapter: fold, but there is no former adapter: say fresh")
    if mode in ("fresh", "fold"):
        return False
    if not with_factors:
        raise ValueError(f"adapter: {mode}, but none of the adapters holds LoRA factors: say fresh")
    last = listed[-1]
    if last.lora is None:
        raise ValueError(f"adapter: {mode} takes over the last adapter, but {last.name} holds rows only: say fold")
    if wanted is None:
        raise ValueError(f"adapter: {mode} needs a stage with LoRA targets: say fold")
    problems = _problems(mode, wanted, last.lora)
    if problems:
        raise ValueError(f"adapter: {mode} cannot take over {last.name}: {'; '.join(problems)}")
    return True


def after(
    mode: config_lib.Takeover, wanted: lora_config.LoraConfig | None, listed: Sequence[Former], *, name: str, full: bool
) -> list[Former]:
    """The adapters to fold after a stage called `name`; none after one that trains every weight.

    Raises:
      ValueError: see `goes_on`.
    """
    kept = listed[:-1] if goes_on(mode, wanted, listed) else listed
    return [] if full else [*kept, Former(name, wanted)]


def _problems(mode: config_lib.Takeover, wanted: lora_config.LoraConfig, last: lora_config.LoraConfig) -> list[str]:
    """What keeps the wanted factors from going on with the last ones."""
    ours, theirs = set(wanted.targets), set(last.targets)
    if mode == "extend":
        if theirs < ours:
            return []
        remedy = "say continue" if ours == theirs else f"set stage.lora to those and more, or say {FOLD}"
        return [f"the stage's targets ({', '.join(wanted.targets)}) must hold its own ({', '.join(last.targets)}) and more: {remedy}"]
    problems = []
    if ours != theirs:
        grown = "say extend, which gives the further kernels new factors, " if theirs < ours else ""
        remedy = f"{grown or f'say {FOLD}, '}or give both stages the same stage.lora"
        problems.append(f"it has factors on {', '.join(last.targets)}, the stage on {', '.join(wanted.targets)}: {remedy}")
    other = [name for name in ("rank", "alpha", "rslora") if getattr(wanted, name) != getattr(last, name)]
    if other:
        differences = ", ".join(f"its {name} is {getattr(last, name)}, the stage's {getattr(wanted, name)}" for name in other)
        problems.append(f"{differences}: set {', '.join(f'lora.{name}' for name in other)} to the same, or say {FOLD}")
    return problems
