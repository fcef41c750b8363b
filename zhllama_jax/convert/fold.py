"""Base + adapters -> one model in memory: checked, accumulated in float32, rounded once.

`rewrite` does the same from directory to directory and holds a few tensors at a time; both read through the same views. Two cases are not
alike: a base with fewer rows than released adapters have is grown there and refused here, and one that is stored in several dtypes is
float32 here where none is named and refused there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zhllama_jax.convert import host, llama_hf, names, peft, source, stack, view, vocabulary
from zhllama_jax.tokenizer import processor


class Loaded(NamedTuple):
    """A model with adapters folded in: its weights in memory, and its tokenizer."""

    checkpoint: host.Checkpoint
    tokenizer: processor.Tokenizer


def load(model: str | Path, adapters: Sequence[str | Path] = (), *, dtype: str | None = None, force: bool = False) -> Loaded:
    """A model with adapters folded in, in memory: what `rewrite.run` would write but for the two cases above, and the tokenizer.

    Where an adapter says which base it belongs to, the base's weights are digested as they are read.

    Args:
      model: the base model, in any format.
      adapters: adapter directories, in the order in which they were trained.
      dtype: of all weights; None keeps the base's.
      force: fold although fingerprints or order do not match.

    Raises:
      FileNotFoundError, ValueError: see `host.load`, `peft.load` and `stack.check`.
    """
    model = Path(model)
    if not adapters:
        tokenizer = vocabulary.load(model, source.load_config(model))
        return Loaded(host.load(model, dtype=dtype), tokenizer)
    loaded = [peft.load(directory) for directory in adapters]
    base = host.load(model, digest=any(adapter.base_fingerprint for adapter in loaded))
    loaded = [peft.fitted(adapter, base.config) for adapter in loaded]
    notes = [note for adapter in loaded for note in adapter.notes]
    notes += stack.check(base.config, loaded, fingerprint=base.fingerprint, base=model, force=force)
    stored = next(iter(base.params["norm"].values())).dtype
    target = llama_hf.parse_dtype(dtype) if dtype else stored
    made = view.folded(view.held(base.config, base.params), loaded, target)
    folded = base._replace(
        params=names.collect(base.config, made.read),
        prompt=stack.prompt(base.prompt, loaded),
        history=stack.history(base.history, loaded, base=model, fingerprint=base.fingerprint),
        notes=base.notes + notes,
    )
    tokenizer = stack.choose_tokenizer(model, loaded, base.config)
    llama_hf.check_tokenizer(base.config, tokenizer)
    return Loaded(folded, tokenizer)
