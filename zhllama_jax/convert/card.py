"""The README.md of what is written: plain sentences about what the directory is, where it came from and how to load it."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zhllama_jax import templates
from zhllama_jax.convert import manifest, tokenizer_hf
from zhllama_jax.model import config as config_lib
from zhllama_jax.tokenizer import processor, ranked

_DRAWN = 2_000
"""So many texts of each kind are compared where transformers may give other ids: in about a second."""

_LICENCE = """## Licence

The weights are derived from a base model and stay under the base model's licence, whatever the licence of the program that made them.
"""


def model(
    name: str,
    config: config_lib.LlamaConfig,
    *,
    dtype: str,
    tokenizer: processor.Tokenizer,
    prompt: manifest.Prompt | None,
    history: Sequence[Mapping[str, Any]],
    carried: Collection[str] = (),
    form: str = "hf",
    weights: str = "",
) -> str:
    """The page of a model directory.

    Args:
      name: the directory's name.
      config, dtype, tokenizer, prompt, history: of the model.
      carried: names of files that came along as they were.
      form: the format, see `source.Format`.
      weights: the first file of weights.
    """
    heads = f"{config.num_attention_heads} heads"
    if config.num_kv_heads != config.num_attention_heads:
        heads += f" ({config.num_kv_heads} for keys and values)"
    shape = f"{config.num_hidden_layers} layers, width {config.hidden_size}, MLP {config.intermediate_size}, {heads}"
    context, scaling = f"context {config.context} tokens", config.rope_scaling
    if scaling is not None:
        context += f" (RoPE scaling of type {scaling.kind}, factor {scaling.factor:g})"
    return f"""---
{"library_name: transformers" if form == "hf" else "library_name: gguf" if form == "gguf" else "license: other"}
pipeline_tag: text-generation
---

# {name}

A LLaMA model, written by `zhllama`: {shape}, {context}, stored as {dtype}.

## Vocabulary

{_vocabulary(config, tokenizer, form)}

## Steps

{_steps(history)}

## Use

{_usage(name, prompt, form, weights)}

`zhllama.json` holds the SHA-256 of every file and of every tensor.{_came_along(carried)}

{_LICENCE}"""


def adapter(
    name: str,
    *,
    base: str | None,
    contents: str,
    loads_in_peft: bool,
    vocab_size: int | None,
    history: Sequence[Mapping[str, Any]],
    former: int = 0,
    grows: bool = True,
    certain: bool = True,
) -> str:
    """The page of an adapter directory.

    Args:
      name: the directory's name.
      base: what it was trained on; None where nobody said.
      contents: a sentence about what it holds.
      loads_in_peft: false for rows without LoRA factors.
      vocab_size: rows that the base must have; None where nobody said.
      history: the steps that made it.
      former: how many adapters must be folded before it.
      grows: it has a tokenizer, to which a base can be grown.
      certain: its base is known by fingerprint.
    """
    model = base or "MODEL"
    first = "".join(f"FORMER{number} " for number in range(1, former + 1))
    order = "\nWhat it was trained on top of stands before it, in order.\n" if former else ""
    if loads_in_peft:
        peft = (
            "It also loads with `peft.PeftModel.from_pretrained(model, ...)`. The base must have "
            f"{f'{vocab_size:,} rows' if vocab_size else 'the rows that it was trained with'} first: PEFT does not resize. "
            "Servers such as vLLM do not take adapters with trained rows; serve the merged model there."
        )
    else:
        peft = "It holds rows of the vocabulary and no LoRA factors. PEFT cannot load that alone: merge it with `zhllama`."
    growth = (
        f"\nA base with fewer rows is grown first: `zhllama resize --model {model} --tokenizer {name}/tokenizer.model --output resized`.\n"
    )
    says = (
        "`zhllama.json` says which base the adapter belongs to, by fingerprint, and which adapters must be folded before it."
        if certain
        else "Which base it belongs to, and what must be folded before it, nobody wrote down."
    )
    return f"""# {name}

An adapter in PEFT's layout, made with `zhllama`. {contents}

Base: {base or "not recorded"}

## Use

```sh
zhllama merge --model {model} --adapter {first}{name} --output merged
```
{order}{growth if grows else ""}
{peft}

{says}

## Steps

{_steps(history)}

{_LICENCE}"""


def _vocabulary(config: config_lib.LlamaConfig, tokenizer: processor.Tokenizer, form: str) -> str:
    lines = [f"{config.vocab_size:,} rows"]
    if config.extension_rows:
        lines[0] += f": the base model's {config.base_rows:,} and {config.extension_rows:,} new ones after them"
    if spare := config.vocab_size - tokenizer.vocab_size:
        lines[0] += f", of which the last {spare:,} belong to no piece"
    lines[0] += f". SentencePiece BPE (`tokenizer.model`, {tokenizer.vocab_size:,} pieces, sha256 `{tokenizer.sha256}`)."
    if form != "hf":
        return lines[0]
    tied = tokenizer_hf.tied_pieces(tokenizer)
    if tied:
        by_rank = ranked.Ranked(tokenizer)
        mixed, chained = (by_rank.differing(list(by_rank.drawn(_DRAWN, chained=chained))) for chained in (False, True))
        lines.append(
            f"`tokenizer.json` says the same to transformers, but {tied:,} pieces share a score with another one. SentencePiece merges "
            "such pieces leftmost first, transformers in a fixed order, so some texts get other ids there (which spell the same text):\n"
            f"{mixed:,} of {_DRAWN:,} random texts of up to sixteen of these pieces, {chained:,} of {_DRAWN:,} where each begins with the "
            "last character of the one before. Real texts lie between; `zhllama tokenizer report` counts their lines."
        )
    else:
        lines.append("`tokenizer.json` says the same to transformers, with the ids of SentencePiece.")
    lines.append("Unlike `zhllama`, transformers reads the text of a special piece inside a prompt (`</s>`) as that piece.")
    return "\n".join(lines)


def _came_along(carried: Collection[str]) -> str:
    if not carried:
        return ""
    return f" As they were in the directory from which this one was made: {', '.join(f'`{name}`' for name in sorted(carried))}."


def _steps(history: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for number, entry in enumerate(history, 1):
        rest = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in entry.items() if key != "step" and value is not None)
        lines.append(f"{number}. {entry.get('step', 'step')}{': ' if rest else ''}{rest}")
    return "\n".join(lines) or "None recorded."


def _usage(name: str, prompt: manifest.Prompt | None, form: str, weights: str) -> str:
    if prompt is None or not templates.puts_text(prompt.template):
        lead = "It continues text: nothing is recorded of a tuning on instructions."
        if prompt is not None:
            lead = f"Tuned on instructions that stood there as they are (template `{prompt.template}`, boundary `{prompt.boundary}`)."
        call = "inputs = tokenizer(text, return_tensors='pt')"
    else:
        lead = f"Tuned on instructions under the template `{prompt.template}` (boundary `{prompt.boundary}`)."
        call = (
            "messages = [{'role': 'user', 'content': text}]\n"
            "inputs = tokenizer.apply_chat_template(messages, return_tensors='pt', return_dict=True)"
        )
    if form == "meta":
        return f"{lead}\n\nWeights and `params.json` are in the format of Meta's release; `zhllama convert` and `zhllama generate` read it."
    if form == "gguf":
        return f"""{lead}

```sh
llama-cli -m {weights} -p "..."
ollama create {name} -f Modelfile
```"""
    return f"""{lead}

```sh
zhllama generate --model {name} --prompt "..."
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
{call}
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```"""


def _said(value: Any) -> str:
    """A value of a step in words: digests by their beginning, lists by their parts."""
    if isinstance(value, Mapping):
        return " ".join(map(_said, value.values()))
    if isinstance(value, list | tuple):
        return " and ".join(map(_said, value)) or "none"
    if isinstance(value, bool) or not isinstance(value, int):
        text = str(value).replace("\n", " ")
        if re.fullmatch("[0-9a-f]{64}", text):
            return f"`{text[:12]}`"
        return text if len(text) <= 120 else f"{text[:120]}…"
    return f"{value:,}"
