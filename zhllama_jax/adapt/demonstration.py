"""The recipe of `zhllama demo`: the whole pipeline on the embedded bilingual world, on two CPU cores."""

from pathlib import Path

from zhllama_jax.adapt import config as config_lib
from zhllama_jax.adapt import steps
from zhllama_jax.data import config as data_config
from zhllama_jax.demo import world
from zhllama_jax.train import config as train_config
from zhllama_jax.train import guard

SEQUENCE_LENGTH = 128
SAMPLES = ("星期三后面是星期几？", "兔子属于哪一类？", "医生在哪里工作？", "一共有几个？\n苹果、老虎和钥匙")


def prepare(output: Path, *, seed: int) -> config_lib.Adapt:
    """Writes the world's files into `<output>/world` and returns the pipeline that learns it.

    Raises:
      ValueError: a seed that is not allowed, an output that holds something else, or one that another process works on.
    """
    config = recipe(world.World(output / "world"), output=output, seed=seed)
    with guard.lock(output):  # a demo that is running reads these files
        steps.claim(output)
        world.write(output / "world", seed=seed)
    return config


def recipe(made: world.World, *, output: Path, seed: int) -> config_lib.Adapt:
    """The pipeline on a world's files: English base, Chinese vocabulary, two stages, instructions."""
    english = data_config.TextData(files=(str(made.english),), validation_files=(str(made.english_held_out),))
    chinese = data_config.TextData(files=(str(made.chinese),), validation_files=(str(made.chinese_held_out),))
    symbols = data_config.TextData(files=(str(made.symbols),))
    instructions = data_config.SftData(files=(str(made.instructions),), validation_files=(str(made.instructions_held_out),))
    return config_lib.Adapt(
        output=str(output),
        seed=seed,
        sequence_length=SEQUENCE_LENGTH,
        texts={"english": english, "chinese": chinese, "symbols": symbols},
        instructions=instructions,
        base=config_lib.Base(
            tokenizer=config_lib.NewVocabulary(texts=("english", "symbols"), vocab_size=1024, model_type="bpe", character_coverage=1.0),
            init=train_config.Dimensions(size="tiny", max_position_embeddings=256),
            training=_training("english", {"english": 1.0}, train_config.Stage("full"), steps=360, learning_rate=3e-3),
        ),
        vocabulary=config_lib.Vocabulary(
            added=config_lib.NewVocabulary(texts=("chinese",), vocab_size=896, model_type="bpe", byte_fallback=True),
        ),
        trainings=(
            _training("embeddings", {"chinese": 1.0}, train_config.Stage("embeddings"), steps=60, learning_rate=5e-3),
            _training("pretrain", {"chinese": 1.0}, train_config.Stage("pretrain_lora", lora="all"), steps=340, learning_rate=3e-3),
            _training(
                "tune",
                {config_lib.INSTRUCTIONS: 0.9, "chinese": 0.1},
                train_config.Stage("sft"),
                steps=720,
                learning_rate=2e-3,
                adapter="continue",
            ),
        ),
        evaluation=config_lib.Evaluation(
            exam=str(made.instructions_held_out),
            samples=SAMPLES,
            max_characters=20_000,
            max_new_tokens=16,
        ),
    )


def _training(
    name: str,
    texts: dict[str, float],
    stage: train_config.Stage,
    *,
    steps: int,
    learning_rate: float,
    adapter: train_config.Takeover = "fresh",
) -> config_lib.Training:
    """A training of the demo: what differs between its stages stands in the call."""
    return config_lib.Training(
        name=name,
        texts=texts,
        stage=stage,
        adapter=adapter,
        steps=steps,
        global_batch=8,
        lora=train_config.Lora(rank=16, alpha=32.0, dropout=0.0),
        optimizer=train_config.Optimizer(learning_rate=learning_rate, b2=0.95, weight_decay=0.01),
        validation=train_config.Validation(every=200, max_rows=32),
    )
