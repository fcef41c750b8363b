"""Verdicts on machines that are not there."""

import dataclasses

import pytest

from zhllama_jax.data import config as data_config
from zhllama_jax.train import config, fit, machines

SFT = config.Experiment(
    model="m",
    data=config.Data(sources=(config.Source(store="s"),)),
    output="o",
    stage="sft",
    steps=1,
    global_batch=512,
    micro_batch=8,
    dtype="bfloat16",
    remat="dots",
)
SEVEN, TINY = config.Expected("7b", 49_953).llama(), config.Expected("micro", 400).llama()


def place(preset: machines.Preset, *, devices: int | None = None, **changes: int) -> fit.Place:
    machine = machines.MACHINES[preset]
    chip = machines.chip(machine.chip) if machine.chip else None
    memory = round(chip.hbm * chip.usable) if chip else machine.host_ram
    found = fit.Place(devices or machine.chips, memory, machine.host_ram, 10**13, shared=chip is None)
    return found._replace(**changes)


def test_a_larger_micro_batch_is_tried_first_and_recomputation_last() -> None:
    roomy = fit.judge(SFT, SEVEN, place("h200"))
    assert roomy.fits and (roomy.micro_batch, roomy.remat, roomy.lacks) == (8, "dots", ())
    tight = fit.judge(SFT, SEVEN, place("v5e-8"))
    assert tight.fits and (tight.micro_batch < 8 or tight.remat == "full")
    assert tight.device <= fit.HEADROOM * place("v5e-8").memory


def test_what_does_not_fit_says_how_many_chips_would_do() -> None:
    one = fit.judge(SFT, SEVEN, place("colab-v5e-1"))
    assert not one.fits and "device memory" in one.lacks
    assert one.micro_batch == 1
    assert one.chips is not None and one.chips in (2, 4)
    assert "device memory" not in fit.judge(SFT, SEVEN, place("colab-v5e-1", devices=one.chips)).lacks
    assert "device memory" in fit.judge(SFT, SEVEN, place("colab-v5e-1", devices=one.chips // 2)).lacks


def test_devices_that_do_not_divide_the_batch_are_refused_as_the_training_would_be() -> None:
    six = fit.judge(SFT, SEVEN, place("h200", devices=6))
    assert not six.fits and six.lacks == (fit.DIVIDES,) and six.chips == 4, "four of the six would do"
    assert fit.judge(SFT, SEVEN, place("h200", devices=4)).fits
    few = dataclasses.replace(SFT, global_batch=2)
    assert fit.judge(few, SEVEN, place("h200", devices=4)).chips == 2, "more devices than sequences"
    three = fit.judge(SFT, SEVEN, place("colab-v5e-1", devices=3, memory=4 * 2**30))
    assert set(three.lacks) >= {"device memory", fit.DIVIDES} and three.chips is not None and 512 % three.chips == 0 and three.chips > 3
    for devices in (3, 5, 6, 7):
        with pytest.raises(ValueError, match="cannot be split"):
            SFT.accumulation(batch=SFT.batch_rows(512), devices=devices)
        assert not fit.judge(SFT, SEVEN, place("h200", devices=devices)).fits


def test_more_chips_are_not_offered_where_they_do_not_help() -> None:
    assert fit.judge(SFT, SEVEN, place("colab-t4", memory=10**8)).chips is None
    assert fit.judge(SFT, SEVEN, place("cpu")).chips is None


@pytest.mark.parametrize(("field", "lacks"), [("host_ram", "host memory"), ("disk", "disk")])
def test_host_memory_and_disk_count_too(field: str, lacks: str) -> None:
    found = fit.judge(SFT, SEVEN, place("h200", **{field: 10**9}))
    assert not found.fits and found.lacks == (lacks,)


def test_a_cpu_has_one_memory() -> None:
    assert fit.judge(SFT, TINY, place("cpu")).fits
    assert fit.judge(SFT, SEVEN, place("cpu")).lacks == ("device memory",)


def test_rows_are_as_long_as_their_sources_say() -> None:
    assert fit.row_length(SFT) == 512
    from zhllama_jax.data import config as data_config

    text = config.Source(text=data_config.TextData(files=("a.txt",), length=128))
    assert fit.row_length(dataclasses.replace(SFT, data=config.Data(sources=(text,)))) == 128


def test_hours_follow_from_the_steps_and_the_peak() -> None:
    hours = fit.hours(SFT, SEVEN, peak=1e15)
    assert hours is not None and fit.hours(SFT, SEVEN, peak=2e15) == pytest.approx(hours / 2)
    assert fit.hours(dataclasses.replace(SFT, steps=3), SEVEN, peak=1e15) == pytest.approx(3 * hours)
    assert hours == pytest.approx(512 * 512 * 4.2 * 7e9 / (fit.UTILISATION * 1e15) / 3600, rel=0.1)


def test_hours_of_epochs_are_known_where_every_row_is() -> None:
    epochs = {"steps": None, "epochs": 2.0}
    assert fit.hours(dataclasses.replace(SFT, **epochs), SEVEN, peak=1e15) is None, "a store's rows are not counted here"
    rows = {"files": ("a.json",), "packing": "one"}
    source = config.Source(sft=data_config.SftData(**rows), share=data_config.Share(max_rows=512))
    capped = dataclasses.replace(SFT, data=config.Data(sources=(source,)), **epochs)
    assert fit.hours(capped, SEVEN, peak=1e15) == fit.hours(dataclasses.replace(SFT, steps=2), SEVEN, peak=1e15)
