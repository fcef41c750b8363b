"""What `zhllama adapt` is given: texts by name, a base, a vocabulary, and an ordered list of trainings. No JAX here.

Texts are named once, with what of them is held out; every training, every table of the tokenizer and every evaluation refers to
them by name, so nothing that is held out can be trained on by mistake.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from zhllama_jax import hub
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config as train_config
from zhllama_jax.train import succession, watch

INSTRUCTIONS = "instructions"

RESERVED = frozenset(
    {"base", "base_tokenizer", "added_tokenizer", "tokenizer", "resized", "baseline", "pretrained", "model", "ngram", "generation", "check"}
)
"""Names of the pipeline's own steps."""

RESERVED_PREFIXES = ("measure_", "rows_")
"""How the names of its other steps begin."""


@dataclasses.dataclass(frozen=True)
class NewVocabulary:
    """A SentencePiece model to be trained by the pipeline.

    Attributes:
      texts: names of the texts to learn from (their held-out part is left out).
      vocab_size: pieces to make.
      model_type: bpe (a base for LLaMA must be one) or unigram, as Chinese-LLaMA-Alpaca's pieces were.
      character_coverage: share of the characters that get a piece of their own.
      byte_fallback: spell the other characters in bytes.
    """

    texts: tuple[str, ...]
    vocab_size: int
    model_type: Literal["bpe", "unigram"] = "bpe"
    character_coverage: float = 0.9995
    byte_fallback: bool = True


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of the pipeline: on what, what learns, how long.

    Attributes:
      name: names the step and its lines in the report.
      texts: name of a text -> its weight in the mixture; `instructions` names the instruction rows.
      stage: which weights learn: a preset's name, or a preset with choices overridden.
      adapter: what becomes of the adapters trained so far.
      lora: the adapters' shape.
      optimizer: AdamW's numbers.
      schedule: the learning rate over the steps.
      tokens: length of the training in tokens, padding included; excludes `steps`.
      steps: length of the training in steps; excludes `tokens`.
      global_batch: rows of a step.
      micro_batch: rows that one device takes at a time, at most; None takes the pipeline's.
      separate: documents of one row do not see each other.
      validation: how often the held-out part is scored.
      checkpoint: how often the state is saved.
    """

    name: str
    texts: dict[str, float]
    stage: train_config.Preset | train_config.Stage
    adapter: train_config.Takeover = "fresh"
    lora: train_config.Lora = dataclasses.field(default_factory=train_config.Lora)
    optimizer: train_config.Optimizer = dataclasses.field(default_factory=train_config.Optimizer)
    schedule: train_config.Schedule = dataclasses.field(default_factory=train_config.Schedule)
    tokens: int | None = None
    steps: int | None = None
    global_batch: int = 32
    micro_batch: int | None = None
    separate: bool = True
    validation: train_config.Validation = dataclasses.field(default_factory=train_config.Validation)
    checkpoint: train_config.Checkpoint = dataclasses.field(default_factory=train_config.Checkpoint)

    def __post_init__(self) -> None:
        if isinstance(self.stage, str):
            object.__setattr__(self, "stage", train_config.Stage(self.stage))
        if (self.tokens is None) == (self.steps is None):
            raise ValueError(f"training {self.name!r}: give either tokens or steps")
        if not self.texts:
            raise ValueError(f"training {self.name!r}: texts is empty; name at least one with a weight")
        try:
            self.stand_in()
        except ValueError as error:
            raise ValueError(f"training {self.name!r}: {error}") from None

    @property
    def choice(self) -> train_config.Stage:
        """The stage, also where only its preset's name was given."""
        assert isinstance(self.stage, train_config.Stage), "__post_init__ makes a Stage of a preset's name"
        return self.stage

    def experiment(
        self, *, model: str | train_config.NewModel, stores: Sequence[str], output: str, adapters: Sequence[str] = (), **settings: Any
    ) -> train_config.Experiment:
        """What `train` is given: this training on the stores of its texts, in their order."""
        shares = [data_config.Share(weight=weight) for weight in self.texts.values()]
        sources = [train_config.Source(store=store, share=share) for store, share in zip(stores, shares, strict=True)]
        shared = {field.name for field in dataclasses.fields(self)} - {"name", "texts", "separate"} - settings.keys()
        return train_config.Experiment(
            model=model,
            data=train_config.Data(sources=tuple(sources), separate=self.separate),
            output=output,
            adapters=tuple(adapters),
            **{name: getattr(self, name) for name in shared},
            **settings,
        )

    def stand_in(self, **settings: Any) -> train_config.Experiment:
        """The experiment with names in place of what only the pipeline makes: it is refused where the real one would be."""
        adapters = () if self.adapter == "fresh" else ("former",)
        return self.experiment(model="model", stores=list(self.texts), output="output", adapters=adapters, **settings)


@dataclasses.dataclass(frozen=True)
class Base:
    """The model to adapt: a directory, or one that the pipeline trains from random weights.

    Attributes:
      model: a Hugging Face directory, or a hub id (owner/name, owner/name@revision); excludes the other fields.
      tokenizer: a SentencePiece BPE model (a path or a hub id) for a new base, or how to train one.
      init: the new base's shape.
      training: the new base's training; its stage must be `full`.
    """

    model: str | None = None
    tokenizer: str | NewVocabulary | None = None
    init: train_config.Dimensions | None = None
    training: Training | None = None

    def __post_init__(self) -> None:
        new = {"tokenizer": self.tokenizer, "init": self.init, "training": self.training}
        given = [name for name, value in new.items() if value is not None]
        if self.model is not None and given:
            raise ValueError(f"base: model is an existing directory, which excludes {', '.join(given)}")
        if self.model is None and len(given) < len(new):
            missing = [name for name in new if name not in given]
            raise ValueError(f"base: give model, a Hugging Face directory, or, for a new base, also {', '.join(missing)}")
        if isinstance(self.tokenizer, NewVocabulary) and (self.tokenizer.model_type != "bpe" or not self.tokenizer.byte_fallback):
            raise ValueError("base.tokenizer: a LLaMA's is of model_type bpe with byte_fallback; set both")
        if self.training is not None and not self.training.choice.full:
            raise ValueError("base: a new base learns every weight; set training.stage to full")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What is merged into the base's tokenizer, and how the new rows begin.

    Attributes:
      added: SentencePiece models (paths or hub ids) or word lists, or how to train one.
      mode: safe, or reference (byte for byte what the original Chinese-LLaMA did).
      script: the script whose pieces safe mode takes.
      pad_token: append the padding piece.
      init: how new rows begin.
    """

    added: tuple[str, ...] | NewVocabulary
    mode: Literal["safe", "reference"] = "safe"
    script: str = "han"
    pad_token: bool = False
    init: Literal["mean_of_pieces", "mean", "normal"] = "mean_of_pieces"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured after each step.

    Attributes:
      texts: names of texts whose held-out part is scored; empty scores every text that holds something out.
      max_characters: characters of each held-out text that are scored, from its start.
      exam: .jsonl or .json file of instructions with one right answer each (`task` optional), for exact match; None leaves that out.
      samples: prompts answered before and after.
      max_new_tokens: length of answers and samples.
      ngram: also fit a character 5-gram model on the text of the adaptation.
      equal_compute: also train the un-extended base on the same text with equal FLOPs.
      verify_with_transformers: compare the exported directory's logits with `transformers`, where that is installed.
    """

    texts: tuple[str, ...] = ()
    max_characters: int = 60_000
    exam: str | None = None
    samples: tuple[str, ...] = ()
    max_new_tokens: int = 48
    ngram: bool = True
    equal_compute: bool = True
    verify_with_transformers: bool = True

    def __post_init__(self) -> None:
        for name in ("max_characters", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Adapt:
    """The whole pipeline.

    Attributes:
      output: directory of all results: `report.md`, the adapted `model`, and all else in `steps`.
      texts: name -> files and what of them is held out; what one text holds out is learned from none.
      base: the model to adapt.
      vocabulary: what is merged into its tokenizer.
      trainings: the stages, in order; those on instructions come last.
      instructions: the instruction rows, if there are any.
      adapted: name of the text whose compression, baselines and characters per second the report is about.
      sequence_length: tokens of a row, in every training.
      evaluation: what is measured.
      dtype: of the computation.
      remat: what the backward pass of every training recomputes: none, dots, full.
      micro_batch: rows that one device takes at a time, at most, in every training that does not say its own; None takes its whole share.
      mesh: devices along each axis, in every training.
      seed: of everything random.
      wandb: write every training to Weights & Biases too, each as a run `NAME-TRAINING`; None writes to none.
    """

    output: str
    texts: dict[str, data_config.TextData]
    base: Base
    vocabulary: Vocabulary
    trainings: tuple[Training, ...]
    instructions: data_config.SftData | None = None
    adapted: str = "chinese"
    sequence_length: int = 256
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "dots"
    micro_batch: int | None = None
    mesh: train_config.Mesh = dataclasses.field(default_factory=train_config.Mesh)
    seed: int = 0
    wandb: watch.Wandb | None = None

    def __post_init__(self) -> None:
        problems = []
        known = {*self.texts, *([INSTRUCTIONS] if self.instructions else [])}
        trainings = self.all_trainings
        for training in trainings:
            problems += [f"training {training.name!r} names the text {name!r}" for name in training.texts if name not in known]
        for vocabulary in (self.base.tokenizer, self.vocabulary.added):
            if isinstance(vocabulary, NewVocabulary):
                problems += [f"a vocabulary names the text {name!r}" for name in vocabulary.texts if name not in self.texts]
        problems += [f"evaluation names the text {name!r}" for name in (*self.evaluation.texts, self.adapted) if name not in self.texts]
        if problems:
            raise ValueError(f"{'; '.join(dict.fromkeys(problems))}; there are {', '.join(sorted(known)) or 'none'}")
        names = [training.name for training in trainings]
        if not self.trainings:
            raise ValueError("trainings is empty: name at least one")
        if INSTRUCTIONS in self.texts:
            raise ValueError(f"texts: the name {INSTRUCTIONS!r} stands for the instruction rows; choose another")
        if keys := {"kind", "step"} & set(self.texts):
            raise ValueError(f"texts: {', '.join(map(repr, sorted(keys)))} is a key of every line of a training's log; choose another name")
        if len(set(names)) < len(names) or set(names) & RESERVED or any(name.startswith(RESERVED_PREFIXES) for name in names):
            reserved = [*sorted(RESERVED), *(f"{prefix}…" for prefix in RESERVED_PREFIXES)]
            raise ValueError(f"trainings need distinct names other than {', '.join(reserved)}; got {', '.join(names)}")
        unfit = [name for name in (*names, *self.texts) if not re.fullmatch(r"\w[\w.-]*", name)]
        if unfit:
            raise ValueError(f"{', '.join(map(repr, unfit))} cannot name a folder: use letters, digits, '_', '-' and '.'")
        self._check_held_out()
        self._check_rows()
        self._check_order()

    @property
    def all_trainings(self) -> list[Training]:
        """The base's training, if the pipeline makes the base, and the stages."""
        return [*([self.base.training] if self.base.training else []), *self.trainings]

    def computing(self, training: Training) -> dict[str, Any]:
        """What all trainings of the pipeline share, as fields of one's experiment."""
        micro_batch = self.micro_batch if training.micro_batch is None else training.micro_batch
        return {
            "seed": self.seed,
            "dtype": self.dtype,
            "remat": self.remat,
            "micro_batch": micro_batch,
            "mesh": self.mesh,
            "wandb": self.tracked(training),
        }

    def tracked(self, training: Training) -> watch.Wandb | None:
        """The run at Weights & Biases of one training, named after the pipeline's output and the training."""
        if self.wandb is None:
            return None
        return dataclasses.replace(self.wandb, name=f"{self.wandb.name or Path(self.output).resolve().name}-{training.name}")

    def check_length(self, *, context: int) -> None:
        """Refuses rows that are longer than the base's context."""
        if self.sequence_length > context:
            raise ValueError(f"sequence_length {self.sequence_length} is more than the base's context of {context} tokens")

    def to_yaml(self) -> str:
        """The resolved pipeline as a configuration file that `zhllama adapt --config` reads; models of the hub by their commits."""
        import yaml

        # By way of JSON, in which a tuple is a list: YAML would give it a tag of Python's.
        return yaml.safe_dump(json.loads(json.dumps(hub.pinned(dataclasses.asdict(self)))), sort_keys=False, allow_unicode=True)

    def _check_rows(self) -> None:
        """Refuses rows that could not be built or compared: all have one length."""
        sources: dict[str, data_config.TextData | data_config.SftData] = dict(self.texts)
        if self.instructions is not None:
            sources[INSTRUCTIONS] = self.instructions
        for name, source in sources.items():
            (default,) = [field.default for field in dataclasses.fields(source) if field.name == "length"]
            if source.length not in (default, self.sequence_length):
                raise ValueError(
                    f"{name}: length {source.length} has no effect, all rows have sequence_length {self.sequence_length}: leave it out"
                )
            dataclasses.replace(source, length=self.sequence_length)
        if self.evaluation.exam is not None and self.instructions is None:
            raise ValueError("evaluation.exam needs instructions: their template says how it is asked")

    def _check_order(self) -> None:
        """Refuses trainings that cannot follow each other, or whose settings only show at their end to be wrong."""
        tuned = ""
        listed: list[succession.Former] = []
        if self.base.training is not None and self.base.training.adapter != "fresh":
            raise ValueError(f"training {self.base.training.name!r} begins with random weights: leave out adapter")
        for one in self.trainings:
            try:
                targets = succession.kernels(one.choice.lora_targets)
                wanted = one.lora.targeting(targets) if targets else None
                one.stand_in(**self.computing(one))
                listed = succession.after(one.adapter, wanted, listed, name=one.name, full=one.choice.full)
            except ValueError as error:
                raise ValueError(f"training {one.name!r}: {error}") from None
            if INSTRUCTIONS in one.texts:
                tuned = one.name
            elif tuned:
                raise ValueError(f"training {one.name!r} on text alone comes after {tuned!r} on instructions: those come last")
        for one in self.all_trainings:
            sources = [self.texts.get(name, self.instructions) for name in one.texts]
            scored = [source for source in sources if source is not None and (source.validation_files or source.held_out)]
            if one.validation.keep == "best" and not scored:
                raise ValueError(f"training {one.name!r}: validation.keep: best needs a text that holds something out")

    def _check_held_out(self) -> None:
        """Refuses what could not be scored, before hours of training instead of after them."""
        scored = {*self.evaluation.texts, self.adapted}
        without = [name for name in self.texts if name in scored and not (self.texts[name].validation_files or self.texts[name].held_out)]
        if without:
            raise ValueError(f"nothing of {', '.join(without)} is held out to be scored: set held_out or validation_files")
        if self.evaluation.texts and self.adapted not in self.evaluation.texts:
            named = ", ".join(self.evaluation.texts)
            raise ValueError(f"evaluation.texts must name the adapted text {self.adapted!r}, which the report is about; got {named}")
