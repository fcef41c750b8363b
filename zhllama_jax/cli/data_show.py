"""`zhllama data show`."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.adapt import places
from zhllama_jax.cli import located, terminal, tokens
from zhllama_jax.data import config as data_config
from zhllama_jax.train import config as train_config

if TYPE_CHECKING:
    from zhllama_jax.data import preview
    from zhllama_jax.tokenizer import processor

COUNTED = {
    **{name: name for name in ("read", "documents", "examples", "turns", "tokens")},
    "learnt": "tokens learnt",
    "characters": "characters learnt",
    "rows": "rows",
}
"""Counts that are shown, and their heads."""


@dataclasses.dataclass(frozen=True)
class Build:
    """What a configuration of `data build` holds.

    Attributes:
      tokenizer: SentencePiece model, a directory that holds one, or a hub id.
      text: a corpus and how it becomes rows.
      sft: instruction rows and how they become rows.
      output: not read here.
      overwrite: not read here.
    """

    tokenizer: str | None = None
    text: data_config.TextData | None = None
    sft: data_config.SftData | None = None
    output: Path | None = None
    overwrite: bool = False


class Source(NamedTuple):
    """One source by name, with its part in a mixture if there is one."""

    name: str
    data: data_config.TextData | data_config.SftData | Path
    share: data_config.Share | None = None


def run(
    config: Build | train_config.Experiment | adapt_config.Adapt | None,
    /,
    *,
    tokenizer: str | None = None,
    files: list[Path] | None = None,
    on_error: data_config.OnError = "strict",
    text: data_config.TextData | None = None,
    sft: data_config.SftData | None = None,
    examples: int = 3,
    start: int = 0,
    ids: bool = False,
    limit: int | None = 1000,
    config_file: str | None = None,
) -> None:
    """Shows what a model will read and learn of data, token by token.

    Of each source some examples, in a template's exact text: what is only read in one colour, what is learnt in another (without colours
    in brackets [ ]), line ends as \\n, documents of a row apart; then counts. A configuration is one for `data build`, `train` or `adapt`.

    Args:
      config: a configuration whose data are to be shown.
      tokenizer: SentencePiece model, a directory that holds one, or a hub id; by default the one that the configuration names.
      files: text or instruction files to look at, each a source of its own, read with the defaults of `data build`.
      on_error: of --files: stop at faults (strict), or count them and go on (skip).
      text: a corpus, as for `data build`.
      sft: instructions, as for `data build`.
      examples: how many examples (of text: packed rows) of each source.
      start: how many to pass over before them.
      ids: whether to print the token ids too.
      limit: rows or documents of each source that are read for the counts; null reads all.
      config_file: where the configuration stands.

    Examples:
      zhllama data show --tokenizer merged.model --files alpaca_zh.json zh.txt.gz
      zhllama data show --tokenizer merged.model --sft.files talks.jsonl --sft.columns.prompt question --sft.columns.response answer
      zhllama data show --config stage1.yaml --examples 1 --ids
    """
    import rich.console

    from zhllama_jax.tokenizer import processor

    if examples < 0 or start < 0 or (limit is not None and limit < 1):
        raise ValueError(f"examples and start must be at least 0 and limit at least 1, got {examples}, {start}, {limit}")
    if isinstance(config, Build):
        tokenizer, text, sft = config.tokenizer, config.text, config.sft
    sources = [*_of_files(files or [], on_error), *_of_flags(text, sft), *_of_configuration(config)]
    if not sources:
        raise ValueError("nothing to show: give --files FILE …, --text.files FILE …, --sft.files FILE …, or --config F")
    name = tokenizer or _tokenizer_of(config)
    if name is None:
        raise ValueError("say with --tokenizer which tokenizer cuts the text: a .model file, a model's directory or a hub id")
    there = located.tokenizer(name)
    model = processor.Tokenizer.load(there)
    given = _model_of(config)
    _check_context(config, there if given == name else Path(given) if given else None)
    if isinstance(config, adapt_config.Adapt) and tokenizer is None:
        _note_vocabulary(config, name)

    console = rich.console.Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    tokens.legend(console)
    counted = []
    for number, source in enumerate(sources, start=1):
        terminal.result(f"source {number} of {len(sources)}: {source.name} ({_described(source)})")
        beside = [other.data for other in sources if other is not source]
        look = _look(source, model, beside, start=start, examples=examples, limit=limit)
        for index, sample in enumerate(look.samples, start=start):
            terminal.result(f"\nexample {index:,}, {sample.where} ({sample.about})")
            tokens.show(console, sample)
            if ids:
                tokens.show_ids(sample)
        if not look.samples and examples:
            terminal.result(f"\nno examples from number {start:,} on")
        terminal.result("")
        counted.append((source, look))
    _summary(counted)
    if isinstance(config, train_config.Experiment):
        _mixture(config, counted)
    terminal.then(*_next(config, config_file or "FILE", sources, name))


def _of_flags(text: data_config.TextData | None, sft: data_config.SftData | None) -> list[Source]:
    return [Source(data_config.title(data.files), data) for data in (text, sft) if data is not None]


def _of_files(names: Sequence[Path], on_error: data_config.OnError) -> Iterator[Source]:
    """Files as sources: text where their rows have the field `text`, else instructions."""
    from zhllama_jax import lines
    from zhllama_jax.data import documents, instructions

    if not names:
        return
    suffixes = tuple(dict.fromkeys([*lines.SUFFIXES, *instructions.SUFFIXES]))
    for path in documents.expand(names, suffixes=suffixes):
        kind = lines.suffix(path)
        if kind == ".jsonl":
            _, first = next(documents.objects(path, on_error=on_error, tally=documents.Tally()), (0, {}))
            kind = ".txt" if isinstance(first.get("text"), str) and "instruction" not in first else ".json"
        made = data_config.TextData if kind == ".txt" else data_config.SftData
        data = made(files=(str(path),), on_error=on_error)
        yield Source(path.name, data)


def _of_configuration(config: Build | train_config.Experiment | adapt_config.Adapt | None) -> Iterator[Source]:
    """The sources of a training or a pipeline."""
    if isinstance(config, train_config.Experiment):
        for source in config.data.sources:
            yield Source(source.name, source.text or source.sft or Path(str(source.store)), source.share)
    elif isinstance(config, adapt_config.Adapt):
        named: dict[str, data_config.TextData | data_config.SftData] = {**config.texts}
        if config.instructions is not None:
            named[adapt_config.INSTRUCTIONS] = config.instructions
        # All rows of a pipeline have its length, whatever theirs is by default.
        yield from (Source(name, dataclasses.replace(data, length=config.sequence_length)) for name, data in named.items())


def _tokenizer_of(config: Build | train_config.Experiment | adapt_config.Adapt | None) -> str | None:
    """Where the tokenizer of a training lies, or the merged one of a pipeline, or, as long as there is none, that of its base."""
    if isinstance(config, train_config.Experiment):
        return config.model.tokenizer if isinstance(config.model, train_config.NewModel) else config.model
    if isinstance(config, adapt_config.Adapt):
        merged = places.of(config, places.TOKENIZER)
        if merged.is_dir():
            return str(merged)
        return config.base.model or (config.base.tokenizer if isinstance(config.base.tokenizer, str) else None)
    return None


def _model_of(config: Build | train_config.Experiment | adapt_config.Adapt | None) -> str | None:
    """The name of the model that a training or a pipeline begins with, where it is given."""
    if isinstance(config, adapt_config.Adapt):
        return config.base.model
    return config.model if isinstance(config, train_config.Experiment) and isinstance(config.model, str) else None


def _note_vocabulary(config: adapt_config.Adapt, name: str) -> None:
    """Says which of a pipeline's two vocabularies counts."""
    merged = places.of(config, places.TOKENIZER)
    if name == str(merged):
        terminal.say(f"zhllama: note: tokens are those of {merged}, the merged vocabulary, as in all trainings on top of the base")
    else:
        terminal.say(
            f"zhllama: note: {merged} does not exist yet, so tokens are those of the base's vocabulary; the trainings on top of it will "
            "have others, and rows other counts (--tokenizer names another vocabulary)"
        )


def _check_context(config: Build | train_config.Experiment | adapt_config.Adapt | None, folder: Path | None) -> None:
    """Refuses rows that are longer than the model's context, as the verb that trains does; `folder` is a given model's, if it is here."""
    from zhllama_jax.convert import config_hf
    from zhllama_jax.model import config as model_config

    if config is None or isinstance(config, Build):
        return
    if isinstance(config, train_config.Experiment):
        init = config.model.init if isinstance(config.model, train_config.NewModel) else None
    else:
        init = config.base.init
    if init is not None:
        shape = init.llama(vocab_size=model_config.LLAMA_VOCAB_SIZE)
    elif folder is not None and (folder / "config.json").is_file():
        shape = config_hf.read(folder / "config.json").config
    else:
        return
    if isinstance(config, train_config.Experiment):
        for length in {_length(source.text or source.sft or Path(str(source.store))) for source in config.data.sources}:
            config.data.check_length(length, context=shape.context)
    else:
        config.check_length(context=shape.context)


def _described(source: Source) -> str:
    data = source.data
    if isinstance(data, data_config.SftData):
        return f"instructions, template {data.template}, boundary {data.boundary}, rows of {data.length:,} tokens"
    if isinstance(data, data_config.TextData):
        return f"text, packing {data.packing}, rows of {data.length:,} tokens"
    return "a store"


def _look(
    source: Source,
    tokenizer: "processor.Tokenizer",
    beside: "Sequence[data_config.TextData | data_config.SftData | Path]",
    *,
    start: int,
    examples: int,
    limit: int | None,
) -> "preview.Look":
    from zhllama_jax.data import preview

    if isinstance(source.data, data_config.SftData):
        rows = [other for other in beside if isinstance(other, data_config.SftData)]
        return preview.sft(source.data, tokenizer, others=rows, start=start, examples=examples, limit=limit)
    if isinstance(source.data, data_config.TextData):
        texts = [other for other in beside if isinstance(other, data_config.TextData)]
        return preview.text(source.data, tokenizer, others=texts, start=start, examples=examples, limit=limit)
    from zhllama_jax.data import build, store

    train = store.open_store(source.data, build.TRAIN, tokenizer_sha256=tokenizer.sha256)
    recorded = train.metadata.get("splits", {}).get(build.TRAIN, {})
    counts = {name: value for name, value in recorded.items() if isinstance(value, int)}
    if train.metadata.get("kind") == "text":
        counts["tokens"] += counts["documents"] * data_config.separators(train.metadata["options"])
    return preview.Look(
        preview.rows(train, tokenizer, start=start, examples=examples),
        counts={**counts, "rows": len(train), "learnt": counts.get("targets", 0)},
        forms=recorded.get("forms", {}),
        faults=recorded.get("faults", {}),
        located=recorded.get("located", []),
        whole=True,
    )


def _summary(counted: Sequence[tuple[Source, "preview.Look"]]) -> None:
    """Counts by source, and what was left out or repaired."""
    columns = [name for name in COUNTED if any(look.counts.get(name) for _, look in counted)]
    rows = [[source.name, *(f"{look.counts[name]:,}" if name in look.counts else "-" for name in columns)] for source, look in counted]
    terminal.result(terminal.table([["source", *map(COUNTED.__getitem__, columns)], *rows]))
    for source, look in counted:
        if not look.whole:
            terminal.result(f"{source.name}: counted so far as it was read; --limit null reads all")
        for name, forms in look.forms.items():
            terminal.result(f"{source.name}: {name}: {', '.join(f'{count:,} {form}' for form, count in forms.items()) or 'no rows'}")
        left_out = {name: count for name, count in look.counts.items() if name in ("cut", "turns_cut", "held_out") or "dropped" in name}
        for name, count in {**look.faults, **left_out}.items():
            terminal.result(f"{source.name}: {name.replace('_', ' ')}: {count:,}")
        for place in look.located:
            terminal.result(f"  {place}")


def _mixture(config: train_config.Experiment, counted: Sequence[tuple[Source, "preview.Look"]]) -> None:
    """The sources' parts in a training; how much it reads of each is known where all of them were read to their ends."""
    from zhllama_jax.data import account, mixture

    shares = [source.share for source in config.data.sources]
    weighted, whole = data_config.weighted(shares), all(look.whole for _, look in counted)
    head = ["mixture", *(["weight", "per cent"] if weighted else []), "max_epochs", "max_rows", "max_tokens"]
    parts = [[source.name] for source, _ in counted]
    total = sum(share.weight or 0.0 for share in shares)
    for row, share in zip(parts, shares, strict=True):
        row += [f"{share.weight:g}", f"{100 * (share.weight or 0.0) / total:.1f}"] if weighted else []
        row += ["-" if value is None else f"{value:,}" for value in (share.max_epochs, share.max_rows, share.max_tokens)]
    if whole:
        length = _length(counted[0][0].data)
        taken = [_taken(share, look, length) for share, (_, look) in zip(shares, counted, strict=True)]
        mixed, asked = mixture.Mixture(taken, shares), config.num_steps(rows=sum(taken), length=length) * config.batch_rows(length)
        read = mixed.counts(asked if mixed.num_rows is None else min(asked, mixed.num_rows))
        head += ["rows used", "rows read", "times"]
        for row, rows, reads in zip(parts, taken, read.tolist(), strict=True):
            row += [f"{rows:,}", f"{reads:,}", account.times(reads / rows)]
    terminal.result(f"\n{terminal.table([head, *parts])}")
    if not whole:
        terminal.result("how often each row is read: --limit null tells")
    if not weighted and len(parts) > 1:
        terminal.result(f"no weights: sources stand in proportion to their rows, and {data_config.epoch(shares)}")


def _taken(share: data_config.Share, look: "preview.Look", length: int) -> int:
    """How many of a source's rows a share leaves, as in a training: of instructions, examples and their tokens count."""
    examples = look.counts.get("examples")
    return share.taken(look.counts.get("rows", 0), length=length, examples=examples, tokens=look.counts["tokens"] if examples else None)


def _length(data: data_config.TextData | data_config.SftData | Path) -> int:
    from zhllama_jax.data import store

    return int(store.read_metadata(data)["length"]) if isinstance(data, Path) else data.length


def _next(
    config: Build | train_config.Experiment | adapt_config.Adapt | None, file: str, sources: Sequence[Source], tokenizer: str
) -> list[str]:
    """The command that does with the data what was shown: all of the sources, read as they were read here."""
    if isinstance(config, train_config.Experiment | adapt_config.Adapt):
        return ["train" if isinstance(config, train_config.Experiment) else "adapt", "--config", file]
    if isinstance(config, Build):
        return ["data", "build", "--config", file]
    if len(sources) == 1:
        [(kind, chosen)] = _chosen(sources[0]).items()
        return ["data", "build", "--tokenizer", tokenizer, *_flags(kind, chosen), "--output", "DIR"]
    stage = ["--stage", "sft"] if any(isinstance(source.data, data_config.SftData) for source in sources) else []
    mappings = [yaml.safe_dump(_chosen(source), default_flow_style=True, allow_unicode=True, width=10**6).strip() for source in sources]
    return ["train", "--model", "MODEL", *stage, "--data.sources", *mappings, "--epochs", "1", "--output", "runs/stage"]


def _chosen(source: Source) -> dict[str, dict[str, Any]]:
    """A source as a configuration says it, without what is the default."""
    data = source.data
    assert not isinstance(data, Path), "only a training names stores"
    return {"text" if isinstance(data, data_config.TextData) else "sft": _other_than_default(data)}


def _other_than_default(data: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default:
            found[field.name] = (
                list(value) if isinstance(value, tuple) else _other_than_default(value) if field.name == "columns" else value
            )
    return found


def _flags(name: str, value: Any) -> list[str]:
    """A value as words of the command line."""
    if isinstance(value, dict):
        return [word for key, inner in value.items() for word in _flags(f"{name}.{key}", inner)]
    words = list(map(str, value)) if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else str(value)]
    return [f"--{name}", *words]
