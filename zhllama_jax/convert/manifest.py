"""`zhllama.json`: what a directory of ours holds, by digest, and where it came from.

A model's fingerprint is a digest of its tensors (names, dtypes, shapes, numbers), not of its files: it survives another cut into shards.
An adapter carries the fingerprint of the base that it was trained on, and the digests of the adapters that must be folded before it.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from zhllama_jax import files, templates
from zhllama_jax.convert import names, readers, safetensors_io

FILE = "zhllama.json"
VERSION = 1
_WEIGHTS = (".safetensors", ".pth", ".bin", ".gguf")
Kind = Literal["model", "adapter"]
_SHAPE: dict[str, type] = {"fingerprint": str, "files": dict, "tensors": dict, "history": list}


class Prompt(NamedTuple):
    """How instructions were put to a model in training.

    Attributes:
      template: its name.
      boundary: how an answer joins it.
      turns: what stands behind the answers of earlier turns: EOS where conversations were learnt, else nothing.
    """

    template: str
    boundary: templates.Boundary = "joined"
    turns: templates.Turns = "open"


def write(directory: str | Path, *, kind: Kind, written: safetensors_io.Written, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest of a finished directory, as its last file.

    Args:
      directory: holds everything else already.
      kind: what it is.
      written: digests of the weights, as their writer returned them; the other files are hashed here.
      facts: what else to say (`prompt`, `history`, …), JSON values.

    Returns:
      The manifest.
    """
    directory = Path(directory)
    listed = dict(written.files)
    for path in sorted(directory.iterdir()):
        if path.name not in listed:
            listed[path.name] = {"sha256": files.sha256(path), "bytes": path.stat().st_size}
    contents = {
        "format": f"zhllama {kind}",
        "version": VERSION,
        "fingerprint": fingerprint_of(written.tensors, facts),
        **facts,
        "files": dict(sorted(listed.items())),
        "tensors": written.tensors,
    }
    files.write_json(directory / FILE, contents)
    return contents


def read(directory: str | Path, kind: Kind) -> dict[str, Any] | None:
    """The manifest of a directory; None where there is none.

    Raises:
      ValueError: it is damaged, of a later version, or of the other kind.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    contents = files.read_json(path, what=f"the manifest of a {kind}")
    if not isinstance(contents, dict) or not isinstance(contents.get("format"), str) or not contents["format"].startswith("zhllama "):
        raise ValueError(f"{path} is not a manifest of zhllama")
    if contents["format"] != f"zhllama {kind}":
        raise ValueError(f"{directory} holds {_article(contents['format'][8:])}, expected {_article(kind)}")
    if contents.get("version") != VERSION:
        raise ValueError(f"{path} has version {contents.get('version')!r}; this program reads version {VERSION}: install a newer one")
    wrong = [key for key, kind_ in _SHAPE.items() if not isinstance(contents.get(key), kind_)]
    if "files" not in wrong and not all(_is_file_entry(*item) for item in contents["files"].items()):
        wrong.append("files")
    if "tensors" not in wrong and not all(_is_tensor_entry(entry) for entry in contents["tensors"].values()):
        wrong.append("tensors")
    if wrong:
        raise ValueError(f"{path} is damaged: {', '.join(wrong)} missing or malformed")
    return contents


def model_files(directory: Path) -> Collection[str]:
    """The names of all that was written into a model directory of ours; a `files.Listing`.

    Raises:
      ValueError: it is none.
    """
    return _written(directory, "model")


def adapter_files(directory: Path) -> Collection[str]:
    """The names of all that was written into an adapter directory of ours; a `files.Listing`.

    Raises:
      ValueError: it is none.
    """
    return _written(directory, "adapter")


def prompt(contents: Mapping[str, Any] | None) -> Prompt | None:
    """The prompt that a manifest records; None for a model that was not tuned on instructions."""
    value = (contents or {}).get("prompt")
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("template"), str)
        or value.get("boundary") not in get_args(templates.Boundary)
        or value.get("turns", "open") not in get_args(templates.Turns)
    ):
        boundaries, turns = (" or ".join(get_args(kind)) for kind in (templates.Boundary, templates.Turns))
        raise ValueError(f"{FILE}: prompt must have template and boundary ({boundaries}), and may have turns ({turns}); got {value!r}")
    return Prompt(value["template"], value["boundary"], value.get("turns", "open"))


def hold(directory: str | Path, kind: Kind, reader: readers.Reader, *, beside: Iterable[str] = (), digest: bool = False) -> readers.Watched:
    """Has every tensor of a reader looked at as it is read: it holds numbers, and they are those that the directory's manifest records.

    Args:
      directory: what the reader reads; without a manifest there is nothing to hold numbers against.
      kind: what it should be.
      reader: opened.
      beside: files of the directory that decide about numbers too, looked at here and now.
      digest: describe the tensors also where there is no manifest.

    Returns:
      The reader to read with; it keeps in `described` what the digests were made of.

    Raises:
      ValueError: a file beside was changed, or see `read`; later, of `Watched.read`, with the name of a tensor.
    """
    directory = Path(directory)
    contents = read(directory, kind)
    recorded = contents["tensors"] if contents else None
    for name in beside:
        entry = contents["files"].get(name) if contents else None
        if entry and (directory / name).is_file() and files.sha256(directory / name) != entry["sha256"]:
            raise ValueError(f"{directory / name}{_changed(directory)}")

    return watch(reader, recorded=recorded, digest=digest, changed=_changed(directory))


def watch(reader: readers.Reader, *, recorded: Mapping[str, Any] | None = None, digest: bool = False, changed: str = "") -> readers.Watched:
    """Has every tensor of a reader looked at as it is read: it holds numbers, and they are those that are recorded.

    Args:
      reader: opened.
      recorded: what a manifest says of each tensor; None for nothing to hold them against.
      digest: describe the tensors also then.
      changed: what to say of a tensor that is another, as the end of a sentence.
    """

    def look(path: Path, name: str, array: np.ndarray) -> dict[str, Any] | None:
        if count := safetensors_io.not_finite(array):
            raise ValueError(
                f"{path}: {name} holds {count:,} of {array.size:,} numbers that are NaN or infinite: the file is damaged, or the training "
                "that made it went astray; take a sound copy"
            )
        if (recorded is None and not digest) or names.IGNORED.fullmatch(name):
            return None
        said = safetensors_io.describe(array)
        if recorded is not None and (name not in recorded or any(recorded[name][key] != value for key, value in said.items())):
            raise ValueError(f"{path}: {name}{changed}")
        return said

    return readers.Watched(reader, look)


def told(known: Prompt | None, template: str | None, boundary: templates.Boundary | None) -> Prompt | None:
    """How a model was tuned on instructions, where the user knows better than any manifest.

    Args:
      known: what manifests say.
      template: the template's name; None leaves it as it is known.
      boundary: how an answer joins the prompt; None leaves it as it is known, and is "faithful" where nothing is: as the original and most
        trainings tokenise, prompt and answer apart.

    Raises:
      ValueError: there is no such template, or a boundary without one.
    """
    if template is not None:
        templates.named(template)
    if known is None and template is None:
        if boundary is not None:
            raise ValueError(f"boundary {boundary} says how an answer joins a template, and no template is known: give one too")
        return None
    former = known or Prompt(str(template), "faithful")
    return former._replace(template=template or former.template, boundary=boundary or former.boundary)


def grown_from(contents: Mapping[str, Any] | None) -> list[str]:
    """Fingerprints of the models from which a model differs by new vocabulary rows alone, the last one first."""
    found: list[str] = []
    for step in reversed((contents or {}).get("history", [])):
        base = step.get("base_fingerprint") if isinstance(step, dict) and step.get("step") == "resize" else None
        if not isinstance(base, str):
            break
        found.append(base)
    return found


def digest(tensors: Mapping[str, Mapping[str, Any]], *more: str) -> str:
    """One digest of many tensors, each described by dtype, shape and sha256, in any order, and of further lines."""
    lines = [f"{name} {entry['dtype']} {entry['shape']} {entry['sha256']}" for name, entry in sorted(tensors.items())]
    return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()


def unchanged_fingerprint(directory: str | Path) -> str | None:
    """The fingerprint that a model directory's manifest records, if the weights still have their sizes; else it takes reading them."""
    contents = read(directory, "model")
    return contents["fingerprint"] if contents is not None and not any(_weights(directory, contents)) else None


def fingerprint_by_reading(reader: readers.Watched) -> str:
    """The fingerprint of a model's opened weights, whatever a manifest says; tensors that the reader described are not read again."""
    known = reader.described
    rest = (name for name in reader.entries if name not in known and not names.IGNORED.fullmatch(name))
    return digest({**known, **{name: safetensors_io.describe(reader.read(name)) for name in rest}})


def describe(reader: readers.Reader) -> Iterable[tuple[str, dict[str, Any]]]:
    """(name, dtype and shape and sha256) of every tensor that counts, one at a time."""
    for name in reader.entries:
        if not names.IGNORED.fullmatch(name):
            yield name, safetensors_io.describe(reader.read(name))


def verify(directory: str | Path, kind: Kind = "model") -> list[str]:
    """Hashes a directory anew and says, sentence by sentence, what differs from its manifest; an empty list is a clean bill.

    Raises:
      FileNotFoundError: there is no manifest to hold it against.
    """
    directory = Path(directory)
    contents = read(directory, kind)
    if contents is None:
        raise FileNotFoundError(f"{directory} has no {FILE}: there is nothing to verify it against")
    problems = list(_weights(directory, contents))
    for name, entry in contents["files"].items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{name} has {path.stat().st_size:,} bytes, the manifest says {entry['bytes']:,}")
        elif files.sha256(path) != entry["sha256"]:
            problems.append(f"{name} has other contents than the manifest says{_which_tensors(path, contents['tensors'])}")
    if fingerprint_of(contents["tensors"], contents) != contents["fingerprint"]:
        problems.append("the manifest's own digests do not add up to its fingerprint")
    return list(dict.fromkeys(problems))


def unlisted(directory: str | Path, kind: Kind = "model") -> list[str]:
    """The names in a directory of ours of what its manifest does not know."""
    known = _written(Path(directory), kind)
    return sorted(path.name for path in Path(directory).iterdir() if path.name not in known)


def fingerprint_of(tensors: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """A model is its tensors; an adapter is its tensors and the scales of their products."""
    scales = [json.dumps(facts["scales"], sort_keys=True)] if "scales" in facts else []
    return digest(tensors, *scales)


def _written(directory: Path, kind: Kind) -> Collection[str]:
    contents = read(directory, kind)
    if contents is None:
        raise ValueError(f"{directory} holds files and no {FILE}")
    return {*contents["files"], FILE}


def _is_file_entry(name: str, entry: Any) -> bool:
    plain = name == Path(name).name and name not in ("", "..")
    return plain and isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and type(entry.get("bytes")) is int


def _is_tensor_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and {"dtype", "shape"} <= entry.keys()


def _weights(directory: str | Path, contents: Mapping[str, Any]) -> Iterable[str]:
    """What is visibly wrong with the weights, without reading them: files that came, went or changed size."""
    directory = Path(directory)
    recorded = {name: entry["bytes"] for name, entry in contents["files"].items() if Path(name).suffix in _WEIGHTS}
    present = {path.name: path.stat().st_size for path in directory.iterdir() if path.suffix == ".safetensors" or path.name in recorded}
    for name in sorted(present.keys() | recorded.keys()):
        if name not in recorded:
            yield f"{name} is not in the manifest"
        elif name not in present:
            yield f"{name} is missing"
        elif present[name] != recorded[name]:
            yield f"{name} has {present[name]:,} bytes, the manifest says {recorded[name]:,}"


def _which_tensors(path: Path, recorded: Mapping[str, Any]) -> str:
    """The tensors of a changed file that differ, as the end of a sentence."""
    if path.suffix != ".safetensors":
        return ""
    try:
        with safetensors_io.Reader([path]) as reader:
            differing = [name for name, entry in describe(reader) if entry != recorded.get(name)]
    except ValueError as error:
        return f": {error}"
    return f": {names.listed(differing)}" if differing else ": only the header"


def _changed(directory: Path) -> str:
    """That something is not as it was written, and what to do, as the end of a sentence."""
    return (
        f" is not what {FILE} beside it records: it was changed after zhllama wrote it. `zhllama verify --left {directory}` says what "
        f"differs; who wants the directory as it is now removes its {FILE}"
    )


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
