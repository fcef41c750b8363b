"""The fixed text around instructions and answers, by name: one table for training, asking and the chat templates of directories.

A prompt is `head`, then per turn `opening`, instruction, `closing`, answer, `between`. How a prompt and its answer meet is the
`Boundary` (see `data.chat`), which a model directory records beside the template's name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Boundary = Literal["joined", "faithful"]

_HEAD = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


@dataclasses.dataclass(frozen=True)
class Template:
    """The fixed text around instructions and answers."""

    head: str = ""
    opening: str = ""
    closing: str = ""
    between: str = ""


TEMPLATES: Mapping[str, Template] = {
    # What the original trained with; the closing blank is part of it.
    "alpaca": Template(_HEAD, "### Instruction:\n", "\n\n### Response: ", "\n\n"),
    # What the original's inference_hf.py asked with, after llama.cpp: not what it trained with.
    "llama_cpp": Template(_HEAD, "### Instruction:\n\n", "\n\n### Response:\n\n", "\n\n"),
    # For base models: the prompt is the text, the answer goes on with it.
    "none": Template(),
}


def named(name: str) -> Template:
    """The template of this name.

    Raises:
      ValueError: there is none.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no template {name!r}: choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def puts_text(name: str) -> bool:
    """Whether a template of this name is known and puts any text around an instruction."""
    return TEMPLATES.get(name, Template()) != Template()
