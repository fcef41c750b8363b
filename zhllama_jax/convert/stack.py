"""A base and adapters on top of it: do they belong together, and in this order?

Which base an adapter belongs to, and what must be folded before it, is checked by digest; `force` turns what does not match into notes. A
base whose vocabulary grew (by [PAD], say) still is the base of the adapters from before: growing changes neither kernels nor old rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zhllama_jax import files, hub
from zhllama_jax.convert import manifest, names, peft, source, tokenizer_hf, vocabulary
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor


class Mismatch(ValueError):
    """Adapters that do not belong to the base, or not in this order; `force` folds them all the same."""


def check(
    config: config_lib.LlamaConfig, adapters: Sequence[peft.Adapter], *, fingerprint: str | None, base: str | Path, force: bool = False
) -> list[str]:
    """Holds adapters against their base and against each other.

    Args:
      config: the base's shape.
      adapters: in the order in which they are to be folded.
      fingerprint: the base's; None where no adapter asks for one.
      base: the base's directory, for messages.
      force: turn wrong fingerprints and orders into notes.

    Returns:
      Notes for the user.

    Raises:
      Mismatch: an adapter belongs to another base, or others must come before it.
      ValueError: an adapter does not fit the model's shape, also with `force`.
    """
    doubts: list[str] = []
    notes: list[str] = []
    contents = manifest.read(base, "model")
    within = _folded(contents)
    smaller = manifest.grown_from(contents) if contents and contents["fingerprint"] == fingerprint else []
    for adapter in sorted(adapters, key=_size, reverse=True):  # the largest first: who grows the model to its vocabulary does it once
        peft.check_fits(adapter, config, base)
    for number, adapter in enumerate(adapters):
        grown = adapter.base_fingerprint in smaller
        before = [other.digest for other in adapters[:number]]
        if adapter.digest in before:
            doubts.append(f"{adapter.directory} is given twice")
        if adapter.digest in within:
            doubts.append(f"{adapter.directory} is folded into {base} already")
        elif within and adapter.base_fingerprint is None and 0 < _size(adapter) < config.vocab_size:
            doubts.append(
                f"{adapter.directory} is for a vocabulary of {_size(adapter):,}, and {base}, of {config.vocab_size:,}, has adapters folded "
                f"in already{names.vocabulary_hint(_size(adapter), config.vocab_size)}: vocabularies grow in training, so it comes first"
            )
        if not grown and not _same_tokenizer(base, adapter) and not _extends(base, adapter):
            (notes if adapter.tokenizer_sha256 is None else doubts).append(f"{adapter.directory} has another tokenizer than {base}")
        if doubt := _shrinks(adapter, adapters[:number]):
            doubts.append(doubt)
        if adapter.base_fingerprint is None:
            named = f"names {adapter.base} as its base, without a digest to hold it against"
            named += "" if adapter.base == str(base) else f": make sure that {base} is the same"
            notes.append(f"{adapter.directory} {named if adapter.base else 'does not say which base it belongs to'}")
            notes += [
                f"{adapter.directory} has {len(some.ids):,} rows of {name}, the model {config.vocab_size:,}: the others stay the base's"
                for name, some in adapter.rows.items()
                if len(some.ids) < config.vocab_size
            ]
            continue
        if grown:
            notes.append(f"{adapter.directory} was trained before {base} grew to {config.vocab_size:,} rows: the new ones stay as they are")
        elif adapter.base_fingerprint != fingerprint:
            other, this = adapter.base_fingerprint[:12], str(fingerprint)[:12]
            doubts.append(f"{adapter.directory} was trained on another model ({other}) than {base} ({this})")
        if adapter.requires != before:
            doubts.append(_misplaced(adapter, adapters[:number], adapters))
    if doubts and not force:
        raise Mismatch(f"{'; '.join(doubts)}. Give the base and all adapters in the order of training")
    return notes + doubts


def choose_tokenizer(model: str | Path, adapters: Sequence[peft.Adapter], config: config_lib.LlamaConfig) -> processor.Tokenizer:
    """The last adapter's tokenizer, or the base's; those of adapters from before the base's vocabulary grew are too short.

    Raises:
      FileNotFoundError, ValueError: see `Tokenizer.load`.
    """
    fitting = [adapter.directory for adapter in reversed(adapters) if (_vocabulary(adapter) or config.vocab_size) >= config.vocab_size]
    directories = [directory for directory in fitting if (directory / tokenizer_hf.MODEL).is_file()]
    return processor.Tokenizer.load(directories[0]) if directories else vocabulary.load(model, config)


def prompt(base: manifest.Prompt | None, adapters: Sequence[peft.Adapter]) -> manifest.Prompt | None:
    """The last prompt that anybody was trained with."""
    return next((adapter.prompt for adapter in reversed(adapters) if adapter.prompt), base)


def history(
    former: Sequence[Mapping[str, Any]], adapters: Sequence[peft.Adapter], *, base: Path, fingerprint: str | None
) -> list[dict[str, Any]]:
    """What was done to a merged model: the base's steps, those of the adapters, and the merge."""
    steps = [dict(step) for step in former] + [dict(step) for adapter in adapters for step in adapter.history]
    folded = [{"name": hub.id_of(adapter.directory) or adapter.directory.name, "digest": adapter.digest} for adapter in adapters]
    return [*steps, {"step": "merge", "base": hub.id_of(base) or base.name, "base_fingerprint": fingerprint, "adapters": folded}]


def _folded(contents: Mapping[str, Any] | None) -> set[str]:
    """Digests of the adapters that a model's history says were folded into it."""
    steps = [step for step in (contents or {}).get("history", []) if isinstance(step, dict) and isinstance(step.get("adapters"), list)]
    return {adapter["digest"] for step in steps for adapter in step["adapters"] if isinstance(adapter, dict) and "digest" in adapter}


def _shrinks(adapter: peft.Adapter, before: Sequence[peft.Adapter]) -> str:
    """That an adapter of a smaller vocabulary comes after one of a larger, which was trained after it; "" for none.

    Of released adapters, which name neither base nor order, the vocabulary is what tells their order.
    """
    size = _size(adapter)
    largest, former = max(((_size(other), other) for other in before), key=lambda item: item[0], default=(0, adapter))
    if not 0 < size < largest:
        return ""
    return (
        f"{adapter.directory} is for a vocabulary of {size:,} and comes after {former.directory}, for one of {largest:,}"
        f"{names.vocabulary_hint(size, largest)}: vocabularies grow in training, so it comes before"
    )


def _vocabulary(adapter: peft.Adapter) -> int:
    """Rows of an adapter's base, as its manifest says or its whole matrices show; 0 where nothing tells."""
    whole = [len(some.ids) for some in adapter.rows.values() if some.ids[-1] + 1 == len(some.ids)]
    return adapter.vocab_size or max(whole, default=0)


def _size(adapter: peft.Adapter) -> int:
    """The size of an adapter's vocabulary, if need be as the tokenizer in its directory shows; 0 where nothing tells."""
    path = adapter.directory / tokenizer_hf.MODEL
    return _vocabulary(adapter) or (processor.Tokenizer.load(path).vocab_size if path.is_file() else 0)


def _same_tokenizer(base: str | Path, adapter: peft.Adapter) -> bool:
    """Whether base and adapter have the same `tokenizer.model`, as far as they have one."""
    paths = [source.tokenizer_path(base), adapter.directory / tokenizer_hf.MODEL]
    digests = {files.sha256(path) for path in paths if path is not None and path.is_file()}
    return len(digests) < 2


def _extends(base: str | Path, adapter: peft.Adapter) -> bool:
    """Whether a released adapter's tokenizer is the base's and more: it comes with the vocabulary to which the base is grown."""
    own = source.load_tokenizer(base)
    if adapter.tokenizer_sha256 is not None or own is None:
        return False
    theirs = processor.Tokenizer.load(adapter.directory)
    return theirs.vocab_size > own.vocab_size and all(theirs.piece(id_) == own.piece(id_) for id_ in range(own.vocab_size))


def _went_on(adapter: peft.Adapter, former: peft.Adapter) -> bool:
    """Whether an adapter took the former one's place, by continue or extend: it stands on the same ones and has its history and more."""
    length = len(former.history)
    return adapter.requires == former.requires and 0 < length < len(adapter.history) and adapter.history[:length] == former.history


def _misplaced(adapter: peft.Adapter, before: Sequence[peft.Adapter], given: Sequence[peft.Adapter]) -> str:
    """That the adapters given before one are not those that it was trained on, and what to do; by directories as far as they are given."""
    places = {other.digest: str(other.directory) for other in given}
    wanted = [places.get(digest, f"an adapter that is not given ({digest[:12]})") for digest in adapter.requires]
    text = f"{adapter.directory} was trained on top of {' and '.join(wanted) or 'the base alone'}, not of"
    text += f" {' and '.join(str(other.directory) for other in before) or 'the base alone'}"
    surplus = [other for other in before if other.digest not in adapter.requires]
    contained = [str(other.directory) for other in surplus if _went_on(adapter, other)]
    if contained:
        text += f": leave out {' and '.join(contained)}, whose training it went on with and which it holds"
    return text
