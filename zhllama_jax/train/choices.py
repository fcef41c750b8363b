"""What a stage trains and how it steps: the dataclasses that `stages` and `optimizer` read. No JAX here."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from zhllama_jax.lora import config as lora_config
from zhllama_jax.model import config as model_config

Preset = Literal["embeddings", "pretrain_lora", "sft", "new_rows", "full"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to the weights whose whole path matches a regex.

    Attributes:
      pattern: regex over a path such as `params/layers/mlp/up_proj/kernel` or `lora/layers/self_attn/q_proj/a`.
      train: whether the weights learn; frozen ones have no gradient and no optimizer state.
      lr_scale: factor of the learning rate.
      weight_decay: decay of these weights; None takes the optimizer's.
    """

    pattern: str
    train: bool = True
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.lr_scale < math.inf:
            problems.append(f"lr_scale must be above 0 and finite, got {self.lr_scale}; to freeze weights write train: false")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        refuse(f"rule {self.pattern!r}", problems)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a preset trains: LoRA targets × rows of the vocabulary, or everything.

    Attributes:
      lora: which kernels carry adapters.
      rows: which vocabulary rows learn: none, those that a resize added, all.
      head: whether the head's rows learn beside the embedding's.
      full: every weight learns; the other choices are void.
    """

    lora: Literal["none", "attention", "all"] = "none"
    rows: Literal["none", "new", "all"] = "none"
    head: bool = True
    full: bool = False


PRESETS: dict[str, Choice] = {
    "embeddings": Choice(rows="all", head=False),
    "pretrain_lora": Choice(lora="attention", rows="all"),
    "sft": Choice(lora="all", rows="all"),
    "new_rows": Choice(rows="new"),
    "full": Choice(full=True),
}

TARGETS = {"none": (), "attention": lora_config.ATTENTION, "all": lora_config.ATTENTION + lora_config.MLP}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Which weights learn: a preset, its choices overridden one by one, and rules in front.

    Attributes:
      preset: embeddings (embed_tokens only), pretrain_lora (adapters on q, k, v, o + embedding + head), sft (adapters on all
        seven kernels + embedding + head), new_rows (only the rows that a resize added), full (every weight).
      lora: adapters' targets: none, attention (q, k, v, o), all (attention and MLP), or names of kernels or regexes over
        their paths (`layers/mlp/.*`); None keeps the preset's.
      rows: vocabulary rows that learn: none, new, all; None keeps the preset's.
      head: whether lm_head's rows learn beside embed_tokens'; None keeps the preset's.
      extra_rules: tried before the stage's own rules; one that decides nothing is an error.
    """

    preset: Preset
    lora: Literal["none", "attention", "all"] | tuple[str, ...] | None = None
    rows: Literal["none", "new", "all"] | None = None
    head: bool | None = None
    extra_rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.preset not in PRESETS:
            problems.append(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        elif self.full and (self.lora, self.rows, self.head) != (None, None, None):
            problems.append("preset full trains every weight: leave out lora, rows and head")
        elif not self.full and not self.lora_targets and self.trained_rows == "none" and not any(rule.train for rule in self.extra_rules):
            problems.append("lora: none and rows: none leave nothing to train")
        if isinstance(self.lora, str) and self.lora not in TARGETS:
            problems.append(f"lora must be one of {', '.join(TARGETS)} or a list of kernel names, got {self.lora!r}")
        refuse("stage", problems)

    @property
    def full(self) -> bool:
        """Whether every weight learns."""
        return PRESETS[self.preset].full

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The kernels that carry adapters, by name or regex."""
        choice = PRESETS[self.preset].lora if self.lora is None else self.lora
        return TARGETS.get(choice, ()) if isinstance(choice, str) else tuple(choice)

    @property
    def trained_rows(self) -> Literal["none", "new", "all"]:
        """Which vocabulary rows learn."""
        return PRESETS[self.preset].rows if self.rows is None else self.rows

    @property
    def trains_head(self) -> bool:
        """Whether the head's rows learn where the embedding's do."""
        return PRESETS[self.preset].head if self.head is None else self.head


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters' shape; which kernels carry one is the stage's choice.

    Attributes:
      rank: width of the bottleneck.
      alpha: numerator of the scale alpha / rank.
      dropout: on the adapters' inputs, in training.
      rslora: scale by alpha / sqrt(rank) instead.
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    rslora: bool = False

    def __post_init__(self) -> None:
        self.targeting(lora_config.ATTENTION)

    def targeting(self, targets: tuple[str, ...]) -> lora_config.LoraConfig:
        """The adapter's configuration on the given kernels."""
        return lora_config.LoraConfig(rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=targets, rslora=self.rslora)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter, 2019, arXiv 1711.05101).

    Attributes:
      learning_rate: the schedule's peak.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: of every trainable but the norms' weights.
      clip_norm: largest global norm of the trainables' gradient; 0 switches clipping off.
    """

    learning_rate: float = 2e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0 and finite, got {getattr(self, name)}"
            for name in ("learning_rate", "eps")
            if not 0 < getattr(self, name) < math.inf
        ]
        problems += [f"{name} must lie in [0, 1), got {getattr(self, name)}" for name in ("b1", "b2") if not 0 <= getattr(self, name) < 1]
        problems += [
            f"{name} must be at least 0 and finite, got {getattr(self, name)}"
            for name in ("weight_decay", "clip_norm")
            if not 0 <= getattr(self, name) < math.inf
        ]
        refuse("optimizer", problems)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps: a linear warm-up from 0, then one of three ways on.

    Attributes:
      kind: cosine (half a cosine to 0), linear (to 0), constant.
      warmup_ratio: share of the steps that warm up.
      warmup_steps: steps that warm up; None takes the ratio's.
    """

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.warmup_ratio < 1:
            problems.append(f"warmup_ratio must lie in [0, 1), got {self.warmup_ratio}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            problems.append(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        refuse("schedule", problems)


@dataclasses.dataclass(frozen=True)
class Expected:
    """The model that a recipe is written for. It says what the recipe trains before the model is there, and another model is refused.

    Attributes:
      size: a named size: 1b, 7b, 13b, 33b, 65b …
      vocab_size: pieces of its vocabulary; those beyond the original 32,000 are the extension.
    """

    size: str
    vocab_size: int = model_config.LLAMA_VOCAB_SIZE

    def __post_init__(self) -> None:
        self.llama()

    def llama(self) -> model_config.LlamaConfig:
        """The model's shape."""
        rows = min(self.vocab_size, model_config.LLAMA_VOCAB_SIZE)
        return model_config.named(self.size, vocab_size=self.vocab_size, base_vocab_size=rows)

    def check(self, config: model_config.LlamaConfig, *, where: str) -> None:
        """Refuses a model of another shape.

        Raises:
          ValueError: with what differs, and what to do.
        """
        wanted = self.llama()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        differing = [name for name in names if getattr(config, name) != getattr(wanted, name)]
        if not differing:
            return
        found = ", ".join(f"{name} {getattr(config, name):,} and not {getattr(wanted, name):,}" for name in differing)
        rows = "grow its vocabulary with `zhllama resize`" if config.vocab_size < wanted.vocab_size else "take the model it was grown from"
        advice = rows if differing == ["vocab_size"] else "name another model"
        raise ValueError(f"{where} has {found}, which this recipe expects: {advice}, or change `expects`")


def refuse(what: str, problems: Iterable[str]) -> None:
    """Raises one ValueError that lists all problems, if there are any."""
    problems = list(problems)
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")
