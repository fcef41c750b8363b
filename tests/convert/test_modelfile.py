"""The Modelfile's template says, for every conversation, what the Jinja template and our own prompts say; its values are Ollama's."""

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from zhllama_jax import templates
from zhllama_jax.convert import llama_hf, manifest, modelfile, tokenizer_hf
from zhllama_jax.data import chat
from zhllama_jax.model import config as config_lib
from zhllama_jax.model import rope_config
from zhllama_jax.tokenizer import processor

jinja2 = pytest.importorskip("jinja2")

MICRO = config_lib.named("micro", vocab_size=300)
PROMPTS = [
    manifest.Prompt(template, boundary, turns)
    for template, boundary, turns in itertools.product(("alpaca", "llama_cpp"), ("joined", "faithful"), ("open", "closed"))
]
ASKED = ["一加一\n等于几?", ' "quoted" {{ .System }} ', "third"]
ANSWERED = ["二", " two\n"]
CONVERSATIONS = [
    [{"role": "system", "content": "Be short."}] * has_system
    + [
        {"role": role, "content": content}
        for pair in itertools.zip_longest(ASKED[:turns], ANSWERED[: turns - 1])
        for role, content in zip(("user", "assistant"), pair, strict=True)
        if content is not None
    ]
    for has_system, turns in itertools.product((False, True), (1, 2, 3))
]


class Go:
    """As much of Go's text/template as the Modelfiles use: conditions, ranges, variables, fields, `eq` and strings."""

    TOKEN = re.compile(r"\{\{ (.*?) \}\}(?=\{\{|[^}]|$)", re.DOTALL)

    def __init__(self, template: str) -> None:
        self._parts: list[tuple[bool, str]] = []
        position = 0
        for match in self.TOKEN.finditer(template):
            self._parts += [(False, template[position : match.start()]), (True, match[1])]
            position = match.end()
        self._parts.append((False, template[position:]))

    def render(self, **fields: Any) -> str:
        """The text for a message's fields."""
        self._variables: dict[str, Any] = {}
        return "".join(self._run(0, fields, True)[0])

    def _run(self, index: int, dot: Any, active: bool) -> tuple[list[str], int]:
        """Runs to the `else` or `end` that belongs here, or to the end of all."""
        written: list[str] = []
        while index < len(self._parts):
            is_action, part = self._parts[index]
            word = part.split(" ", 1)[0]
            if not is_action:
                written += [part] * active
            elif word in ("else", "end"):
                break
            elif word == "if":
                texts, index = self._condition(index, part[3:], dot, active)
                written += texts
            elif word == "range":
                end = index
                for item in self._value(part[6:], dot) if active else ():
                    texts, end = self._run(index + 1, item, True)
                    written += texts
                index = end if active and self._value(part[6:], dot) else self._run(index + 1, None, False)[1]
            elif active:
                assigned = re.fullmatch(r"(\$\w+) :?= (.*)", part)
                if assigned:
                    self._variables[assigned[1]] = self._value(assigned[2], dot)
                else:
                    written.append(self._value(part, dot))
            index += 1
        return written, index

    def _condition(self, index: int, test: str, dot: Any, active: bool) -> tuple[list[str], int]:
        taken = active and bool(self._value(test, dot))
        written, index = self._run(index + 1, dot, taken)
        closing = self._parts[index][1]
        if closing == "end":
            return written, index
        if closing.startswith("else if "):
            texts, index = self._condition(index, closing[8:], dot, active and not taken)
        else:
            texts, index = self._run(index + 1, dot, active and not taken)
        return written + texts, index

    def _value(self, text: str, dot: Any) -> Any:
        if text.startswith("eq "):
            left, right = text[3:].split(" ", 1)
            return self._value(left, dot) == self._value(right, dot)
        if text.startswith("."):
            return dot[text[1:]]
        return self._variables[text] if text.startswith("$") else json.loads(text)


def rendered(prompt: manifest.Prompt, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of a conversation: system messages stand in `.System` and in `.Messages`."""
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    return Go(modelfile.template(prompt)).render(System=system, Messages=[{"Role": m["role"], "Content": m["content"]} for m in messages])


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: "-".join(prompt))
def test_the_template_says_what_the_jinja_template_says(prompt: manifest.Prompt) -> None:
    jinja = jinja2.Template(tokenizer_hf.chat_template(prompt), keep_trailing_newline=True)
    for messages in CONVERSATIONS:
        assert rendered(prompt, messages) == jinja.render(messages=messages, bos_token="", eos_token="</s>")


@pytest.mark.parametrize("prompt", [prompt for prompt in PROMPTS if prompt.turns == "open"], ids=lambda prompt: "-".join(prompt))
def test_a_first_question_has_the_ids_of_our_own_prompt(prompt: manifest.Prompt, tokenizer: processor.Tokenizer) -> None:
    ids = chat.render_prompt(tokenizer, ASKED[0], template=prompt.template, boundary=prompt.boundary)
    assert tokenizer.encode(rendered(prompt, CONVERSATIONS[0]), bos=True) == ids


def test_a_base_model_takes_prompts_as_they_are() -> None:
    for prompt in (None, manifest.Prompt("none")):
        assert modelfile.template(prompt) == "{{ .Prompt }}"
        assert modelfile.stops(prompt) == ["</s>"]


def read(text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(everything but parameters, parameters) of a Modelfile whose lines all are directives."""
    single = [line for line in text.split("\n") if line]
    assert all(line.split(" ")[0] in ("FROM", "TEMPLATE", "PARAMETER") for line in single)
    found = [tuple(line.split(" ", 1)) for line in single]
    parameters = [tuple(argument.split(" ", 1)) for word, argument in found if word == "PARAMETER"]
    return {word: argument for word, argument in found if word != "PARAMETER"}, parameters  # type: ignore[return-value,misc]


def test_a_modelfile_of_the_papers_values() -> None:
    text = modelfile.render("zh-Q8_0.gguf", config=MICRO, prompt=PROMPTS[0], generation=llama_hf.PAPER_GENERATION)
    said, parameters = read(text)
    assert said["FROM"] == "./zh-Q8_0.gguf"
    assert said["TEMPLATE"] == f'"""{modelfile.template(PROMPTS[0])}"""'
    assert '"""' not in modelfile.template(PROMPTS[0])
    assert parameters == [
        ("stop", '"</s>"'),
        ("stop", '"### Instruction:"'),
        ("temperature", "0.2"),
        ("top_k", "40"),
        ("top_p", "0.9"),
        ("repeat_penalty", "1.3"),
        ("num_predict", "512"),
        ("repeat_last_n", "-1"),
        ("num_ctx", "2048"),
    ]


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"temperature": 1, "top_k": 50.0}, {"temperature": 1.0, "top_k": 50}),
        ({"temperature": None, "top_k": "40", "top_p": True, "eos_token_id": [1, 2]}, {}),
        ({"top_k": 0.5, "min_p": 0.1}, {"min_p": 0.1}),
        ({"repetition_penalty": 1.0}, {"repeat_penalty": 1.0}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "repeat_last_n": -1}),
    ],
)
def test_parameters(generation: dict[str, Any], expected: dict[str, Any]) -> None:
    found = modelfile.parameters(generation)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in expected.items()}


def test_the_context_is_the_stretched_one() -> None:
    config = MICRO.replace(rope_scaling=rope_config.RopeScaling("linear", 4))
    assert modelfile.render("a.gguf", config=config, prompt=None, generation={}).endswith("PARAMETER num_ctx 8192\n")


@pytest.mark.parametrize("name", ["", " a.gguf", "a\nb.gguf"])
def test_names_that_cannot_stand_in_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be named in a Modelfile"):
        modelfile.render(name, config=MICRO, prompt=None, generation={})


def test_an_unknown_template_is_taken_as_it_is() -> None:
    """As for the chat template of a directory: whoever trained with it knows what it was."""
    assert not templates.puts_text("unheard")
    assert modelfile.template(manifest.Prompt("unheard")) == "{{ .Prompt }}"


def test_the_line_for_k_quants() -> None:
    assert modelfile.k_quants("out/zh-F16.gguf", "F16") == "llama-quantize out/zh-F16.gguf out/zh-Q4_K_M.gguf Q4_K_M"
    assert modelfile.k_quants(Path("a b/zh.gguf"), "BF16", kind="Q6_K") == "llama-quantize 'a b/zh.gguf' 'a b/zh-Q6_K.gguf' Q6_K"
    assert shlex.split(modelfile.k_quants("zh-Q8_0.gguf", "Q8_0"))[:3] == ["llama-quantize", "--allow-requantize", "zh-Q8_0.gguf"]
