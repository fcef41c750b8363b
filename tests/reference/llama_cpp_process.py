"""llama.cpp, where `scripts/llama_cpp_check.sh` has built it: a process that reads a GGUF file and answers."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv-llama-cpp" / "bin" / "python"
"""An interpreter with llama-cpp-python, in an environment of its own: the tests' environment stays as it is."""


class Answer(NamedTuple):
    """What llama.cpp said.

    Attributes:
      ids: of each text, without BOS.
      logits: [T, V] of each prompt, from its beginning.
      special: its ids of BOS, EOS and padding, -1 for none.
    """

    ids: list[list[int]]
    logits: list[np.ndarray]
    special: list[int]


def ask(
    model: Path,
    *,
    texts: Sequence[str] = (),
    prompts: Sequence[Sequence[int]] = (),
    quantize: tuple[Path, int] | None = None,
) -> Answer:
    """Asks for the ids of texts and the logits of prompts, in float32 with one thread.

    Args:
      model: a GGUF file.
      texts: to be tokenised; names of special pieces in them are text.
      prompts: lists of ids.
      quantize: a file to which llama.cpp writes the model anew, and its number of the type of the matrices.
    """
    request, answer = model.with_suffix(".request.json"), model.with_suffix(".answer.npz")
    words = {"model": str(model), "texts": list(texts), "prompts": [list(map(int, prompt)) for prompt in prompts]}
    if quantize is not None:
        words["quantize"] = {"to": str(quantize[0]), "file_type": quantize[1]}
    request.write_text(json.dumps(words), encoding="utf-8")
    script = Path(__file__).with_name("llama_cpp_answers.py")
    result = subprocess.run([PYTHON, script, request, answer], capture_output=True, text=True, errors="replace", check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    with np.load(answer) as said:
        ids = [part.tolist() for part in np.split(said["ids"], np.cumsum(said["lengths"])[:-1])] if texts else []
        logits = np.split(said["logits"], np.cumsum([len(prompt) for prompt in prompts])[:-1]) if prompts else []
        return Answer(ids, logits, said["special"].tolist())
