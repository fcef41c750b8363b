"""`zhllama demo`."""

from pathlib import Path

from zhllama_jax.cli import allocator, compilation, terminal


def run(*, output: Path = Path("runs/demo"), seed: int = 0, compilation_cache: compilation.Cache = "auto") -> None:
    """Shows the whole pipeline on a small bilingual world, without downloads.

    A tiny LLaMA learns English and is then adapted to Chinese; five minutes on two CPU cores. Run again it does only what is missing.

    Args:
      output: folder for the world, every step's results and the report.
      seed: of the world and of everything random.
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama demo
      zhllama demo --output runs/demo1 --seed 1
    """
    from zhllama_jax.adapt import demonstration, pipeline, places

    compilation.cache(compilation_cache)
    allocator.keep_freed_memory()
    report = pipeline.run(demonstration.prepare(output, seed=seed), say=terminal.say)
    terminal.result(terminal.aligned(report.read_text(encoding="utf-8")), end="")
    terminal.say(f"open {report.with_name(pipeline.PAGE)} in a browser; the same as text: {report}")
    terminal.then("chat", "--model", report.parent / places.FINAL)
