"""The experiment: what cannot be meant is refused, all of it at once; sizes are derived, not given twice."""

import subprocess
import sys

import pytest

from zhllama_jax.data import config as data_config
from zhllama_jax.train import config

DATA = config.Data(sources=(config.Source(store="rows"),))


def make(**changes) -> config.Experiment:
    return config.Experiment(**{"model": "base", "data": DATA, "output": "run", "steps": 10, **changes})


def test_no_jax_is_imported() -> None:
    code = "import sys; sys.modules['jax'] = None; sys.modules['numpy'] = None; import zhllama_jax.train.config"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_presets_name_stands_for_the_stage() -> None:
    assert make(stage="new_rows").choice == make(stage=config.Stage("new_rows")).choice


def test_all_problems_are_listed() -> None:
    with pytest.raises(
        ValueError,
        match=r"experiment: global_batch must be above 0, got 0; name exactly one of steps, epochs and tokens, got steps, epochs",
    ):
        make(global_batch=0, epochs=1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": None}, "exactly one of steps, epochs and tokens, got none"),
        ({"model": config.NewModel("t.model")}, "random weights can only be trained by stage full"),
        ({"model": config.NewModel("t.model"), "stage": "full", "adapters": ("a",)}, "adapters need the model directory"),
        ({"seed": 99999999999999999999}, "seed must lie in 0 … 4294967295, got 99999999999999999999"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"steps": None, "epochs": float("inf")}, "epochs must be above 0 and finite, got inf"),
        ({"steps": None, "epochs": float("nan")}, "epochs must be above 0, got nan"),
        ({"adapter": "continue"}, "takes over the last of `adapters`"),
        ({"adapter": "extend", "adapters": ("a",), "stage": "embeddings"}, "needs a stage with LoRA targets"),
    ],
)
def test_what_cannot_be_meant(changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_a_source_is_exactly_one_thing() -> None:
    with pytest.raises(ValueError, match="exactly one of store, text and sft, got store, text"):
        config.Source(store="rows", text=data_config.TextData(files=("a.txt",)))
    with pytest.raises(ValueError, match="sources is empty"):
        config.Data(sources=())


def test_sections_check_themselves() -> None:
    for make_section in (
        lambda: config.Validation(every=-1),
        lambda: config.Validation(max_rows=0),
        lambda: config.Checkpoint(every=0),
        lambda: config.Dimensions("giant"),
    ):
        with pytest.raises(ValueError):
            make_section()


def test_the_batch_in_sequences_and_in_tokens() -> None:
    assert make(global_batch=64).batch_rows(512) == 64
    assert make(global_batch=32_768, batch_unit="tokens").batch_rows(512) == 64
    with pytest.raises(ValueError, match=r"global_batch 1,000 tokens is no multiple of the rows' 512 tokens; 512 would be"):
        make(global_batch=1000, batch_unit="tokens").batch_rows(512)


def test_the_length_in_steps_epochs_and_tokens() -> None:
    assert make(steps=7).num_steps(rows=1000, length=512) == 7
    assert make(steps=None, epochs=1.5).num_steps(rows=1000, length=512) == 24  # 1500 rows in batches of 64
    assert make(steps=None, tokens=100_000).num_steps(rows=1000, length=512) == 4


def test_accumulation_follows_from_devices_and_micro_batch() -> None:
    assert make(global_batch=64, micro_batch=4).accumulation(batch=64, devices=8) == 2
    assert make(global_batch=64, micro_batch=4).accumulation(batch=64, devices=1) == 16
    assert make(global_batch=64).accumulation(batch=64, devices=8) == 1
    with pytest.raises(ValueError, match="cannot be split over 6 devices: choose a multiple of 6"):
        make(global_batch=64).accumulation(batch=64, devices=6)


@pytest.mark.parametrize(("share", "at_most", "taken"), [(8, 3, 2), (8, 100, 8), (7, 4, 1), (12, 5, 4), (288, 16, 16), (1152, 64, 64)])
def test_a_micro_batch_is_the_largest_divisor_up_to_the_given(share: int, at_most: int, taken: int) -> None:
    assert make(global_batch=2 * share, micro_batch=at_most).accumulation(batch=2 * share, devices=2) == share // taken


def test_an_expected_model_is_known_before_it_is_there_and_another_one_is_refused() -> None:
    expected = config.Expected("7b", 49_953)
    assert (expected.llama().vocab_size, expected.llama().base_vocab_size) == (49_953, 32_000)
    expected.check(expected.llama(), where="model")
    expected.check(expected.llama().replace(max_position_embeddings=4096), where="model")
    with pytest.raises(
        ValueError, match=r"model has vocab_size 49,954 and not 49,953, which this recipe expects: take the model it was grown"
    ):
        expected.check(expected.llama().replace(vocab_size=49_954), where="model")
    with pytest.raises(ValueError, match=r"vocab_size 32,000 and not 49,953.*grow its vocabulary with `zhllama resize`"):
        expected.check(config.Expected("7b").llama(), where="model")
    with pytest.raises(ValueError, match=r"hidden_size 5,120 and not 4,096, .*: name another model, or change `expects`"):
        expected.check(config.Expected("13b", 49_953).llama(), where="model")
    with pytest.raises(ValueError, match="unknown model size '8b'"):
        config.Expected("8b")


def test_identity_holds_what_decides_the_numbers_and_nothing_else() -> None:
    identity = make().identity()
    same = ({"output": "elsewhere"}, {"micro_batch": 2}, {"mesh": config.Mesh(fsdp=2)}, {"log_every": 1}, {"remat": "full"})
    same += ({"validation": config.Validation(every=7, max_rows=3)},)
    for changes in same:
        assert make(**changes).identity() == identity
    other = ({"seed": 1}, {"stage": "sft"}, {"lora": config.Lora(rank=4)}, {"optimizer": config.Optimizer(b2=0.95)}, {"dtype": "bfloat16"})
    other += ({"validation": config.Validation(keep="best")},)
    for changes in other:
        assert make(**changes).identity() != identity
    best = [make(validation=config.Validation(every=every, keep="best")).identity() for every in (100, 50)]
    assert best[0] != best[1], "which steps are scored decides which one is written"


def test_dimensions_override_a_named_size() -> None:
    llama = config.Dimensions("micro", num_hidden_layers=3).llama(vocab_size=500, pad_token_id=None)
    assert (llama.num_hidden_layers, llama.hidden_size, llama.vocab_size) == (3, 32, 500)


def test_a_yaml_file_fills_it(tmp_path) -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    path = tmp_path / "stage.yaml"
    path.write_text(
        """
model: base
output: run
stage: {preset: sft, lora: [q_proj, v_proj], extra_rules: [{pattern: params/embed_tokens/base, train: false}]}
data:
  sources:
  - {text: {files: [a.txt], held_out: 0.01}, share: {weight: 2.0}}
  - {store: rows, share: {weight: 1}}
epochs: 1
optimizer: {learning_rate: 1e-4}
"""
    )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(config.Experiment, as_group=False)
    given = vars(parser.instantiate(parser.parse_args(["--config", str(path), "--optimizer.b2", "0.95", "--stage.rows", "new"])))
    experiment = config.Experiment(**{name: value for name, value in given.items() if name != "config"})
    assert experiment.choice.lora_targets == ("q_proj", "v_proj") and experiment.choice.trained_rows == "new"
    assert experiment.choice.extra_rules == (config.Rule("params/embed_tokens/base", train=False),)
    assert experiment.data.sources[0].text.held_out == 0.01 and experiment.data.sources[1].store == "rows"
    assert (experiment.optimizer.learning_rate, experiment.optimizer.b2) == (1e-4, 0.95)
    path.write_text(experiment.to_yaml())
    given = vars(parser.instantiate(parser.parse_args(["--config", str(path)])))
    assert config.Experiment(**{name: value for name, value in given.items() if name != "config"}) == experiment
