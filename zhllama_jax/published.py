"""What stands under an address of the Hugging Face hub, and which of its files this program reads.

Weights are read from safetensors, and from PyTorch's files where there are none, as one file or as shards under an index. Of what a
repository holds beside, only the small files that say something about model and tokenizer are read; of a directory of ours everything
that its manifest lists, since `verify` holds all of it against that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zhllama_jax import files

CONFIG, ADAPTER_CONFIG, MANIFEST = "config.json", "adapter_config.json", "zhllama.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH, PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER = "tokenizer.model"
TOKENIZER_FILES = (TOKENIZER, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
MODEL_FILES = (
    CONFIG,
    "generation_config.json",
    INDEX,
    PYTORCH_INDEX,
    MANIFEST,
    *TOKENIZER_FILES,
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
)
ADAPTER_FILES = (ADAPTER_CONFIG, MANIFEST, *TOKENIZER_FILES)

_FOREIGN = (".bin", ".pth", ".pt", ".safetensors", ".gguf", ".h5", ".msgpack", ".onnx")


class Published(NamedTuple):
    """What stands under an address.

    Attributes:
      name: as the user wrote it.
      repository, revision, file: what that means; see `hub.Address`.
      commit: of the revision.
      sizes: bytes of each file; where the hub cannot be reached, of those in the cache.
      unreachable: why only the cache is there; None if the hub answered.
    """

    name: str
    repository: str
    revision: str | None
    file: str | None
    commit: str
    sizes: dict[str, int]
    unreachable: str | None


def small(published: Published, *, adapter: bool) -> list[str]:
    """The files beside the weights that say what a model or an adapter is."""
    read = [file for file in (ADAPTER_FILES if adapter else MODEL_FILES) if file in published.sizes]
    if INDEX in published.sizes or SINGLE in published.sizes:
        return [file for file in read if file != PYTORCH_INDEX]
    return read


def weights(published: Published, folder: Path, *, adapter: bool) -> list[str]:
    """The files of the weights: the single one, or what an index names, which lies in `folder`.

    Raises:
      FileNotFoundError: an index names what is not there.
      ValueError: there are no weights that this program reads.
      OSError: only the cache is there, and it lacks some.
    """
    if adapter:
        return [next((file for file in ADAPTER_WEIGHTS if file in published.sizes), ADAPTER_WEIGHTS[0])]
    for single, index, what in ((SINGLE, INDEX, "safetensors"), (PYTORCH, PYTORCH_INDEX, "PyTorch")):
        if index in published.sizes:
            return _shards(published, folder, index, f"an index of {what} shards")
        if single in published.sizes:
            return [single]
    raise (
        incomplete(published, [SINGLE])
        if published.unreachable
        else no_weights(published, f"{SINGLE} or {PYTORCH}, or shards and their index")
    )


def listed(published: Published, folder: Path) -> list[str]:
    """The files of a directory of ours, by its manifest: `verify` holds all of them against it."""
    if MANIFEST not in published.sizes:
        return []
    contents = files.read_json(folder / MANIFEST, what="a manifest")
    names = contents.get("files") if isinstance(contents, dict) else None
    return [name for name in names if name in published.sizes] if isinstance(names, dict) else []


def no_weights(published: Published, expected: str) -> ValueError:
    """That a repository has no weights that this program reads."""
    others = sorted(file for file in published.sizes if file.endswith(_FOREIGN))
    found = f"holds no weights that are read from the hub ({', '.join(others[:3])}{' …' if len(others) > 3 else ''} are not)"
    hint = ": fetch it into a folder of this machine, and give that" if any(file.endswith((".pth", ".gguf")) for file in others) else ""
    return ValueError(f"{published.name} {found if others else 'holds no weights'}: expected {expected}{hint}")


def incomplete(published: Published, lacking: Sequence[str]) -> OSError:
    """That the cache lacks files, and the hub cannot be asked for them."""
    some = ", ".join(lacking[:4]) + (" …" if len(lacking) > 4 else "")
    return OSError(
        f"{published.name}: the hub's cache lacks {some} of commit {published.commit[:12]}, and {published.unreachable}: "
        "fetch the rest once with a network"
    )


def _shards(published: Published, folder: Path, index: str, what: str) -> list[str]:
    contents = files.read_json(folder / index, what=what)
    weight_map = contents.get("weight_map") if isinstance(contents, dict) else None
    shards = weight_map.values() if isinstance(weight_map, dict) else ()  # what is wrong with it is said by its reader
    named = sorted({shard for shard in shards if isinstance(shard, str)})
    absent = [shard for shard in named if shard not in published.sizes]
    if absent and published.unreachable:
        raise incomplete(published, absent)
    if absent:
        raise FileNotFoundError(f"{published.name}: {', '.join(absent[:8])} named by {index} not there: the upload is incomplete")
    return named
