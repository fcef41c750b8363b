"""`zhllama adapt`."""

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import allocator, compilation, located, presets, terminal


def run(pipeline: adapt_config.Adapt, /, *, compilation_cache: compilation.Cache = "auto") -> None:
    """Adapts a model to another language: the whole pipeline, step by step.

    Run again it does only what is missing, or what a changed setting or file makes different. It ends with a report.

    Args:
      pipeline: see the fields below; they are best kept in a file (--config).
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama adapt --config configs/small_cpu.yaml
      zhllama adapt --config configs/small_cpu.yaml --output runs/other --seed 1
    """
    from zhllama_jax.adapt import pipeline as pipeline_lib
    from zhllama_jax.adapt import places

    compilation.cache(compilation_cache)
    allocator.keep_freed_memory()
    if note := presets.remark(pipeline.dtype):
        terminal.say(note)
    report = pipeline_lib.run(located.pipeline(pipeline), say=terminal.say)
    terminal.result(str(report))
    terminal.say(f"open {report.with_name(pipeline_lib.PAGE)} in a browser; the same as text: {report}")
    adapted = ["--model", places.of(pipeline, places.FINAL)]
    terminal.then(*(["chat", *adapted] if pipeline.instructions else ["generate", *adapted, "--prompt", "TEXT"]))
