"""`zhllama demo`."""

from pathlib import Path

from zhllama_jax.cli import allocator, terminal


def run(*, output: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Shows the whole pipeline on a small bilingual world of its own, without downloads.

    A tiny LLaMA learns English and is then adapted to Chinese; five minutes on two CPU cores. Run again it does only what is missing.

    Args:
      output: folder for the world, every step's results and the report.
      seed: of the world and of everything random.
    """
    from zhllama_jax.adapt import demonstration, pipeline

    allocator.keep_freed_memory()
    report = pipeline.run(demonstration.prepare(output, seed=seed), say=terminal.say)
    terminal.result(report.read_text(encoding="utf-8"), end="")
    terminal.say(f"open {report.with_name(pipeline.PAGE)} in a browser; the same as text: {report}")
