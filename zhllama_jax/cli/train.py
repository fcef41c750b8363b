"""`zhllama train`."""

from zhllama_jax.cli import terminal
from zhllama_jax.train import config as train_config


def run(experiment: train_config.Experiment, /) -> None:
    """Trains one stage; run again it goes on where it was stopped.

    Args:
      experiment: see the fields below; most are best kept in a file (--config).
    """
    from zhllama_jax.train import loop

    loop.run(experiment)
    terminal.result(experiment.output)
