"""Every recipe of `configs/` loads, trains what the paper says, fits its hardware, and is run for two steps on a shrunken model.

Shrunken are the model, the data, the rows' length and the batch. Stage, adapters and their take-over, optimizer, schedule, packing,
template and mixture are the recipe's, and stages follow each other as their `adapters` say.
"""

import contextlib
import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from zhllama_jax.cli import flags, program, recipes
from zhllama_jax.convert import extend, host, llama_hf, peft, source
from zhllama_jax.model import config as model_config
from zhllama_jax.model import llama
from zhllama_jax.tokenizer import merge, processor
from zhllama_jax.train import config, fit, loop, machines, stages

# Of trainable parameters, in per cent: the paper's tables 2 and 3, and the table of the original's README.
PAPER = {
    "7b_stage1": 2.97,
    "7b_stage2": 6.06,
    "7b_sft": 6.22,
    "7b_plus_pretrain": 6.22,
    "7b_plus_sft": 8.08,
    "13b_pretrain": 4.10,
    "13b_sft": 4.10,
    "13b_plus_sft": 5.66,
    "33b_pretrain": 2.21,
    "33b_sft": 2.21,
}
OURS = ("tinyllama_1b_pretrain", "tinyllama_1b_sft")
NAMES = (*PAPER, *OURS)
LENGTH = 192


def load(name: str, *words: str) -> config.Experiment:
    """The experiment that `zhllama train --config NAME` reads."""
    [made], _ = flags.parse("train", program.VERBS["train"], ["--config", name, *words])
    assert isinstance(made, config.Experiment) and made.expects is not None
    return made


def test_every_recipe_for_train_is_tried_here() -> None:
    assert {name for name in recipes.paths() if name != "small_cpu"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_per_cent_of_the_paper(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert program.run(["stages", "--config", name]) == 0
    out = capsys.readouterr().out
    made = load(name)
    table = stages.table(made.choice, made.expects.llama(), made.lora)
    assert out.strip().endswith(f"({table.percent:.4f} %)")
    assert f"Trains {table.percent:.2f} %" in _flat(name) or f": {table.percent:.2f} %" in _flat(name), f"{table.percent:.2f}"
    if name in PAPER:
        assert round(table.percent, 2) == PAPER[name]


def place(preset: machines.Preset) -> fit.Place:
    """The machine that a preset is made for, with nothing else on it."""
    machine = machines.MACHINES[preset]
    assert machine.chip is not None
    chip = machines.chip(machine.chip)
    return fit.Place(machine.chips, round(chip.hbm * chip.usable), machine.host_ram, 10**12)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_fits_the_hardware_that_it_names(name: str) -> None:
    made = load(name)
    preset = preset_of(name)
    verdict = fit.judge(made, made.expects.llama(), place(preset))
    assert verdict.fits and verdict.remat == machines.MACHINES[preset].remat, verdict
    assert f"Hardware: {preset}" in _flat(name)
    assert made.batch_rows(512) % machines.MACHINES[preset].chips == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_where_inputs_come_from_and_how_to_start_on_one_host(name: str) -> None:
    header, made = _flat(name), load(name)
    assert re.search(r"Result: .* Inputs: .* Data: ", header) and f"zhllama train --config configs/{name}.yaml" in header
    adapters = {Path(adapter).parent.name.replace("13b_plus", "13b") for adapter in made.adapters}
    assert all(before in header.split("Inputs: ")[1] for before in adapters)
    assert made.adapters or "github.com/ymcui/Chinese-LLaMA-Alpaca" in header
    hours = re.search(
        r"Hardware: ([\w-]+).*? about (\d+) hours .*This version starts on one host.* --preset ([\w-]+) fits \(about (\d+) h", header
    )
    assert (hours is None) == (preset_of(name) not in ("v5e-16", "v4-32"))
    if hours:
        there, here = (speed(machines.MACHINES[preset]) for preset in (hours[1], hours[3]))
        assert int(hours[4]) == pytest.approx(int(hours[2]) * there / here, rel=0.05)
        other = load(name, "--preset", hours[3])
        assert fit.judge(other, other.expects.llama(), place(hours[3])).fits


@pytest.mark.parametrize("name", NAMES)
def test_the_hours_of_a_header_are_those_of_the_estimate(name: str) -> None:
    made = load(name)
    hours = fit.hours(made, made.expects.llama(), peak=speed(machines.MACHINES[preset_of(name)]))
    said = re.search(r"Hardware: .*? about (\d+) hours", _flat(name))
    untold = {"7b_plus_pretrain", "33b_pretrain", "tinyllama_1b_sft"}  # what their data decide is named beside the hours
    assert (hours is None) == (name in untold)
    if hours is not None:
        assert said and int(said[1]) == pytest.approx(hours, rel=0.05, abs=0.5)


def preset_of(name: str) -> str:
    """The preset that a recipe names."""
    return next(line for line in recipes.paths()[name].read_text().split("\n") if line.startswith("preset: "))[8:]


def speed(machine: machines.Machine) -> float:
    """FLOP/s of all its chips."""
    return machine.chips * machines.chip(machine.chip).flops["bfloat16"]


@pytest.mark.parametrize("name", OURS)
def test_the_small_recipes_fit_a_free_gpu(name: str) -> None:
    made = load(name, "--preset", "colab-t4")
    assert fit.judge(made, made.expects.llama(), place("colab-t4")).fits


def _flat(name: str) -> str:
    """The header comment as one line."""
    lines = [line[2:] for line in recipes.paths()[name].read_text(encoding="utf-8").split("\n") if line.startswith("# ")]
    return " ".join(lines)


@contextlib.contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Keeps compiled programs by their content: shrunken, several recipes are the same program."""
    wanted = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.5}
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, english_pieces: Path, chinese_pieces: Path) -> Iterator[Path]:
    """A directory in which every path of the recipes leads to something small: grown models, text, instructions."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch, compiled_once(folder / "compiled"):
        patch.chdir(folder)
        old = processor.Tokenizer.load(english_pieces)
        shape = model_config.named("micro", vocab_size=old.vocab_size, max_position_embeddings=LENGTH)
        llama_hf.save("base", config=shape, params=llama.init(shape, jax.random.key(0)), tokenizer=old)
        for suffix, pad in (("zh", False), ("zh-pad", True)):
            made = merge.merge(english_pieces, [chinese_pieces], mode="reference", pad_token=pad)
            grown_from = "base" if suffix == "zh" else "llama-7b-zh"
            extend.run(grown_from, processor.Tokenizer.from_bytes(made.serialized), f"llama-7b-{suffix}")
            for size in ("llama-13b", "llama-33b", "tinyllama-1b"):
                shutil.copytree(f"llama-7b-{suffix}", f"{size}-{suffix}")
        text = "".join(f"江河往海里流,第{number}次。\nRivers run to the sea {number} times.\n" for number in range(600))
        for corpus in ("pretrain", "pretrain_plus"):
            Path("data", corpus).mkdir(parents=True)
            Path("data", corpus, "text.txt").write_text(text, encoding="utf-8")
        Path("data/sft").mkdir()
        for name in {
            Path(file).name for recipe in NAMES for source in load(recipe).data.sources if source.sft for file in source.sft.files
        }:
            rows = [{"instruction": f"第{number}个?", "input": "", "output": f"答{number}。"} for number in range(12)]
            Path("data/sft", name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        yield folder


@functools.cache
def run(world: Path, name: str) -> dict[str, Any]:
    """Two steps of a recipe, after those that it stands on."""
    made = load(name)
    for adapter in made.adapters:
        before = Path(adapter).parent.name
        if before == "13b_plus_pretrain":  # 13b_pretrain, called with another output and corpus
            run(world, "13b_pretrain")
            shutil.copytree("runs/13b_pretrain", "runs/13b_plus_pretrain", dirs_exist_ok=True)
        elif not (world / adapter).is_dir():
            run(world, before)
    return loop.run(shrunken(made))


def shrunken(made: config.Experiment) -> config.Experiment:
    """The recipe for a micro model, one device and two steps."""
    sources = []
    for each in made.data.sources:
        kind = "text" if each.text else "sft"
        data = dataclasses.replace(getattr(each, kind), length=LENGTH, held_out=0.0)
        sources.append(dataclasses.replace(each, **{kind: data}))
    return dataclasses.replace(
        made,
        data=dataclasses.replace(made.data, sources=tuple(sources)),
        expects=None,
        global_batch=4,
        batch_unit="sequences",
        micro_batch=2,
        steps=2,
        epochs=None,
        tokens=None,
        dtype="float32",
        mesh=config.Mesh(1, 1, 1),
        tensorboard=False,
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_on_a_shrunken_model(name: str, world: Path) -> None:
    made, result = load(name), run(world, name)
    assert (result["steps"], result["stage"]) == (2, made.choice.preset)
    former = made.adapters[:-1] if made.adapter in ("continue", "extend") else made.adapters
    assert result["adapters"] == [*former, f"runs/{name}/adapter"]
    left = peft.load(world / "runs" / name / "adapter")
    assert left.vocab_size == source.load_config(world / made.model).vocab_size
    assert set(left.rows) == ({"embed_tokens", "lm_head"} if made.choice.trains_head else {"embed_tokens"})
    if left.lora_config is None:
        assert not made.choice.lora_targets
    else:
        assert set(left.lora_config.targets) == set(made.choice.lora_targets)
        assert (left.lora_config.rank, left.lora_config.alpha) == (made.lora.rank, made.lora.alpha)


@pytest.mark.parametrize("name", ["7b_sft", "13b_plus_sft"])
def test_what_a_chain_leaves_folds_into_a_model(name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(world, name)
    assert program.run(["merge", "--model", result["model"], "--adapter", *result["adapters"], "--output", f"folded_{name}"]) == 0
    folded = host.load(world / f"folded_{name}")
    assert folded.config.vocab_size == processor.Tokenizer.load(world / f"folded_{name}").vocab_size
    assert folded.prompt and folded.prompt.boundary == "faithful"
