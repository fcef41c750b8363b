"""`zhllama train`."""

from zhllama_jax.cli import allocator, compilation, located, presets, terminal
from zhllama_jax.train import config as train_config


def run(experiment: train_config.Experiment, /, *, compilation_cache: compilation.Cache = "auto") -> None:
    """Trains one stage; run again it goes on where it was stopped.

    Ends with status 75 after a signal, when the state is saved: the same command then goes on.

    Args:
      experiment: see the fields below; they are best kept in a file (--config).
      compilation_cache: where compiled programs are kept between calls: auto (on accelerators, in the user's cache directory), on, off,
        or a directory.

    Examples:
      zhllama train --config stage1.yaml
      zhllama train --config stage1.yaml --steps 20 --output runs/try --profile_steps 10:12
      zhllama train --model llama-7b-zh --data.sources '{store: rows}' --steps 1000 --output runs/stage2
    """
    import jax

    from zhllama_jax.train import loop, takeover

    takeover.check_output(experiment, early=True)  # before anything is fetched
    compilation.cache(compilation_cache)
    allocator.keep_freed_memory()
    if (note := presets.remark(experiment.dtype)) and jax.process_index() == 0:
        terminal.say(note)
    result = loop.run(located.experiment(experiment))
    stack = ["--adapter", *result["adapters"]] if result["adapters"] else []
    if jax.process_index() > 0:
        return
    if result.get("template") not in (None, "none"):
        terminal.then("chat", "--model", result["model"], *stack)
    else:
        terminal.then("generate", "--model", result["model"], *stack, "--prompt", "TEXT")
    if stack:
        terminal.then("merge", "--model", result["model"], *stack, "--output", "MERGED")
