"""The table of machines, and what a preset fills."""

from typing import get_args

import pytest

from zhllama_jax.train import config, flops, machines


def test_every_preset_has_a_machine_and_every_machine_a_chip_of_the_table() -> None:
    assert set(machines.MACHINES) == set(get_args(machines.Preset))
    names = [chip.name for chip in machines.CHIPS]
    assert len(set(names)) == len(names)
    assert {machine.chip for machine in machines.MACHINES.values()} - {None} <= set(names)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p slice", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("cpu", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind: str, name: str | None) -> None:
    found = machines.of_kind(kind)
    assert (found.name if found else None) == name
    assert flops.peak(kind) == (found.flops.get("bfloat16") if found else None)


@pytest.mark.parametrize("preset", get_args(machines.Preset))
def test_what_a_preset_fills_is_valid(preset: machines.Preset) -> None:
    filled = machines.fields(preset)
    mesh = config.Mesh(**filled.pop("mesh", {}))
    data = config.Data(sources=(config.Source(store="s"),))
    made = config.Experiment(model="m", data=data, output="o", steps=1, mesh=mesh, **filled)
    assert made.accumulation(batch=64, devices=machines.MACHINES[preset].chips) >= 1
    assert (mesh.fsdp == -1) == (preset != "cpu")


@pytest.mark.parametrize(
    ("chip", "count", "preset"),
    [
        ("TPU v5e", 1, "colab-v5e-1"),
        ("TPU v5e", 4, "colab-v5e-1"),
        ("TPU v5e", 8, "v5e-8"),
        ("TPU v5e", 256, "v5e-16"),
        ("TPU v4", 16, "v4-32"),
        ("TPU v4", 8, None),
        ("H100", 8, "h100"),
        ("L4", 1, None),
    ],
)
def test_the_preset_of_what_is_there(chip: str, count: int, preset: str | None) -> None:
    assert machines.preset_of(machines.chip(chip), count) == preset


def test_a_device_without_bfloat16_decodes_in_float16() -> None:
    assert machines.decoding("gpu", "7.5").dtype == "float16"
    assert "7.5" in machines.decoding("gpu", "7.5").why
    assert machines.training("gpu", "7.5").dtype == "bfloat16", "there is no loss scaling, which float16 would need"
    assert machines.decoding("gpu", "gfx90a").dtype == machines.training("gpu", "gfx90a").dtype == "bfloat16", "AMD's have names"
    assert machines.decoding("gpu", "8.9").dtype == machines.decoding("tpu", None).dtype == "bfloat16"
    assert machines.decoding("cpu", None).dtype == machines.training("cpu", None).dtype == "float32"
