"""The fixed text around instructions and answers, by name: one table for training, asking and the chat templates of directories.

A prompt is `head`, then per turn `opening`, instruction, `closing`, answer, `between`. How a prompt and its answer meet is the
`Boundary` (see `data.chat`), and what stands behind the answers of earlier turns the `Turns`; a model directory records both beside the
template's name. A system text takes the place of the head, with an empty line behind it; a template without a head has no place for one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Boundary = Literal["joined", "faithful"]
Turns = Literal["open", "closed"]
"""Whether EOS stands behind the answers of earlier turns: "closed" in a model that has learnt whole conversations, "open" in one that has
learnt single answers, like the original's."""

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


WITH_HEAD = tuple(name for name, template in TEMPLATES.items() if template.head)
"""The templates that have a place for a system text."""


def named(name: str) -> Template:
    """The template of this name.

    Raises:
      ValueError: there is none.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no template {name!r}: choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def head(name: str, system: str = "") -> str:
    """What a prompt begins with: the template's head, or a system text in its place.

    Raises:
      ValueError: there is no such template, or it has no place for a system text.
    """
    form = named(name)
    if not system:
        return form.head
    if not form.head:
        raise ValueError(no_system(name))
    return f"{system}\n\n"


def no_system(name: str) -> str:
    """What is wrong with a system text under a template without a head."""
    return f"the template {name!r} has no place for a system text: choose one of {', '.join(WITH_HEAD)}"


def puts_text(name: str) -> bool:
    """Whether a template of this name is known and puts any text around an instruction."""
    return TEMPLATES.get(name, Template()) != Template()
