"""What one training stage is given, as frozen dataclasses that a YAML file fills. No JAX here.

Every field that changes the numbers is part of the run's identity: a checkpoint of another identity is refused. Fields that
only say where, how often or on which devices are not (`Experiment.identity`).
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

from zhllama_jax import hub
from zhllama_jax.data import config as data_config
from zhllama_jax.model import config as model_config
from zhllama_jax.train import watch
from zhllama_jax.train.choices import PRESETS, Choice, Expected, Lora, Optimizer, Preset, Rule, Schedule, Stage, refuse

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Choice",
    "Data",
    "Dimensions",
    "Expected",
    "Experiment",
    "Lora",
    "Mesh",
    "NewModel",
    "Optimizer",
    "Preset",
    "Rule",
    "Schedule",
    "Source",
    "Stage",
    "Takeover",
    "Validation",
]

Takeover = Literal["fresh", "continue", "extend", "fold"]

LENGTHS = ("steps", "epochs", "tokens")
"""Ways to say how long a training is, of which one is named."""

SEEDS = 2**32
"""JAX's keys take 32 bits of a seed."""


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """The shape of a model that starts from random weights; its vocabulary is the tokenizer's.

    Attributes:
      size: a named size ("7b", "30m", "small", "tiny", "micro" …) to start from; the fields below override it.
      hidden_size: model width.
      intermediate_size: width of the MLP.
      num_hidden_layers: decoder blocks.
      num_attention_heads: query heads.
      num_key_value_heads: key/value heads.
      max_position_embeddings: context length.
      tie_word_embeddings: whether the head reads the embedding's rows.
    """

    size: str = "small"
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool | None = None

    def __post_init__(self) -> None:
        self.llama(vocab_size=model_config.LLAMA_VOCAB_SIZE)

    def llama(self, *, vocab_size: int, **ids: Any) -> model_config.LlamaConfig:
        """The model's configuration for a tokenizer of `vocab_size` pieces with the given special ids."""
        changes = {name: value for name, value in dataclasses.asdict(self).items() if name != "size" and value is not None}
        return model_config.named(self.size, vocab_size=vocab_size, **changes, **ids)


@dataclasses.dataclass(frozen=True)
class NewModel:
    """A model that starts from random weights, as the small base of a demonstration does.

    Attributes:
      tokenizer: a SentencePiece model, a directory that holds one, or a hub id.
      init: the model's shape.
    """

    tokenizer: str
    init: Dimensions = dataclasses.field(default_factory=Dimensions)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where rows come from: exactly one of a store, a corpus, and instructions.

    Attributes:
      store: a directory made by `zhllama data build` or by a former run.
      text: a corpus, built into a store of the run at its start.
      sft: instruction rows, built into a store of the run at its start.
      share: the source's part in the mixture, how often it may be gone through, and how much of it is used at most.
    """

    store: str | None = None
    text: data_config.TextData | None = None
    sft: data_config.SftData | None = None
    share: data_config.Share = dataclasses.field(default_factory=data_config.Share)

    def __post_init__(self) -> None:
        given = [name for name in ("store", "text", "sft") if getattr(self, name) is not None]
        refuse("data source", [] if len(given) == 1 else [f"name exactly one of store, text and sft, got {', '.join(given) or 'none'}"])

    @property
    def name(self) -> str:
        """What the source is called: after its files, or its store's folder."""
        made = self.text or self.sft
        return data_config.title(made.files) if made is not None else Path(str(self.store)).name


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learnt from.

    Attributes:
      sources: mixed by their shares; a source's `validation` split, if it has one, is held out and scored.
      separate: documents of one row do not see each other, and positions start anew in each.
    """

    sources: tuple[Source, ...]
    separate: bool = True

    def __post_init__(self) -> None:
        refuse("data", [] if self.sources else ["sources is empty: name at least one"])
        data_config.weighted([source.share for source in self.sources])

    def check_length(self, length: int, *, context: int) -> None:
        """Refuses rows of `length` tokens for a model whose context is shorter."""
        if length <= context:
            return
        keys = ["store" if source.store else "text.length" if source.text else "sft.length" for source in self.sources]
        named = ", ".join(f"{source.name} ({key})" for source, key in zip(self.sources, keys, strict=True))
        anew = ", and build stores anew with that" if "store" in keys else ""
        raise ValueError(
            f"data.sources: the rows of {named} have {length:,} tokens, more than the model's context of {context:,} "
            f"(max_position_embeddings): set length to at most {context:,}{anew}"
        )


@dataclasses.dataclass(frozen=True)
class Validation:
    """How often the held-out text is scored, and which step's weights are kept.

    Attributes:
      every: steps between two scorings; 0 scores only after the last step.
      max_rows: rows scored at most, from the start; None scores all.
      keep: last, or best: the step with the lowest loss is the one written.
    """

    every: int = 100
    max_rows: int | None = None
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        problems = [] if self.every >= 0 else [f"every must be at least 0, got {self.every}"]
        if self.max_rows is not None and self.max_rows < 1:
            problems.append(f"max_rows must be at least 1, got {self.max_rows}")
        refuse("validation", problems)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When the training state is saved, and how many saved steps are kept.

    Attributes:
      every: steps between two saves; the last step, and the one at which a signal arrives, are saved too.
      keep: newest steps kept.
    """

    every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        refuse(
            "checkpoint", [f"{name} must be at least 1, got {getattr(self, name)}" for name in ("every", "keep") if getattr(self, name) < 1]
        )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 takes what the others leave.

    Attributes:
      data: copies of the weights, each with its part of the batch.
      fsdp: parts of the batch that also hold a part of every weight.
      tensor: parts of heads, MLP width and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One stage of training, from a model directory to an adapter directory (or, for stage full, to a model directory).

    The global batch is stated in sequences or tokens and means the same on one chip and on 256: how many micro-batches a device
    runs one after another follows from it. Exactly one of steps, epochs and tokens says how long; of those
    a flag takes the place of another one in a file.

    Attributes:
      model: a Hugging Face directory, a hub id (owner/name, owner/name@revision), or `{tokenizer, init}` for random weights (stage full
        only).
      expects: the model that the settings are meant for; another one is refused.
      data: sources of rows.
      output: the run's directory: checkpoints, metrics, and at the end `adapter/` or `model/`.
      stage: a preset's name, or a preset with choices overridden.
      adapters: what former stages learnt on this model, in order: directories or hub ids.
      adapter: what becomes of the last one's LoRA factors: fresh (there are none), continue (go on training them), extend (go
        on, with new factors on the stage's further kernels), fold (add all to the base in memory, begin new ones).
      lora: shape of the adapters.
      optimizer: AdamW's constants.
      schedule: the learning rate over the steps.
      global_batch: what one step reads, over all devices.
      batch_unit: sequences, or tokens (then a multiple of the rows' length).
      micro_batch: sequences that one device computes at a time, at most: the largest number up to this that divides its share of the
        global batch; None takes the whole share.
      steps: updates.
      epochs: passes over all rows of all sources, rounded up to whole steps; with weights, so many rows, some of them read more often.
      tokens: tokens read, rounded up to whole steps.
      seed: of data order, new weights and dropout.
      dtype: of activations, matrix products and the frozen base; trainables are float32 anyway.
      remat: what the backward pass recomputes: none, dots (all but matrix products; on a CPU as fast as none, in half the memory), full
        (all but layer inputs).
      unroll: layers per iteration of the scan over layers.
      loss_chunk: tokens of a device whose logits exist at a time.
      validation: when held-out rows are scored.
      checkpoint: when the training state is saved.
      mesh: devices along each axis.
      log_every: steps between two lines of the log.
      tensorboard: whether to write TensorBoard events beside the JSONL.
      wandb: a run at Weights & Biases to write to as well; None writes to none.
      profile_steps: steps to profile, "first:last" such as "10:12" (JAX's profiler; written under the output).
      max_nonfinite: steps in a row whose loss, gradient or update may be not finite (they change nothing) before the run stops.
    """

    model: str | NewModel
    data: Data
    output: str
    stage: Preset | Stage = "pretrain_lora"
    adapters: tuple[str, ...] = ()
    adapter: Takeover = "fresh"
    lora: Lora = dataclasses.field(default_factory=Lora)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    global_batch: int = 64
    batch_unit: Literal["sequences", "tokens"] = "sequences"
    micro_batch: int | None = None
    steps: int | None = None
    epochs: float | None = None
    tokens: int | None = None
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "dots"
    unroll: int = 1
    loss_chunk: int = 512
    validation: Validation = dataclasses.field(default_factory=Validation)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    log_every: int = 10
    tensorboard: bool = True
    wandb: watch.Wandb | None = None
    profile_steps: str | None = None
    max_nonfinite: int = 10
    expects: Expected | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stage, str):
            object.__setattr__(self, "stage", Stage(self.stage))
        refuse("experiment", self._problems())

    def _problems(self) -> list[str]:
        above_zero = ("global_batch", "micro_batch", "steps", "epochs", "tokens", "unroll", "loss_chunk", "log_every", "max_nonfinite")
        problems = [
            f"{name} must be above 0{' and finite' if value == math.inf else ''}, got {value}"
            for name in above_zero
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf
        ]
        if not 0 <= self.seed < SEEDS:
            problems.append(f"seed must lie in 0 … {SEEDS - 1}, got {self.seed}")
        lengths = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(lengths) != 1:
            problems.append(f"name exactly one of steps, epochs and tokens, got {', '.join(lengths) or 'none'}")
        if isinstance(self.model, NewModel) and not self.choice.full:
            problems.append(f"stage {self.choice.preset} needs a model directory; random weights can only be trained by stage full")
        if isinstance(self.model, NewModel) and self.adapters:
            problems.append("adapters need the model directory that they were trained on")
        if self.adapter in ("continue", "extend") and not self.choice.lora_targets:
            problems.append(f"adapter: {self.adapter} needs a stage with LoRA targets; stage {self.choice.preset} has none (fold instead)")
        if self.adapter != "fresh" and not self.adapters:
            problems.append(f"adapter: {self.adapter} takes over the last of `adapters`, but none is named")
        return problems + watch.check(self.profile_steps, steps=self.steps)

    @property
    def choice(self) -> Stage:
        """The stage, also where only its preset's name was given."""
        assert isinstance(self.stage, Stage), "__post_init__ makes a Stage of a preset's name"
        return self.stage

    def batch_rows(self, length: int) -> int:
        """The global batch in sequences of `length` tokens.

        Raises:
          ValueError: it was given in tokens, and they are no whole number of sequences.
        """
        if self.batch_unit == "sequences":
            return self.global_batch
        if self.global_batch % length:
            below = max(self.global_batch // length, 1) * length
            raise ValueError(f"global_batch {self.global_batch:,} tokens is no multiple of the rows' {length} tokens; {below:,} would be")
        return self.global_batch // length

    def num_steps(self, *, rows: int, length: int) -> int:
        """Updates in all, for data of `rows` rows of `length` tokens."""
        if self.steps is not None:
            return self.steps
        batch = self.batch_rows(length)
        if self.tokens is not None:
            return math.ceil(self.tokens / (batch * length))
        assert self.epochs is not None, "__post_init__ sees to it that one of the three is given"
        return math.ceil(self.epochs * rows / batch)

    def accumulation(self, *, batch: int, devices: int) -> int:
        """Micro-batches that a device runs one after another for a global batch of `batch` sequences split over `devices`.

        Raises:
          ValueError: the devices do not divide the batch.
        """
        if batch % devices:
            raise ValueError(f"global_batch of {batch} sequences cannot be split over {devices} devices: choose a multiple of {devices}")
        share = batch // devices
        at_most = share if self.micro_batch is None else self.micro_batch
        return next(count for count in range(1, share + 1) if share % count == 0 and share // count <= at_most)

    def to_yaml(self) -> str:
        """The resolved experiment as a configuration file that `zhllama train --config` reads; models of the hub by their commits."""
        import yaml

        # By way of JSON, in which a tuple is a list: YAML would give it a tag of Python's.
        return yaml.safe_dump(json.loads(json.dumps(hub.pinned(dataclasses.asdict(self)))), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """The settings that decide the numbers (up to rounding), as JSON values: what a checkpoint must agree with."""
        elsewhere = {
            "output",
            "data",
            "model",
            "adapters",
            "micro_batch",
            "remat",
            "unroll",
            "loss_chunk",
            "validation",
            "checkpoint",
            "mesh",
        }
        elsewhere |= {
            "expects",
            "log_every",
            "tensorboard",
            "wandb",
            "profile_steps",
            "max_nonfinite",
            "steps",
            "epochs",
            "tokens",
            "global_batch",
            "batch_unit",
        }
        settings = {name: value for name, value in dataclasses.asdict(self).items() if name not in elsewhere}
        return {
            **settings,
            "separate": self.data.separate,
            # Where the best step is written, what is scored and when decides the weights.
            "validation": dataclasses.asdict(self.validation) if self.validation.keep == "best" else {"keep": self.validation.keep},
            "init": dataclasses.asdict(self.model.init) if isinstance(self.model, NewModel) else None,
        }
