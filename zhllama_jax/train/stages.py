"""A stage as data: ordered rules over paths that say which weights learn, how fast, and with what decay.

`plan` turns a stage into one rule for every weight; the mask in it partitions the tree. `table` counts on abstract shapes what
that means. Rules stand in this order: the adapters' constants (frozen, always), the user's, the stage's own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from zhllama_jax import arrays, tree
from zhllama_jax.lora import adapters
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.train import config as config_lib

CONSTANTS = config_lib.Rule("lora/.*/scale", train=False)
ADAPTERS = config_lib.Rule("lora/.*/(a|b)")
NORMS = config_lib.Rule("params/(layers/.*_layernorm|norm)/weight", weight_decay=0.0)
EVERYTHING = config_lib.Rule("params/.*")
THE_REST = config_lib.Rule("params/.*", train=False)

MOMENT_BYTES = 2 * 4  # AdamW's two moments, float32


class Plan(NamedTuple):
    """One rule for every weight.

    Attributes:
      table: the rules in the order in which they are tried.
      rules: path -> the rule of the table that decides it.
      mask: path -> whether it learns.
    """

    table: list[config_lib.Rule]
    rules: dict[str, config_lib.Rule]
    mask: dict[str, bool]

    @property
    def trainable(self) -> dict[str, config_lib.Rule]:
        """The rules of the weights that learn."""
        return {path: rule for path, rule in self.rules.items() if self.mask[path]}


class Row(NamedTuple):
    """One rule's share of the model.

    Attributes:
      rule: its regex.
      parameters: logical parameters it decides.
      trainable: those that learn: all or none.
      percent: trainable, of all parameters of the model and its adapters.
      optimizer_bytes: of AdamW's moments for them.
    """

    rule: str
    parameters: int
    trainable: int
    percent: float
    optimizer_bytes: int


class Table(NamedTuple):
    """What a stage trains, by rule; `str` makes the text that `zhllama stages` prints."""

    rows: list[Row]
    trainable: int
    total: int

    @property
    def percent(self) -> float:
        """Trainable parameters, of all parameters of the model and its adapters."""
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        lines = [("rule", "parameters", "trainable", "per cent", "optimizer bytes")]
        lines += [
            (row.rule, f"{row.parameters:,}", f"{row.trainable:,}", f"{row.percent:.4f}", f"{row.optimizer_bytes:,}") for row in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = [
            "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
            for line in lines
        ]
        return "\n".join([*text, f"trainable {self.trainable:,} of {self.total:,} parameters ({self.percent:.4f} %)"])


def rules(stage: config_lib.Stage) -> list[config_lib.Rule]:
    """The stage's table of rules, in the order in which they are tried."""
    if stage.full:
        own = [NORMS, EVERYTHING]
    else:
        matrices = f"({'|'.join(model_config.MATRICES)})" if stage.trains_head else model_config.MATRICES[0]
        blocks = {"none": [], "new": ["extension"], "all": ["(base|extension)"]}[stage.trained_rows]
        own = [ADAPTERS, *(config_lib.Rule(f"params/{matrices}/{block}") for block in blocks), THE_REST]
    return [CONSTANTS, *stage.extra_rules, *own]


def plan(stage: config_lib.Stage, weights: Mapping[str, Any]) -> Plan:
    """The rule of every weight (arrays or abstract shapes, with the collections on top).

    Raises:
      ValueError: one of the user's rules decides nothing, the stage trains new rows that the model has not, or nothing learns.
    """
    leaves = tree.flatten(weights)
    table = rules(stage)
    decided = tree.match([(rule.pattern, rule) for rule in table], leaves, table=f"stage {stage.preset}", unused="allow")
    used = {id(rule) for rule in decided.values()}
    dead = [repr(rule.pattern) for rule in stage.extra_rules if id(rule) not in used]
    if dead:
        raise ValueError(f"stage.extra_rules: {', '.join(dead)} decides nothing; the weights are {', '.join(leaves)}")
    if stage.trained_rows == "new" and "params/embed_tokens/extension" not in leaves:
        raise ValueError(f"stage {stage.preset} trains new vocabulary rows, but this model has none: grow it first with `zhllama resize`")
    mask = {path: rule.train for path, rule in decided.items()}
    if not any(mask.values()):
        raise ValueError(f"stage {stage.preset} trains nothing: every weight is frozen by its rules")
    return Plan(table, decided, mask)


def abstract(stage: config_lib.Stage, config: model_config.LlamaConfig, lora: config_lib.Lora) -> arrays.Tree:
    """The shapes of the weights that a stage starts from, without data."""
    params = llama.abstract(config)
    if not stage.lora_targets:
        return {"params": params}
    make = jax.eval_shape(lambda key: adapters.init(key, params, lora.targeting(stage.lora_targets)), jax.random.key(0))
    return {"params": params, "lora": make}


def logical_size(path: str, shape: tuple[int, ...], config: model_config.LlamaConfig) -> int:
    """Parameters of a leaf that count: no spare rows of the vocabulary, no constants of the adapters."""
    size = 1
    for dimension in shape:
        size *= dimension
    if path.startswith("lora/") and path.endswith("/scale"):
        return 0
    _, matrix, *rest = path.split("/")
    if matrix in model_config.MATRICES:
        return next(block.rows for block in config.blocks if block.name == rest[0]) * shape[1]
    return size


def table(stage: config_lib.Stage, config: model_config.LlamaConfig, lora: config_lib.Lora | None = None) -> Table:
    """Counts what a stage trains, rule by rule, on abstract shapes.

    The total includes the adapters, as PEFT counts; only logical rows count.
    """
    weights = abstract(stage, config, config_lib.Lora() if lora is None else lora)
    leaves = tree.flatten(weights)
    decided = plan(stage, weights)
    sizes = {path: logical_size(path, leaf.shape, config) for path, leaf in leaves.items()}
    total = sum(sizes.values())
    found = []
    for rule in decided.table:
        parameters = sum(sizes[path] for path, decider in decided.rules.items() if decider is rule)
        trainable = parameters if rule.train else 0
        if parameters:
            found.append(Row(rule.pattern, parameters, trainable, 100 * trainable / total, MOMENT_BYTES * trainable))
    return Table(found, sum(row.trainable for row in found), total)
