"""What a model's directory holds besides the model: licences and a chat template go along, the rest is named as left out.

Weights, configuration and tokenizer are written anew and so is the page about them; the files here are copied as they stand, unread.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from zhllama_jax import files, templates
from zhllama_jax.convert import llama_hf, manifest, meta_params, modelfile, names, tokenizer_hf

MAX_BYTES = 1 << 20
TEMPLATE = "chat_template.jinja"
PAGE = "README.md"
_KEPT = re.compile(
    r"(licen[cs]e|copying|notice|use_policy|acceptable_use_policy|responsible_use|citation|third_party)[\w.+-]*", re.IGNORECASE
)
_ANEW = {
    "config.json",
    llama_hf.GENERATION,
    tokenizer_hf.MODEL,
    tokenizer_hf.JSON,
    tokenizer_hf.CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    manifest.FILE,
    llama_hf.CERTIFICATE,
    meta_params.FILE,
    "checklist.chk",
    modelfile.FILE,
}
_WEIGHTS = re.compile(r"(.*\.safetensors|pytorch_model.*\.bin)(\.index\.json)?|consolidated\.\d+\.pth|.*\.gguf")


class Carried(NamedTuple):
    """Files of a directory that go along: `files` by name, and notes on what does not."""

    files: dict[str, bytes]
    notes: list[str]


def find(directory: str | Path, prompt: manifest.Prompt | None, *, num_pieces: int) -> Carried:
    """What goes along from a model's directory into the one that is made from it.

    Args:
      directory: the model's.
      prompt: of the new model; one that puts text around instructions makes its own chat template.
      num_pieces: of the new model's tokenizer: `added_tokens.json` may know more, which are told.

    Raises:
      ValueError: a file of ours is damaged.
    """
    directory = Path(directory)
    ours = manifest.read(directory, "model") is not None
    settings = _object(directory / tokenizer_hf.CONFIG)
    templated = prompt is not None and templates.puts_text(prompt.template)
    kept: dict[str, bytes] = {}
    left = []
    for path in sorted(directory.iterdir()):
        name = path.name
        plain = path.is_file() and path.stat().st_size <= MAX_BYTES
        if name in _ANEW or name.startswith(".") or _WEIGHTS.fullmatch(name) or (ours and name == PAGE):
            continue
        if plain and (_KEPT.fullmatch(name) or (name == TEMPLATE and not templated)):
            kept[name] = path.read_bytes()
        elif name != TEMPLATE or not ours:
            left.append(f"{name}/" if path.is_dir() else name)
    inside = settings.get("chat_template")
    if isinstance(inside, str) and not templated and TEMPLATE not in kept:
        kept[TEMPLATE] = inside.encode()
    notes = [f"left out of what is written: {names.listed(left)}"] if left else []
    return Carried(kept, notes + _gone_pieces(directory, num_pieces))


def _gone_pieces(directory: Path, num_pieces: int) -> list[str]:
    """A note on ids that only `added_tokens.json` gives a text."""
    added = _object(directory / "added_tokens.json")
    gone = [text for text, id_ in added.items() if isinstance(id_, int) and id_ >= num_pieces]
    return [f"added_tokens.json names {names.listed(gone)}, of which {tokenizer_hf.MODEL} knows nothing: left out"] if gone else []


def _object(path: Path) -> dict[str, Any]:
    """The JSON object of a small file that may be missing, or be anything."""
    if not path.is_file() or path.stat().st_size > 16 * MAX_BYTES:
        return {}
    try:
        value = files.read_json(path, what="JSON")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
