"""`zhllama verify`."""

from pathlib import Path
from typing import Any

from zhllama_jax.cli import compilation, located, terminal

SHOWN = 20


def run(
    *,
    left: str,
    right: str | None = None,
    logits: bool = True,
    transformers: bool = False,
    output: Path | None = None,
    overwrite: bool = False,
    compilation_cache: compilation.Cache = "auto",
) -> None:
    """Checks a directory against its manifest, another one or transformers.

    Ends with status 1 if a file is not as the manifest says, if weights, configuration or tokenizer of two models differ, or if
    transformers computes other logits; texts that get other ids there are only told.

    Args:
      left: a model or adapter directory, or a hub id (owner/name, owner/name@revision).
      right: a second model, named likewise; without one, the files of the first are hashed anew and held against its manifest.
      logits: also compare logits of two models, in float32.
      transformers: also compare the logits of the first with those of the transformers library, up to a thousandth of the largest.
      output: JSON file for the findings.
      overwrite: replace an existing output; an input is never replaced.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama verify --left adapted
      zhllama verify --left adapted --right other --output differences.json
      zhllama verify --left adapted --transformers
    """
    from zhllama_jax import files

    if output is not None:
        files.free_file(output, overwrite=overwrite, inputs=[left, *([right] if right else [])])
    found: dict[str, Any] = {}
    if right is not None or transformers:
        compilation.cache(compilation_cache)
    first = located.either(left)
    if (right is not None or transformers) and (first / "adapter_config.json").is_file() and not (first / "config.json").is_file():
        raise ValueError(f"{left} is an adapter: it is held against its manifest alone; merge it first to compare it with a model")
    if right is not None:
        found["compared"] = _compare(first, located.model(right), logits=logits)
    else:
        found["manifest"] = _manifest(first, needed=not transformers)
    if transformers:
        found["transformers"] = _transformers(first)
    if output is not None:
        files.write_json(output, found)
        terminal.say(f"wrote {output}")
    if right is not None and (differing := _differing(found["compared"])):
        grown = found["compared"]["grown"]
        how = f": {grown['larger']} is {grown['smaller']} with {_rows(grown['rows'])} more, all else bit for bit the same" if grown else ""
        raise ValueError(f"{left} and {right} differ in {' and '.join(differing)}{how}")
    if found.get("manifest"):
        raise ValueError(f"{left} is not what its manifest says")
    if transformers and not found["transformers"]["agrees"]:
        raise ValueError(f"{left} gives other logits in transformers than here")


def _manifest(directory: Path, *, needed: bool) -> list[str] | None:
    """What differs from the directory's manifest, also said; None where there is none and something else is looked at.

    Raises:
      FileNotFoundError: there is no manifest, and it is `needed`.
    """
    from zhllama_jax.convert import manifest, names

    kind: manifest.Kind = "adapter" if (directory / "adapter_config.json").is_file() else "model"
    if not (directory / manifest.FILE).is_file() and kind == "model":
        if needed:
            raise FileNotFoundError(
                f"{directory} has no {manifest.FILE}, the digests of what zhllama writes: hold it against --right OTHER or --transformers, "
                f"or have it written with digests, zhllama convert --input {directory} --output NEW"
            )
        terminal.say(f"zhllama: note: {directory} has no {manifest.FILE}, so its files are held against nothing")
        return None
    problems = manifest.verify(directory, kind)
    for problem in problems:
        terminal.result(problem)
    if unlisted := [name for name in manifest.unlisted(directory, kind) if not any(problem.startswith(f"{name} ") for problem in problems)]:
        terminal.say(f"zhllama: note: not in the manifest, and not looked at: {names.listed(unlisted)}")
    if not problems:
        terminal.result(f"{directory}: every file is as its manifest says")
    return problems


def _compare(left: Path, right: Path, *, logits: bool) -> dict[str, Any]:
    """The comparison of two models, also said."""
    from zhllama_jax.convert import verify

    report = verify.compare(left, right, logits=logits)
    tensors = report["tensors"]
    worst = sorted(tensors["differing"], key=lambda entry: -float("inf") if entry["max_abs"] is None else -entry["max_abs"])
    for entry in worst[:SHOWN]:
        distance = "" if not entry["max_abs"] else f"differs by up to {entry['max_abs']:.3g}: "
        terminal.result(f"{entry['name']}: {distance}{entry['why']}")
    if len(tensors["differing"]) > SHOWN:
        terminal.result(f"… and {len(tensors['differing']) - SHOWN} more")
    for side in ("left", "right"):
        if tensors[f"only_{side}"]:
            terminal.result(f"only in {report[side]}: {', '.join(tensors[f'only_{side}'][:SHOWN])}")
    for name, (one, other) in report["config"].items():
        terminal.result(f"config {name}: {one} and {other}")
    wider = f", {tensors['wider']} the same numbers in another dtype" if tensors["wider"] else ""
    terminal.result(
        f"tensors: {tensors['equal']} of {tensors['compared']} are bit for bit the same{wider}; tokenizer: {report['tokenizer']}"
    )
    if logits:
        terminal.result(_logits(report["logits"]))
    return report


def _differing(report: dict[str, Any]) -> list[str]:
    """What makes two directories two models."""
    tensors = report["tensors"]
    same = not (tensors["only_left"] or tensors["only_right"]) and tensors["equal"] + tensors["wider"] == tensors["compared"]
    found = {"weights": not same, "configuration": report["config"], "tokenizer": report["tokenizer"] != "equal"}
    return [name for name, differs in found.items() if differs]


def _transformers(directory: Path) -> dict[str, Any]:
    """The comparison with the transformers library, also said."""
    from zhllama_jax.convert import verify

    report = verify.against_transformers(directory, texts=("The sea is never full.", "江河都往海里流,海却不满。"))
    if report is None:
        raise ValueError(verify.MISSING)
    others = (
        "" if (directory / "tokenizer.json").is_file() else " (without a tokenizer.json it makes its own: `zhllama convert` writes one)"
    )
    counted = f"{report['texts_with_other_ids']} of {report['texts']} texts get other ids{others}"
    terminal.result(f"transformers: {_logits(report['logits'])}; {counted}")
    return report | {"agrees": verify.agrees(report["logits"])}


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count > 1)}"


def _logits(found: dict[str, float]) -> str:
    """A comparison of logits as one line."""
    same = f"likeliest token the same in {found['same_argmax']:.2%}"
    return f"logits: largest difference {found['max_abs']:.3g}, largest logit {found['largest']:.3g}, {same}"
