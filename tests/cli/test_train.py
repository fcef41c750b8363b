"""One stage by its verb: it trains, goes on, and refuses in one line."""

import json
from pathlib import Path

import pytest

from zhllama_jax.cli import program
from zhllama_jax.convert import peft, source

CONFIG = """
model: {model}
output: {output}
stage: pretrain_lora
data:
  sources:
  - text: {{files: [{text}], length: 32}}
lora: {{rank: 2, dropout: 0}}
global_batch: 8
steps: 2
tensorboard: false
checkpoint: {{every: 1}}
"""


@pytest.fixture
def config(base_model: Path, tmp_path: Path) -> Path:
    """A configuration of two steps on a few lines."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Rivers run to the sea {number} times."}) + "\n" for number in range(40)))
    path = tmp_path / "train.yaml"
    path.write_text(CONFIG.format(model=base_model, output=tmp_path / "run", text=text))
    return path


def train(config: Path, *words: str) -> int:
    return program.run(["train", "--config", str(config), *words])


def test_a_stage_leaves_an_adapter_and_is_done_once(config: Path, base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(config) == 0
    adapter = peft.load(config.parent / "run" / "adapter")
    assert adapter.base_fingerprint == source.fingerprint(base_model)
    assert adapter.lora_config is not None
    assert adapter.lora_config.rank == 2
    written = (config.parent / "run" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert train(config) == 0
    assert (config.parent / "run" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "nowhere not found"),
        (["--adapters", "nowhere"], "nowhere not found"),
        (["--epochs", "1", "--steps", "2"], "name exactly one of steps, epochs and tokens"),
        (["--optimizer.learning_rate", "0"], "learning_rate must be above 0"),
        (["--mesh.fsdp", "3"], "3"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(config, *words) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("zhllama: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_malformed_row_is_named_with_its_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "text.jsonl").write_text('{"text": "good"}\n{"text": \n')
    assert train(config) == 1
    assert "text.jsonl:2: not JSON" in capsys.readouterr().err


def test_an_unknown_key_is_named_with_its_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + "learning_rate: 1\n")
    assert train(config) == 2
    line = len(config.read_text().splitlines())
    assert f"{config}:{line}: unknown key 'learning_rate'" in capsys.readouterr().err
