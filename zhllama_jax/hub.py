"""Models by name: a path on this machine, or a model of the Hugging Face hub, fetched into the hub's cache.

    owner/name                      a model or adapter, at the newest commit of its main branch
    owner/name@revision             the same at a branch, a tag or a commit
    owner/name/folder/file.model    one tokenizer file of it, also with @revision behind

What exists here always wins, and what looks like a path is never asked for over the network: nor is owner/name where a folder `owner` is
here, which is more likely a path with a slip in it (with @revision it is asked for all the same). The library huggingface_hub does the
talking, so its settings hold: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME. Only what this program reads is fetched (see `published`),
the weights last. What is returned is a path, and all below works on paths; a path in the cache bears the commit, so `id_of` can say where
it came from.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zhllama_jax
from zhllama_jax import beside, files, published

What = Literal["model", "adapter", "either", "shape", "tokenizer"]
"""What a name should stand for: a model, an adapter, any of the two, a model of which only the shape is read, or a tokenizer."""

Say = Callable[[str], None]

MISSING = "needs the library huggingface_hub: pip install huggingface_hub (the extra `hub`)"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*")
_SUFFIXES = (".model", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".safetensors", ".bin", ".pt", ".pth", ".gguf")
_CACHED = re.compile(r"(?:.*/)?models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})(/.+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KINDS = {"model": "a model", "adapter": "an adapter", "either": "a model or an adapter", "shape": "a model"}
TOLD_BYTES = 50_000_000
"""From this size on, files of a download are told one by one, with a bar."""


class Address(NamedTuple):
    """A place on the hub.

    Attributes:
      repository: owner/name.
      revision: a branch, a tag or a commit; None for the main branch.
      file: of the repository; None for the whole.
    """

    repository: str
    revision: str | None = None
    file: str | None = None


def address(name: str) -> Address | None:
    """What a name means on the hub; None if it looks like a path.

    A path starts with '.', '/' or '~', has no '/' or more than one, or ends like a file. A `.model` file below owner/name is the exception.
    """
    place, at, revision = name.partition("@")
    parts = place.split("/")
    if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts) or ".." in name or "--" in "/".join(parts[:2]):
        return None
    if at and not _REVISION.fullmatch(revision):
        return None
    if len(parts) == 2 and not place.lower().endswith(_SUFFIXES):
        return Address(place, revision or None)
    if len(parts) > 2 and place.endswith(".model"):
        return Address("/".join(parts[:2]), revision or None, "/".join(parts[2:]))
    return None


def id_of(path: str | Path) -> str | None:
    """`owner/name@commit` of a folder in the hub's cache (`owner/name/file@commit` of a file); None for any other path."""
    found = _CACHED.fullmatch(str(path))
    return f"{found[1]}/{found[2]}{found[4] or ''}@{found[3]}" if found else None


def pinned(value: Any) -> Any:
    """A value of JSON with every path in the hub's cache that `resolve` gives replaced by its `id_of`, which finds the commit anywhere.

    Paths of other files there (a text, a list of words) stay: no name stands for them.
    """
    if isinstance(value, dict):
        return {key: pinned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pinned(item) for item in value]
    name = id_of(value) if isinstance(value, str) else None
    return value if name is None or address(name) is None else name


def absent(what: What) -> str:
    """The end of a sentence about a name that is neither a path of this machine nor an address of the hub."""
    here = "file or folder" if what == "tokenizer" else "folder"
    return f"no such {here} here, and no hub id (owner/name, or owner/name@revision)"


def resolve(name: str | Path, what: What, *, say: Say, look: Callable[[Path], object] | None = None) -> Path:
    """The folder (or tokenizer file) that a name stands for, fetched from the hub if it is not here.

    Args:
      name: see the module.
      what: what it should stand for; says which files are read.
      say: takes a line about what is fetched.
      look: called with the folder of a model of the hub before its weights are fetched, so that it can refuse it early.

    Raises:
      FileNotFoundError: nothing of that name is here, and it is no address, or the hub does not know it or its revision.
      PermissionError: the hub does not let this user read it; the sentence says what to do.
      OSError: the hub cannot be reached and the cache does not have it.
      ValueError: the library is missing, there are no weights that are read, or there is a file here where a folder is meant.
    """
    found = address(name := str(name))
    if os.path.exists(name):
        if what != "tokenizer" and not name.endswith(".gguf"):
            files.expect_folder(name, f"the folder of {_KINDS[what]}")
        if found is not None and _is_known(found):
            say(f"note: {name} is the folder here; for the one of the Hugging Face hub, which is in its cache, say {name}@main")
        return Path(name)
    if found is None or (found.file is not None and what != "tokenizer"):
        raise FileNotFoundError(f"{name or '(an empty name)'} not found: {absent(what)}{beside.remark(name)}")
    owner = found.repository.partition("/")[0]
    if found.revision is None and os.path.isdir(owner):
        raise FileNotFoundError(
            f"{name} not found: {owner} is a folder here, so this is taken for a path in it; for the one of the Hugging Face hub say "
            f"{name}@main{beside.remark(name)}"
        )
    api = _api(name)
    there = _ask(api, name, found)
    if what == "either":
        what = "adapter" if published.ADAPTER_CONFIG in there.sizes and published.CONFIG not in there.sizes else "model"
    _require(api, there, what)
    if what == "tokenizer":
        file = found.file or published.TOKENIZER
        return _download(api, there, [file], say=say) / file
    if what == "shape":
        return _download(api, there, [published.CONFIG], say=say)
    folder = _download(api, there, published.small(there, adapter=what == "adapter"), say=say)
    if look is not None and what == "model":
        look(folder)
    weights = published.weights(there, folder, adapter=what == "adapter")
    return _download(api, there, [*weights, *published.listed(there, folder)], say=say)


def _is_known(found: Address) -> bool:
    """Whether the hub's cache has something of a repository, named without a revision: it was meant before, and may be now."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return False
    return found.revision is None and (Path(constants.HF_HUB_CACHE) / f"models--{found.repository.replace('/', '--')}").is_dir()


def _api(name: str) -> Any:
    """The library's client, under our name.

    Raises:
      ValueError: the library is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(f"{name} is not here, and looking for it on the Hugging Face hub {MISSING}") from None
    return huggingface_hub.HfApi(library_name="zhllama-jax", library_version=zhllama_jax.__version__)


def _ask(api: Any, name: str, found: Address) -> published.Published:
    """Asks the hub what stands under an address, and the cache where the hub gives no answer."""
    from huggingface_hub import constants

    try:
        info = api.model_info(found.repository, revision=found.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # each version of the library lets other errors of its HTTP client through
        if (refusal := _refusal(error, name, found)) is not None:
            raise refusal from error
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer ({_brief(error)})"
    else:
        return published.Published(name, *found, info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()}, None)
    folder = _cached(found)
    if folder is None:
        remedy = "unset it to fetch the model" if constants.HF_HUB_OFFLINE else "check network, HF_ENDPOINT and proxy, or name a folder"
        raise OSError(f"{name} is neither a folder here nor in the hub's cache {constants.HF_HUB_CACHE}, and {why}: {remedy}")
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return published.Published(name, *found, folder.name, sizes, why)


def _cached(found: Address) -> Path | None:
    """The folder of an address in the cache; None if none of the files that matter is there."""
    import huggingface_hub

    for file in (found.file, published.CONFIG, published.ADAPTER_CONFIG, published.TOKENIZER):
        path = huggingface_hub.try_to_load_from_cache(found.repository, file, revision=found.revision) if file else None
        if isinstance(path, str):
            return _folder(path, file or "")
    return None


def _folder(path: str, file: str) -> Path:
    """The snapshot's folder, from the path of a file in it."""
    return Path(path).parents[file.count("/")]


def _refusal(error: Exception, name: str, found: Address) -> OSError | None:
    """What the hub's answer means for the user; None if there was no answer, or one that says nothing about this model."""
    from huggingface_hub import constants, errors, get_token

    page, tokens = f"{constants.ENDPOINT}/{found.repository}", f"{constants.ENDPOINT}/settings/tokens"
    token = "your token (HF_TOKEN, or the one of `hf auth login`)"
    if isinstance(error, errors.GatedRepoError):
        if not get_token():
            return PermissionError(f"{name} is gated: accept its licence at {page}, make a token at {tokens} and set it as HF_TOKEN")
        return PermissionError(
            f"{name} is gated, and {token} may not read it: accept its licence at {page} with the token's account and wait until access "
            "is granted; a fine-grained token needs the right to read gated repositories"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{found.repository} has no revision {found.revision!r}: {page}/commits lists its branches and commits")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) and error.response is not None else None
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not get_token()):
        private = "that your token may see" if get_token() else "that is public; if it is private, set HF_TOKEN"
        return FileNotFoundError(f"{name} not found: no such folder, and {constants.ENDPOINT} has no model of this name {private}")
    if status in (401, 403):
        return PermissionError(f"{constants.ENDPOINT} does not let {token} read {name}: make a new one at {tokens}")
    return None


def _require(api: Any, there: published.Published, what: What) -> None:
    """Refuses a repository without the file that makes it what it should be."""
    name, present = there.name, there.sizes
    key = {"adapter": published.ADAPTER_CONFIG, "tokenizer": there.file or published.TOKENIZER}.get(what, published.CONFIG)
    if there.unreachable and key not in present:
        raise published.incomplete(there, [key])
    if key in present and (what != "adapter" or there.unreachable or any(file in present for file in published.ADAPTER_WEIGHTS)):
        return
    if what == "tokenizer" and "tokenizer.json" in present and there.file is None:
        raise ValueError(
            f"{name} has a tokenizer.json but no {published.TOKENIZER}: LLaMA with a SentencePiece tokenizer is the scope of this program, "
            "other tokenizers are not supported"
        )
    if what in ("model", "shape") and published.ADAPTER_CONFIG in present:
        folder = _download(api, there, [published.ADAPTER_CONFIG], say=lambda line: None)
        contents = files.read_json(folder / published.ADAPTER_CONFIG, what="an adapter's configuration")
        base = contents.get("base_model_name_or_path") if isinstance(contents, dict) else None
        named = f", which it says is {base}," if isinstance(base, str) else ","
        raise ValueError(f"{name} is an adapter, not a model: give its base model{named} and this one as an adapter")
    if what == "adapter" and key in present:
        raise published.no_weights(there, " or ".join(published.ADAPTER_WEIGHTS))
    kind = "model" if what == "shape" else what
    raise FileNotFoundError(f"{name} has no {key}, so it is no {kind} that this program reads")


def _download(api: Any, there: published.Published, wanted: Iterable[str], *, say: Say) -> Path:
    """Fetches what the cache lacks of some files; the folder that then holds all of them."""
    from huggingface_hub import constants, try_to_load_from_cache

    repository, commit = there.repository, there.commit
    wanted = list(dict.fromkeys(wanted))
    kept = {file: try_to_load_from_cache(repository, file, revision=commit) for file in wanted}
    lacking = [file for file, path in kept.items() if not isinstance(path, str)]
    if lacking and there.unreachable:
        raise published.incomplete(there, lacking)
    size = sum(there.sizes[file] for file in lacking)
    if lacking:
        what = f"commit {commit[:12]}, {len(lacking)} file{'s' * (len(lacking) > 1)}, {_bytes(size)}"
        say(f"fetching {there.name} ({what}) from {constants.ENDPOINT} to {constants.HF_HUB_CACHE}")
    with _bars(size > TOLD_BYTES and sys.stderr.isatty()):
        for number, file in enumerate(lacking, 1):
            if there.sizes[file] > TOLD_BYTES:
                say(f"file {number} of {len(lacking)}: {file}, {_bytes(there.sizes[file])}")
            kept[file] = _fetch(api, there, file, commit)
    if size > TOLD_BYTES:
        say(f"fetched {there.name}")
    first = wanted[0]
    _note_revision(api, there, first, str(kept[first]))
    return _folder(str(kept[first]), first)


def _fetch(api: Any, there: published.Published, file: str, revision: str) -> str:
    """One file's path in the cache."""
    try:
        return api.hf_hub_download(there.repository, file, revision=revision)
    except Exception as error:  # see `_ask`
        refusal = _refusal(error, there.name, Address(there.repository, there.revision, there.file))
        if refusal is not None:
            raise refusal from error
        raise OSError(
            f"{there.name}: {file} could not be fetched ({_brief(error)}): try again, the files that are there already stay"
        ) from error


def _note_revision(api: Any, there: published.Published, file: str, path: str) -> None:
    """Has the cache know which commit the revision is, so that it finds the model by its name without a network."""
    import huggingface_hub

    revision = there.revision or "main"
    if there.unreachable or _COMMIT.fullmatch(revision):
        return
    if huggingface_hub.try_to_load_from_cache(there.repository, file, revision=revision) != path:
        _fetch(api, there, file, revision)


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The library's progress bars, which go to standard error, or none."""
    from huggingface_hub import utils

    if shown or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _brief(error: BaseException) -> str:
    """The cause of an error of the library in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def _bytes(size: int) -> str:
    if size < 1e6:
        return f"{size / 1e3:,.0f} kB" if size >= 1e3 else f"{size:,} bytes"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
