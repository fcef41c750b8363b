"""`zhllama generate`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhllama_jax import templates
from zhllama_jax.cli import compilation, decoding, ready, terminal

if TYPE_CHECKING:
    from zhllama_jax.decode import stream


def run(
    decode: decoding.OfSeveral,
    /,
    *,
    model: str,
    adapter: list[str] | None = None,
    prompt: list[str] | None = None,
    prompts: Path | None = None,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    system: str | None = None,
    dtype: ready.Dtype = "auto",
    json_lines: bool = False,
    compilation_cache: compilation.Cache = "auto",
) -> None:
    """Continues or answers prompts.

    Writes the answers, and nothing else, to standard output.

    Args:
      decode: see `OfSeveral`.
      model: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      adapter: adapter directories or hub ids, to put on top in order.
      prompt: texts to answer, one or several.
      prompts: file of prompts: .txt, one a line; .jsonl or .json, under the key prompt, or instruction and input; also packed (.gz, .zst).
      template: what stands around a prompt: alpaca, none (the text as it is) …; by default the one that the model was tuned with.
      boundary: how an answer joins it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      system: a text in the place of the template's head, as rows with a system text were learnt.
      dtype: of weights and computation; auto is bfloat16 on accelerators and float32 on a CPU.
      json_lines: write one JSON object an answer: prompt, text, tokens, finish_reason.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama generate --model adapted --prompt "什么是人工智能?"
      zhllama generate --model adapted --prompts questions.jsonl --json_lines > answers.jsonl
      zhllama generate --model llama-7b-zh --adapter runs/sft/adapter --prompt "你好" --temperature 0
    """
    from zhllama_jax.data import chat
    from zhllama_jax.decode import stream

    questions = [*(prompt or []), *(_read(prompts) if prompts else [])]
    if not questions and prompts:
        raise ValueError(f"{prompts} holds no prompt: write one a line")
    if not questions:
        raise ValueError("nothing to answer: give --prompt TEXT or --prompts FILE")
    compilation.cache(compilation_cache)
    loaded = ready.load(model, adapters=adapter or (), dtype=dtype, template=template, boundary=boundary)
    decode.check(loaded.config.context)
    sampling, generation = decode.resolve(loaded.generation, source=str(loaded.directory / "generation_config.json"))
    ids = [
        chat.render_prompt(loaded.tokenizer, question, template=loaded.template, boundary=loaded.boundary, system=system or "")
        for question in questions
    ]
    what = (loaded.config, loaded.weights, loaded.tokenizer)
    how: dict[str, Any] = {
        "sampling": sampling,
        "generation": generation,
        "options": loaded.options,
        "continuation": loaded.template == "none",
    }
    if len(ids) == 1 and sys.stdout.isatty() and not json_lines:
        for piece in stream.stream(*what, ids[0], **how):
            terminal.result(piece, end="")
        terminal.result("")
        return
    answers = stream.complete(*what, ids, **how)
    for question, answer in zip(questions, answers, strict=True):
        terminal.result(_as_json(question, answer) if json_lines else answer.text)


def _read(path: Path) -> list[str]:
    """The prompts of a file, packed or not; blank lines are passed over. What has no suffix, such as a pipe, is text."""
    from zhllama_jax import lines
    from zhllama_jax.data import chat

    kind = lines.suffix(path)
    if kind in ("", ".txt"):
        return [line for _, line in lines.read(path) if line.strip()]
    if kind not in (".jsonl", ".json"):
        raise ValueError(
            f"{path}: cannot tell what this file holds: name it .txt (one prompt a line), .jsonl (one JSON object a line) or .json "
            "(a list), packed .gz or .zst"
        )
    found = []
    for place, value in lines.values(path):
        row = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected a text, or an object with prompt, or with instruction and input")
        text = row.get("prompt", row.get("instruction"))
        extra = row.get("input")
        if not isinstance(text, str) or not isinstance(extra, str | None):
            raise ValueError(f"{place}: expected a text under 'prompt', or under 'instruction' and 'input'; the row has {', '.join(row)}")
        found.append(chat.join_input(text, extra or ""))
    return found


def _as_json(question: str, answer: "stream.Completion") -> str:
    row = {"prompt": question, "text": answer.text, "tokens": len(answer.ids), "finish_reason": answer.finish_reason}
    return json.dumps(row, ensure_ascii=False)
