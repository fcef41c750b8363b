"""`zhllama train`."""

from zhllama_jax.cli import allocator, located
from zhllama_jax.train import config as train_config


def run(experiment: train_config.Experiment, /) -> None:
    """Trains one stage; run again it goes on where it was stopped.

    Ends with status 75 after a signal, when the state is saved: the same command then goes on.

    Args:
      experiment: see the fields below; they are best kept in a file (--config).
    """
    from zhllama_jax.train import loop

    allocator.keep_freed_memory()
    loop.run(located.experiment(experiment))
