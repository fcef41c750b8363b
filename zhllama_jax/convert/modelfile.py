"""An Ollama Modelfile beside a GGUF file: where the weights are, how a prompt is put, how answers are drawn and where they end.

Ollama renders conversations by a template in Go's syntax. Ours says the same as the Jinja template of a Hugging Face directory
(`tokenizer_hf.chat_template`): a system message takes the place of the head, the blank that ends a template's closing stands before an
answer only where the model has learnt it so ("joined"), and behind every answer stands EOS where whole conversations were learnt. All text
is in string literals, so no blank or newline depends on the layout.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhllama_jax import templates
from zhllama_jax.convert import manifest
from zhllama_jax.model import config as config_lib

FILE = "Modelfile"
K_QUANTS = ("Q4_K_M", "Q5_K_M", "Q6_K")
"""The usual ones, smallest first."""

# Hugging Face's name of a value, Ollama's, the kind of number.
_PARAMETERS: tuple[tuple[str, str, type], ...] = (
    ("temperature", "temperature", float),
    ("top_k", "top_k", int),
    ("top_p", "top_p", float),
    ("min_p", "min_p", float),
    ("repetition_penalty", "repeat_penalty", float),
    ("max_new_tokens", "num_predict", int),
)


def render(
    weights: str,
    *,
    config: config_lib.LlamaConfig,
    prompt: manifest.Prompt | None,
    generation: Mapping[str, Any],
    eos: str = "</s>",
) -> str:
    """The text of a Modelfile.

    Args:
      weights: name of the GGUF file beside it.
      config: the model's shape; gives the context length.
      prompt: how instructions were put to the model in training; None for a base model, whose prompts are taken as they are.
      generation: decoding values as in `generation_config.json`; without `do_sample` the likeliest token is taken.
      eos: the piece that ends a text.

    Raises:
      ValueError: the name cannot stand in a Modelfile, or there is no such template.
    """
    if weights.strip() != weights or "\n" in weights or not weights:
        raise ValueError(f"{weights!r} cannot be named in a Modelfile: choose a file name without blanks at its ends and without newlines")
    lines = [f"FROM ./{weights}", f'TEMPLATE """{template(prompt, eos=eos)}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops(prompt, eos=eos)]
    lines += [f"PARAMETER {name} {value}" for name, value in parameters(generation).items()]
    return "\n".join([*lines, f"PARAMETER num_ctx {config.context}", ""])


def template(prompt: manifest.Prompt | None, *, eos: str = "</s>") -> str:
    """The template in Go's syntax that renders conversations as the model has learnt them; the prompt as it is for a base model."""
    if prompt is None or not templates.puts_text(prompt.template):
        return "{{ .Prompt }}"
    form = templates.named(prompt.template)
    plain = form.closing.rstrip(" ")
    blank = form.closing[len(plain) :]
    head, opening, closing, between, end = map(_literal, (form.head, form.opening, plain, form.between, "\n\n"))
    answer = f"{_literal(blank)}{{{{ .Content }}}}{_literal(eos if prompt.turns == 'closed' else '')}"
    return (
        f"{{{{ if .System }}}}{{{{ .System }}}}{end}{{{{ else }}}}{head}{{{{ end }}}}"
        "{{ $later := false }}{{ $open := false }}"
        "{{ range .Messages }}"
        f'{{{{ if eq .Role "user" }}}}{{{{ if $later }}}}{between}{{{{ end }}}}{opening}{{{{ .Content }}}}{closing}'
        "{{ $later = true }}{{ $open = true }}"
        f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ $open = false }}}}{{{{ end }}}}'
        "{{ end }}" + (f"{{{{ if $open }}}}{_literal(blank)}{{{{ end }}}}" if blank and prompt.boundary == "faithful" else "")
    )


def stops(prompt: manifest.Prompt | None, *, eos: str = "</s>") -> list[str]:
    """The texts behind which an answer is over: EOS, and what would begin another turn."""
    found = [eos]
    if prompt is not None and templates.puts_text(prompt.template):
        found.append(templates.named(prompt.template).opening.strip())
    return [stop for stop in found if stop]


def parameters(generation: Mapping[str, Any]) -> dict[str, int | float]:
    """Ollama's names for the decoding values of a `generation_config.json`; those that are no numbers are left out.

    The repetition penalty is taken over the whole text, as transformers and we do it, and not over Ollama's last 64 tokens.
    """
    values = {name: generation.get(name) for name, *_ in _PARAMETERS}
    if generation.get("do_sample") is False:
        values["temperature"] = 0.0
    found: dict[str, int | float] = {}
    for name, theirs, kind in _PARAMETERS:
        value = values[name]
        if isinstance(value, int | float) and not isinstance(value, bool) and (kind is float or value == int(value)):
            found[theirs] = kind(value)
    if found.get("repeat_penalty", 1.0) != 1:
        found["repeat_last_n"] = -1
    return found


def k_quants(path: str | Path, dtype: str, *, kind: str = K_QUANTS[0]) -> str:
    """The command that makes a K-quant of a GGUF file with llama.cpp's own tool.

    Args:
      path: the file.
      dtype: the type of its matrices; from one that is quantised already less comes out, which the tool wants confirmed.
      kind: what llama-quantize calls the result.
    """
    path = Path(path)
    stem = path.stem.removesuffix(f"-{dtype}").removesuffix(f"-{dtype.lower()}")
    words = ["llama-quantize", *(["--allow-requantize"] if dtype.startswith("Q") else [])]
    return shlex.join([*words, str(path), str(path.with_name(f"{stem}-{kind}.gguf")), kind])


def _literal(text: str) -> str:
    """Text as a string in Go's syntax between the template's braces; JSON's is one, and nothing is written for nothing."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
