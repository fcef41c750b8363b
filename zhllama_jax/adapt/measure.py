"""What is measured of a model in the pipeline: held-out text, answers, exams, samples, speed.

Every function takes a `Subject`, so that the base, the resized model, and a model with adapters in front of it are measured alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zhllama_jax.adapt import progress
from zhllama_jax.convert import manifest
from zhllama_jax.data import chat
from zhllama_jax.decode import config as decode_config
from zhllama_jax.decode import stream, throughput
from zhllama_jax.eval import answers, likelihood
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import processor

GREEDY = decode_config.Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
SPEED_TOKENS = 64


class Subject(NamedTuple):
    """A model ready to be measured.

    Attributes:
      config: its shape.
      weights: its collections.
      tokenizer: its own.
    """

    config: model_config.LlamaConfig
    weights: Mapping[str, Any]
    tokenizer: processor.Tokenizer


def bits_per_character(
    subject: Subject,
    texts: Mapping[str, Sequence[str]],
    *,
    length: int,
    options: llama.Options,
    watch: progress.Watch = progress.silent,
) -> dict[str, Any]:
    """Name of a text -> all figures of `likelihood.Score`."""
    found = {}
    for name, documents in texts.items():
        report = watch(f"held-out {name}, windows")
        score = likelihood.score(*subject, documents, length=length, options=options, progress=report)
        found[name] = score.figures()
    return found


def answer_bits_per_character(
    subject: Subject,
    rows: Sequence[chat.SftExample],
    *,
    prompt: manifest.Prompt,
    length: int,
    options: llama.Options,
    watch: progress.Watch = progress.silent,
) -> dict[str, Any]:
    """The cost of the right answers, ends included, given their prompts, per character of the answers.

    Every answer is scored whole, in windows of `length` tokens where it is longer with its prompt: so the same rows and characters count
    under every vocabulary.
    """
    passages, characters = [], 0
    for row in rows:
        example = chat.render_example(subject.tokenizer, row, template=prompt.template, boundary=prompt.boundary)
        if example is None:
            continue
        characters += sum(len(answer) for _, answer in row.turns)
        passages.append(likelihood.Passage([int(id_) for id_ in example.tokens], [bool(counts) for counts in example.loss_mask]))
    if not passages:
        raise ValueError("every held-out instruction has an empty answer: hold others out")
    report = watch("held-out answers, windows")
    nats = likelihood.total_nats(subject.config, subject.weights, passages, length=length, options=options, progress=report)
    return {"rows": len(passages), "characters": characters, "bits_per_character": nats / math.log(2) / characters}


def exam(
    subject: Subject,
    questions: Sequence[answers.Question],
    *,
    prompt: manifest.Prompt,
    max_new_tokens: int,
    options: llama.Options,
    watch: progress.Watch = progress.silent,
) -> dict[str, Any]:
    """Exact matches of greedy answers, by task, and the first wrong answers as examples."""
    asked = [(question.instruction, question.input) for question in questions]
    report = watch("exam, questions")
    given = ask(subject, asked, prompt=prompt, max_new_tokens=max_new_tokens, batch_size=64, options=options, report=report)
    wrong = [
        {"instruction": question.instruction, "input": question.input, "wanted": question.output, "given": answer}
        for question, answer in zip(questions, given, strict=True)
        if answer.strip() != question.output.strip()
    ]
    return {**answers.grade(questions, given).figures(), "wrong": wrong[:20]}


def ask(
    subject: Subject,
    questions: Sequence[tuple[str, str]],
    *,
    prompt: manifest.Prompt,
    max_new_tokens: int,
    options: llama.Options,
    batch_size: int = 8,
    report: progress.Report | None = None,
) -> list[str]:
    """Greedy answers to (instruction, input) pairs, each put in the prompt's template."""
    prompts = [
        chat.render_prompt(subject.tokenizer, instruction, text, template=prompt.template, boundary=prompt.boundary)
        for instruction, text in questions
    ]
    generation = decode_config.Generation(max_new_tokens=max_new_tokens, batch_size=batch_size)
    completions = stream.complete(*subject, prompts, sampling=GREEDY, generation=generation, options=options, progress=report)
    return [completion.text.strip() for completion in completions]


def speed(subject: Subject, text: str, *, options: llama.Options) -> dict[str, Any]:
    """Tokens and characters per second of generation, for text of the given kind."""
    measured = throughput.measure(
        subject.config, subject.weights, subject.tokenizer, text, sampling=GREEDY, new_tokens=SPEED_TOKENS, options=options
    )
    return {**measured._asdict(), "characters_per_second": measured.characters_per_second}
