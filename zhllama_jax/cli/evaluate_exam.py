"""`zhllama evaluate exam`."""

from pathlib import Path

from zhllama_jax import templates
from zhllama_jax.cli import compilation, ready, terminal


def run(
    *,
    model: str,
    exam: Path,
    adapter: list[str] | None = None,
    template: str | None = None,
    boundary: templates.Boundary | None = None,
    max_new_tokens: int = 48,
    output: Path | None = None,
    overwrite: bool = False,
    dtype: ready.Dtype = "auto",
    compilation_cache: compilation.Cache = "auto",
) -> None:
    """Prints how many instructions a model answers exactly, by task, greedily.

    Beside it stands what the single most frequent answer would get right.

    Args:
      model: Hugging Face directory of the model, or a hub id (owner/name, owner/name@revision).
      exam: .jsonl or .json file of rows with instruction, output and, where there are any, input and task.
      adapter: adapter directories or hub ids, to put on top in order.
      template: what stands around an instruction; by default the one that the model was tuned with.
      boundary: how an answer joins it: faithful (tokenised apart, as in the original) or joined; what is known, else faithful.
      max_new_tokens: tokens of an answer.
      output: JSON file for the figures, the first wrong answers among them.
      overwrite: replace an existing output; an input is never replaced.
      dtype: of weights and computation; auto is bfloat16 on accelerators and float32 on a CPU.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama evaluate exam --model adapted --exam questions.jsonl
    """
    from zhllama_jax import files
    from zhllama_jax.adapt import measure
    from zhllama_jax.convert import manifest
    from zhllama_jax.eval import answers

    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if output is not None:
        files.free_file(output, overwrite=overwrite, inputs=[model, exam, *(adapter or ())])
    questions = answers.read(exam)
    compilation.cache(compilation_cache)
    loaded = ready.load(model, adapters=adapter or (), dtype=dtype, template=template, boundary=boundary)
    prompt = manifest.Prompt(template=loaded.template, boundary=loaded.boundary)
    subject = measure.Subject(loaded.config, loaded.weights, loaded.tokenizer)
    found = measure.exam(subject, questions, prompt=prompt, max_new_tokens=max_new_tokens, options=loaded.options)
    counts = {**found["by_task"], "all": (found["right"], found["total"])}
    rows = [(task, f"{right:,}", f"{total:,}", f"{right / total:.1%}") for task, (right, total) in counts.items()]
    terminal.result(terminal.table([("task", "exact", "questions", "share"), *rows]))
    terminal.result(f"the most frequent answer alone: {found['most_frequent']:.1%}")
    if output:
        asked = {"template": prompt.template, "boundary": prompt.boundary}
        files.write_json(output, {"model": loaded.name, "exam": str(exam), **asked, **found})
        terminal.say(f"wrote {output}")
