"""`zhllama adapt`."""

from zhllama_jax.adapt import config as adapt_config
from zhllama_jax.cli import allocator, located, terminal


def run(pipeline: adapt_config.Adapt, /) -> None:
    """Adapts a model to another language: the whole pipeline, step by step.

    Run again it does only what is missing, or what a changed setting or file makes different. It ends with a report.

    Args:
      pipeline: see the fields below; they are best kept in a file (--config).
    """
    from zhllama_jax.adapt import pipeline as pipeline_lib

    allocator.keep_freed_memory()
    report = pipeline_lib.run(located.pipeline(pipeline), say=terminal.say)
    terminal.result(str(report))
    terminal.say(f"open {report.with_name(pipeline_lib.PAGE)} in a browser; the same as text: {report}")
