"""`zhllama chat`."""

import re
import sys
from typing import TYPE_CHECKING

from zhllama_jax import templates
from zhllama_jax.cli import compilation, decoding, ready, terminal

if TYPE_CHECKING:
    from zhllama_jax.decode import config as decode_config


def run(
    decode: decoding.Decoding,
    /,
    *,
    model: str,
    adapter: list[str] | None = None,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    system: str | None = None,
    memory: bool = True,
    dtype: ready.Dtype = "auto",
    compilation_cache: compilation.Cache = "auto",
) -> None:
    """Talks with a model, line by line.

    /clear forgets the conversation, /exit or the end of input ends it. Answers go to standard output, everything else to
    standard error. Where a conversation grows out of the context, its oldest turns are forgotten.

    Args:
      decode: see `Decoding`.
      model: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      adapter: adapter directories or hub ids, to put on top in order.
      template: what stands around an instruction; by default the one that the model was tuned with.
      boundary: how an answer joins it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      system: a text in the place of the template's head, as rows with a system text were learnt.
      memory: whether earlier turns are part of the prompt.
      dtype: of weights and computation; auto is bfloat16 on accelerators and float32 on a CPU.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama chat --model adapted
      zhllama chat --model llama-7b-zh --adapter runs/sft/adapter --temperature 0.5
    """
    import dataclasses

    from zhllama_jax.decode import config as decode_config
    from zhllama_jax.decode import stream

    compilation.cache(compilation_cache)
    loaded = ready.load(model, adapters=adapter or (), dtype=dtype, template=template, boundary=boundary)
    if loaded.template == "none":
        raise ValueError(
            f"{model} does not say how it was tuned on instructions: use `zhllama generate`, or say how to ask it, with --template alpaca"
        )
    templates.head(loaded.template, system or "")  # refuses a system text that the template has no place for, before the first question
    decode.check(loaded.config.context)
    sampling, generation = decode.resolve(loaded.generation, source=str(loaded.directory / "generation_config.json"))
    history: list[tuple[str, str]] = []
    if sys.stdin.isatty():
        terminal.say("(ask something; /clear forgets the conversation, /exit or Ctrl-D ends it)")
    while (question := _ask()) is not None:
        if question == "/clear":
            history.clear()
            terminal.say("(the conversation is forgotten)")
            continue
        if re.fullmatch(r"/\w*", question):
            terminal.say(f"({question} is no command: there are /clear and /exit)")
            continue
        prompt = _fit(loaded, question, history, generation, system=system or "")
        if prompt is None:
            continue
        answer = ""
        for piece in stream.stream(
            loaded.config, loaded.weights, loaded.tokenizer, prompt, sampling=sampling, generation=generation, options=loaded.options
        ):
            terminal.result(piece, end="")
            answer += piece
        terminal.result("")
        if memory:
            history.append((question, answer))
        generation = dataclasses.replace(generation, seed=(generation.seed + 1) % decode_config.SEEDS)


def _ask() -> str | None:
    """The next line that says something; None at the end."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in ("/exit", "/quit"):
            return None
        if line.strip():
            return line.strip()


def _fit(
    loaded: ready.Ready,
    question: str,
    history: list[tuple[str, str]],
    generation: "decode_config.Generation",
    *,
    system: str = "",
) -> list[int] | None:
    """The prompt's ids, with room for an answer (half of the context at most); the oldest turns are taken off `history` until it fits.

    None, and a word about it, if the question fills the context by itself.
    """
    from zhllama_jax.data import chat
    from zhllama_jax.decode import generate

    context = generate.context_of(loaded.config, generation)
    alone = len(chat.render_prompt(loaded.tokenizer, question, template=loaded.template, boundary=loaded.boundary, system=system))
    if alone >= context:
        terminal.say(f"(this line has {alone:,} tokens, which leave no room in the context of {context:,}: ask something shorter)")
        return None
    # An answer that may be longer than half of the context does not drive out the conversation: it ends earlier then.
    room = max(context - generation.max_new_tokens, context // 2)
    while True:
        ids = chat.render_prompt(
            loaded.tokenizer,
            question,
            template=loaded.template,
            boundary=loaded.boundary,
            turns=loaded.turns,
            history=history,
            system=system,
        )
        if not history or len(ids) <= room:
            return ids
        history.pop(0)
        terminal.say("(the oldest turn no longer fits the context and is forgotten)")
