"""From one directory to another: any format in, adapters folded in on the way, any format out, with a certificate.

Tensors stream: no more than a few of them are in memory at a time. A base with fewer rows than released adapters have is grown to the last
one's tokenizer first, as the original's scripts do; all of the new rows are the adapters'.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import files, templates
from zhllama_jax.convert import (
    carry,
    certificate,
    llama_hf,
    manifest,
    names,
    peft,
    source,
    stack,
    target,
    tokenizer_hf,
    view,
    vocabulary,
)
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import align, processor


class Rewritten(NamedTuple):
    """What a rewrite did.

    Attributes:
      manifest: of the new directory.
      certificate: what was proved of it.
      notes: for the user, as sentences.
      file: the file of weights where there is one only.
      same_numbers: nothing was folded in, rounded, quantised or added.
      seconds: of the whole work without the comparison of logits, which says its own.
    """

    manifest: dict[str, Any]
    certificate: Mapping[str, Any]
    notes: list[str]
    file: str | None
    same_numbers: bool
    seconds: float


def run(
    model: str | Path,
    output: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    to: source.Format = "hf",
    dtype: str | None = None,
    force: bool = False,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    pad_vocab_multiple: int = 1,
    allow_unknown: bool = False,
    logits: bool = True,
    overwrite: bool = False,
    **how: Any,
) -> Rewritten:
    """Writes a model anew, with adapters folded in.

    Args:
      model: the model, or the adapters' base, in any format.
      output: directory to write.
      adapters: adapter directories, in the order in which they were trained.
      to: the format to write.
      dtype: of the stored weights, see `target.Form`; None keeps the model's.
      force: fold although fingerprints or order do not match.
      template, boundary: how the model was tuned on instructions, where no manifest says it; see `manifest.told`.
      pad_vocab_multiple: zero rows are added until the vocabulary is a multiple of it.
      allow_unknown: pass over keys of the configuration that nobody knows.
      logits: let the certificate compare logits too, where numbers were changed.
      overwrite: replace an existing directory of ours.
      **how: further fields of `target.Form`.

    Raises:
      FileNotFoundError, ValueError: see `source.Source`, `peft.load`, `stack.check`, `target.write` and `certificate.certify`.
    """
    begun = time.monotonic()
    model = Path(model)
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model, *adapters])
    loaded = [peft.load(directory, allow_unknown=allow_unknown) for directory in adapters]
    notes = [note for adapter in loaded for note in adapter.notes]
    recorded = None if source.recognise(model) == "gguf" else manifest.unchanged_fingerprint(model)
    named = any(adapter.base_fingerprint for adapter in loaded)
    with source.Source(model, digest=named or recorded is not None, allow_unknown=allow_unknown, once=True) as opened:
        loaded = [peft.fitted(adapter, opened.config) for adapter in loaded]
        fingerprint = recorded or (opened.fingerprint() if named else None)
        form = target.Form(to, dtype or _stored_dtype(opened), **how)
        target.check(form)
        base = _grown(opened, loaded, notes)
        notes += stack.check(base.config, loaded, fingerprint=fingerprint, base=model, force=force)
        tokenizer = stack.choose_tokenizer(model, loaded, base.config)
        prompt = manifest.told(stack.prompt(opened.prompt, loaded), template, boundary)
        carried = carry.find(model, prompt, num_pieces=tokenizer.vocab_size)
        base = view.padded(base, pad_vocab_multiple)
        meant = _meant(base, loaded, form, notes)
        generation = llama_hf.with_sampling(opened.generation) if loaded else opened.generation
        history = _history(opened, loaded, form, fingerprint, template)
        proved: dict[str, Any] = {}

        def certify(folder: Path, written: Any) -> Mapping[str, Any]:
            opened.read_the_rest()  # matrices that adapters replace whole
            if fingerprint is not None and opened.fingerprint() != fingerprint:
                raise ValueError(f"{model}: the weights are not those that {manifest.FILE} records; `zhllama verify` says which differ")
            proof = certificate.Proof(base, loaded, meant.config, form.dtype, opened.dtypes, logits)
            about = {"input": {"format": opened.format, "fingerprint": fingerprint}, "adapters": [each.digest for each in loaded]}
            proved.update(about | {"output": to} | certificate.certify(folder, proof))
            return proved

        done = target.write(
            output,
            meant,
            form=form,
            around=target.Around(tokenizer, prompt, generation, history, carried.files, opened.kept),
            certify=certify,
            overwrite=overwrite,
        )
        notes = opened.notes + opened.reader.notes + notes + carried.notes + done.notes
        same = not loaded and opened.dtypes == [form.dtype] and meant.config.vocab_size == opened.config.vocab_size
    seconds = time.monotonic() - begun - (proved["logits"]["seconds"] if proved["logits"] else 0.0)
    return Rewritten(done.manifest, proved, notes, done.file, same, seconds)


def _meant(base: view.View, adapters: Sequence[peft.Adapter], form: target.Form, notes: list[str]) -> view.View:
    """The model as it is to be written: with the adapters, in the form's dtype or one that is quantised to it."""
    held = llama_hf.parse_dtype(form.dtype if form.dtype in llama_hf.DTYPES else "float32")
    meant = view.folded(base, adapters, held) if adapters else view.cast(base, held)
    if form.to != "meta" or not base.config.tie_word_embeddings:
        return meant
    notes.append("Meta's format has no tied heads: the head is stored by itself, equal to the embedding")
    return view.untied(meant)


def _grown(opened: source.Source, adapters: Sequence[peft.Adapter], notes: list[str]) -> view.View:
    """The model, with as many rows as released adapters have."""
    base = view.stored(opened)
    largest = max((len(some.ids) for adapter in adapters for some in adapter.rows.values()), default=0)
    released = [adapter for adapter in adapters if adapter.base_fingerprint is None and (adapter.directory / tokenizer_hf.MODEL).is_file()]
    if not released or largest <= opened.config.vocab_size:
        return base
    # of the largest vocabulary, the last: in a wrong order that is not the last one's, and the stack's check says so
    theirs = {adapter.directory: processor.Tokenizer.load(adapter.directory) for adapter in reversed(released)}
    place, larger = max(theirs.items(), key=lambda item: item[1].vocab_size)
    whole = all(
        any(name in adapter.rows and len(adapter.rows[name].ids) == larger.vocab_size for adapter in released)
        for name in (config_lib.MATRICES[:1] if opened.config.tie_word_embeddings else config_lib.MATRICES)
    )
    if larger.vocab_size != largest or not whole:
        return base  # what does not fit is told by the check of the stack
    tokenizer = vocabulary.load(opened.path, opened.config)
    if not tokenizer_hf.goes_on(larger, tokenizer):
        return base  # likewise, with the model that would grow
    base = view.cut(base, tokenizer.vocab_size)
    base = view.grown(base, pieces=align.spell(tokenizer, larger), pad_token_id=larger.pad_id)
    notes.append(
        f"{opened.path} was grown from {opened.config.vocab_size:,} rows to the {largest:,} of {place}"
        f"{names.vocabulary_hint(opened.config.vocab_size, largest)}"
    )
    return base


def _history(
    opened: source.Source, adapters: Sequence[peft.Adapter], form: target.Form, fingerprint: str | None, template: str | None
) -> list[dict[str, Any]]:
    if adapters:
        return stack.history(opened.history, adapters, base=opened.path, fingerprint=fingerprint)
    step: dict[str, Any] = {"step": "convert", "dtype": form.dtype}
    step |= {"from": opened.format, "to": form.to} if opened.format != form.to else {}
    return [*opened.history, step | ({"template": template} if template else {})]


def _stored_dtype(opened: source.Source) -> str:
    if len(opened.dtypes) == 1:
        return opened.dtypes[0]
    matrices = {entry.dtype for entry in opened.reader.entries.values() if len(entry.shape) == 2}
    common = [name for name, stored in llama_hf.DTYPES.items() if {stored} == matrices]
    if opened.format == "gguf" and common:
        return common[0]  # GGUF has norms in float32 beside matrices of any type
    which = f"{common[0]} (that of its matrices)" if common else "bfloat16"
    raise ValueError(
        f"{opened.path}: the weights are stored as {', '.join(opened.dtypes)}: say how to store the result, --dtype {which} for one"
    )
