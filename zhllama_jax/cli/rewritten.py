"""What `convert` and `merge` share: a model from one directory into another, and what is said of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhllama_jax import templates
from zhllama_jax.cli import allocator, located, terminal

if TYPE_CHECKING:
    from zhllama_jax.convert import rewrite, source


def run(
    model: str,
    output: Path,
    *,
    to: "source.Format",
    dtype: str | None,
    template: str | None,
    boundary: templates.Boundary | None,
    pad_vocab_multiple: int,
    shard_mib: int,
    shards: int,
    even_shards: bool,
    logits: bool,
    allow_unknown_keys: bool,
    overwrite: bool,
    adapters: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Writes a model anew, with adapters folded in, and says what was proved of it; the arguments are those of the two verbs."""
    allocator.keep_freed_memory(one_heap=True)
    from zhllama_jax import files
    from zhllama_jax.convert import manifest, modelfile, rewrite, stack

    if template is not None:
        templates.named(template)
    if shard_mib < 1:
        raise ValueError(f"shard_mib must be at least 1, got {shard_mib}")
    files.free_directory(output, ours=manifest.model_files, overwrite=overwrite, inputs=[model, *adapters])  # before anything is fetched
    base, found = located.model(model), located.adapters(adapters)
    try:
        done = rewrite.run(
            base,
            output,
            adapters=found,
            to=to,
            dtype=dtype,
            force=force,
            template=template,
            boundary=boundary,
            pad_vocab_multiple=pad_vocab_multiple,
            allow_unknown=allow_unknown_keys,
            logits=logits,
            overwrite=overwrite,
            shard_bytes=shard_mib << 20,
            shards=shards,
            even=even_shards,
        )
    except stack.Mismatch as error:
        raise ValueError(f"{error}, or fold them all the same with --force") from None
    for note in done.notes:
        terminal.say(f"zhllama: note: {note}")
    folded = f"{len(found)} adapter{'s' * (len(found) > 1)} folded into {model}, " if found else ""
    terminal.result(f"{output}: {folded}{len(done.manifest['tensors'])} tensors, fingerprint {done.manifest['fingerprint'][:16]}")
    _say_proof(done)
    if to == "gguf":
        assert done.file is not None, "a GGUF file is one file"
        command = modelfile.k_quants(output / done.file, done.certificate["dtype"].upper())
        terminal.say(f"for a K-quant, with llama.cpp's own tool: {command}")
    if found:
        terminal.then("generate", "--model", output, "--prompt", "TEXT")
    elif done.same_numbers:
        terminal.then("verify", "--left", model, "--right", output)
    else:  # rounded weights are not bit for bit the same
        terminal.then("verify", "--left", output)


def _say_proof(done: "rewrite.Rewritten") -> None:
    tensors: dict[str, Any] = done.certificate["tensors"]
    compared, equal = tensors["compared"], tensors["equal"]
    rest = ""
    if tensors["neighbours"]:
        rest = f", {tensors['neighbours']:,} numbers rounded to a neighbour"
    elif equal < compared:
        rest = f", the others up to {tensors['max_abs']:.3g} apart" if tensors["max_abs"] else ", the others the same numbers, wider"
    terminal.result(f"certificate: {equal} of {compared} tensors read back bit for bit as meant{rest}")
    terminal.say(f"all but the logits took {done.seconds:.1f} s")
    if logits := done.certificate["logits"]:
        terminal.result(
            f"certificate: logits up to {logits['max_abs']:.3g} from the source's in float32 (largest {logits['largest']:.3g}), likeliest "
            f"token the same in {logits['same_argmax']:.2%}; {logits['seconds']:.1f} s"
        )
