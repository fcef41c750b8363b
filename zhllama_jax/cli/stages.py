"""`zhllama stages`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import located, terminal
from zhllama_jax.train import config as train_config

if TYPE_CHECKING:
    from zhllama_jax.model import config as model_config


def run(
    experiment: train_config.Experiment | adapt_config.Adapt | None,
    /,
    *,
    model: str | None = None,
    size: str | None = None,
    vocab_size: int | None = None,
    stage: train_config.Preset | None = None,
    lora: Literal["none", "attention", "all"] | None = None,
    rows: Literal["none", "new", "all"] | None = None,
    rank: int | None = None,
) -> None:
    """Prints which weights a stage trains, by rule.

    Counts on abstract shapes: the stages of a configuration file for `train` or `adapt`, or one stage described by flags. Of a file for
    `train` the flags are those of `train`: --stage.rows new, --stage.lora all, --lora.rank 16.

    Args:
      experiment: what `train` or `adapt` is given.
      model: a model's directory or hub id, whose shape is counted; only its configuration is read.
      size: a named model size: 7b (the default without a file), 13b, 33b, 65b, small, tiny …
      vocab_size: pieces of the vocabulary, 49,953 by default without a file or model; what exceeds the base's rows is the extension.
      stage: embeddings, pretrain_lora (where nothing is said), sft, new_rows or full.
      lora: kernels that carry adapters; the stage's if left out.
      rows: vocabulary rows that learn; the stage's if left out.
      rank: width of the adapters; 8 if left out.

    Examples:
      zhllama stages --model llama-7b-zh --stage embeddings
      zhllama stages --size 13b --vocab_size 49953 --stage sft
      zhllama stages --config configs/small_cpu.yaml
    """
    from zhllama_jax.convert import source
    from zhllama_jax.model import config as model_config
    from zhllama_jax.train import stages

    if model is not None and (size is not None or experiment is not None):
        raise ValueError("a model, a named size and a file each say which shape to count: give one of --model, --size and --config")
    if experiment is None:
        if model is not None:
            config = source.load_config(located.shape(model))
            config = config if vocab_size is None else _with_vocabulary(config, vocab_size)
        else:
            config = _with_vocabulary(model_config.named(size or "7b"), vocab_size or 49_953)
        chosen = train_config.Stage(preset=stage or "pretrain_lora", lora=lora, rows=rows)
        shape = train_config.Lora() if rank is None else train_config.Lora(rank=rank)
        terminal.result(str(stages.table(chosen, config, shape)))
        return
    _check_beside_file(experiment, stage=stage, lora=lora, rows=rows, rank=rank)
    if isinstance(experiment, train_config.Experiment) and (mixture := _mixture(experiment)):
        terminal.result(f"{mixture}\n")
    for number, (name, chosen, shape, config) in enumerate(_of_file(experiment, size)):
        if size is not None:
            config = model_config.named(size, vocab_size=config.vocab_size, base_vocab_size=config.base_rows)
        if vocab_size is not None:
            config = _with_vocabulary(config, vocab_size)
        terminal.result(f"{chr(10) * (number > 0)}{name}: {config.vocab_size:,} rows, {config.num_hidden_layers} layers")
        terminal.result(str(stages.table(chosen, config, shape)))


def _check_beside_file(experiment: train_config.Experiment | adapt_config.Adapt, **given: str | int | None) -> None:
    """Refuses flags that describe one stage where a file does; what `train` has under the same name is the file's and not given here."""
    words = {f"--{name}": value for name, value in given.items() if value is not None}
    if not isinstance(experiment, train_config.Experiment):
        if words:
            raise ValueError(f"{', '.join(words)}: a pipeline's file says this for each of its trainings; change it there")
        return
    own = {"--rows": "--stage.rows", "--rank": "--lora.rank"}
    if instead := [f"{own[word]} {value}" for word, value in words.items() if word in own]:
        raise ValueError(f"beside a file for `train` its own flags say this: {' '.join(instead)}")


def _mixture(experiment: train_config.Experiment) -> str | None:
    """How several sources are mixed, as far as it is known before they are read; None where there is one."""
    from zhllama_jax.data import config as data_config

    shares = [source.share for source in experiment.data.sources]
    if len(shares) == 1:
        return None
    if not data_config.weighted(shares):
        return f"{len(shares)} sources in proportion to their rows: {data_config.epoch(shares)}"
    total = sum(share.weight or 0.0 for share in shares)
    parts = [f"{source.name} {100 * (source.share.weight or 0.0) / total:.1f} %" for source in experiment.data.sources]
    return f"{len(shares)} sources by their weights: {', '.join(parts)}; `zhllama data show --config` counts how often each row is read"


def _with_vocabulary(config: "model_config.LlamaConfig", vocab_size: int) -> "model_config.LlamaConfig":
    """The same model with another number of rows: fewer leave no extension."""
    return config.replace(vocab_size=vocab_size, base_vocab_size=min(config.base_rows, vocab_size))


def _of_file(
    experiment: train_config.Experiment | adapt_config.Adapt, size: str | None
) -> Iterator[tuple[str, train_config.Stage, train_config.Lora, "model_config.LlamaConfig"]]:
    """Name, stage, adapters' shape and model of each training that a file describes; `size` is counted in its place."""
    from zhllama_jax.adapt import places
    from zhllama_jax.convert import source
    from zhllama_jax.tokenizer import processor

    if isinstance(experiment, train_config.Experiment):
        expected, model = experiment.expects, experiment.model
        if expected is not None and isinstance(model, str) and not Path(model).exists():
            if size is None:
                terminal.say(f"zhllama: note: {model} is not here yet, so the {expected.size} that the recipe expects is counted")
            yield f"stage {experiment.choice.preset}", experiment.choice, experiment.lora, expected.llama()
            return
        experiment = located.experiment(experiment, weights=False)
        model = experiment.model
        if isinstance(model, str):
            yield f"stage {experiment.choice.preset}", experiment.choice, experiment.lora, source.load_config(model)
        else:
            pieces = processor.Tokenizer.load(model.tokenizer).vocab_size
            yield f"stage {experiment.choice.preset}", experiment.choice, experiment.lora, model.init.llama(vocab_size=pieces)
        return
    experiment = located.pipeline(experiment, weights=False)
    base = experiment.base
    if base.training is not None and base.init is not None:
        new = base.tokenizer
        pieces = (
            new.vocab_size
            if isinstance(new, adapt_config.NewVocabulary)
            else processor.Tokenizer.load(places.old_tokenizer(experiment)).vocab_size
        )
        config = base.init.llama(vocab_size=pieces)
        yield base.training.name, base.training.choice, base.training.lora, config
    else:
        config = source.load_config(places.base_model(experiment))
    grown = places.of(experiment, places.RESIZED)
    if grown.is_dir():
        config = source.load_config(grown)
    else:
        terminal.say(
            f"zhllama: note: {grown} does not exist yet, so the base's vocabulary is counted; --vocab_size N counts N pieces instead"
        )
    for training in experiment.trainings:
        yield training.name, training.choice, training.lora, config
