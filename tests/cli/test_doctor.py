"""What `doctor` says of this machine, and of machines that are not here."""

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from zhllama_jax.cli import doctor, flags, program, recipes
from zhllama_jax.train import fit, machines


@pytest.fixture(autouse=True)
def few_recipes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three recipes are enough to see."""
    chosen = {name: repository / "configs" / f"{name}.yaml" for name in ("7b_stage1", "33b_sft", "small_cpu")}
    monkeypatch.setattr(recipes, "paths", lambda: chosen)


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    assert program.run(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str, count: int, *, memory: int | None, capability: str | None = None) -> None:
    """Has jax report accelerators that are not there."""
    stats = None if memory is None else {"bytes_limit": memory, "bytes_in_use": 0}
    facts = {"platform": "tpu" if "TPU" in kind else "gpu", "device_kind": kind, "memory_stats": lambda: stats}
    device = SimpleNamespace(**facts, **({"compute_capability": capability} if capability else {}))
    monkeypatch.setattr(jax, "devices", lambda: [device] * count)
    monkeypatch.setattr(doctor, "free_ram", lambda: 2**40)


def test_without_an_accelerator_it_says_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}" in out
    assert "1 × cpu" in out and "preset    cpu" in out
    assert "training  float32: a CPU has no fast bfloat16" in out
    assert "7b_stage1" in out and "33b_sft" in out
    assert "small_cpu" in out, "a pipeline counts by its hardest training"


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    assert set(found) == {"versions", "extras", "machine", "dtypes", "recipes"}
    assert found["versions"]["jax"] == jax.__version__
    assert found["machine"]["host_ram"] > 0 and found["machine"]["disk"] > 0
    assert [one["name"] for one in found["recipes"]] == ["small_cpu", "7b_stage1", "33b_sft"], "what needs least comes first"
    assert all(Path(one["file"]).is_file() for one in found["recipes"])


def test_a_slice_takes_the_recipes_that_fit_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, "TPU v5 lite", 8, memory=None)
    found = report(capsys)
    assert (found["machine"]["preset"], found["machine"]["devices"]) == ("v5e-8", 8)
    assert found["machine"]["memory"] == round(machines.chip("TPU v5e").hbm * machines.chip("TPU v5e").usable)
    small, seven, large = found["recipes"]
    assert small["fits"] and small["verb"] == "adapt"
    assert seven["fits"] and seven["advice"] == f"micro_batch {seven['micro_batch']}, remat {seven['remat']}"
    pretend(monkeypatch, "TPU v5 lite", 2, memory=None)
    small, seven, large = report(capsys)["recipes"]
    assert not large["fits"] and large["chips"] > 2
    assert large["advice"] == f"needs {large['chips']} devices of this kind"


@pytest.mark.parametrize(
    ("kind", "count", "memory", "capability"),
    [
        ("TPU v5 lite", 8, 9 * 2**30, None),
        ("TPU v5 lite", 8, None, None),
        ("NVIDIA RTX 9090", 1, 200 * 2**30, "13.0"),
        ("NVIDIA RTX 9090", 4, 30 * 2**30, "13.0"),
    ],
)
def test_the_command_that_it_names_is_the_one_that_it_judged(
    kind: str, count: int, memory: int | None, capability: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, kind, count, memory=memory, capability=capability)
    verdict = next(one for one in report(capsys)["recipes"] if one["fits"] and one["verb"] == "train")
    assert program.run(["doctor"]) == 0
    words = capsys.readouterr().out.rstrip().split("then zhllama train ")[1].split()
    assert words[:2] == ["--config", verdict["name"]]
    [made], _ = flags.parse("train", program.VERBS["train"], words)
    assert (made.micro_batch, made.remat) == (verdict["micro_batch"], verdict["remat"])
    assert made.dtype == "bfloat16"
    assert count == 1 or (made.mesh.data, made.mesh.fsdp, made.mesh.tensor) == (1, -1, 1)
    just_enough = round(verdict["device"] / fit.HEADROOM) + 1
    needed = fit.judge(made, made.expects.llama(), fit.Place(count, just_enough, host_ram=2**40, disk=2**50))
    assert needed.fits and needed.device == verdict["device"], "as much as was said"


def test_devices_that_do_not_divide_the_batch_fit_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, "NVIDIA H200", 6, memory=130 * 2**30, capability="9.0")
    seven = next(one for one in report(capsys)["recipes"] if one["name"] == "7b_stage1")
    assert not seven["fits"] and seven["lacks"] == [fit.DIVIDES]
    assert seven["advice"] == "needs mesh: {data: 1, fsdp: 4}, as 6 devices do not divide batch and width"


def test_an_amd_gpu_has_a_name_for_a_capability(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, "AMD Instinct MI250", 1, memory=60 * 2**30, capability="gfx90a")
    assert {chosen["dtype"] for chosen in report(capsys)["dtypes"].values()} == {"bfloat16"}


def test_a_t4_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, "Tesla T4", 1, memory=11 * 2**30, capability="7.5")
    found = report(capsys)
    assert found["machine"]["preset"] == "colab-t4"
    assert found["dtypes"]["decoding"]["dtype"] == "float16" and "no bfloat16" in found["dtypes"]["training"]["why"]
    assert program.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "1 × Tesla T4, 11.0 GiB free" in out and machines.MACHINES["colab-t4"].note in out


def test_an_unknown_accelerator_has_no_preset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, "NVIDIA RTX 9090", 1, memory=200 * 2**30, capability="13.0")
    assert program.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "none is made for this machine" in out
    assert (
        "Next: zhllama stages --config 7b_stage1, then zhllama train --config 7b_stage1 --dtype bfloat16 " in out and "--preset" not in out
    )


def test_a_cpu_is_sent_to_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["doctor"]) == 0
    assert "Next: zhllama demo" in capsys.readouterr().out


def test_it_says_where_its_peak_is_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "peak that was measured just now" in out and "not measured" not in out
    pretend(monkeypatch, "TPU v5 lite", 8, memory=None)
    assert program.run(["doctor"]) == 0
    assert "the devices' peak, computed, not measured; a dash" in capsys.readouterr().out


def test_the_peak_is_that_of_the_fastest_product_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slow ones in a row, as under other load, are not the answer: the fifth takes a tenth of their time."""
    ticks = iter([0.0, *[0.1, 0.11] * 4, *(0.2, 0.2, 0.201), 9.0])
    monkeypatch.setattr(doctor, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert doctor._peak(doctor.machine()) == pytest.approx(2 * 1024**3 / 0.001, rel=1e-6)


def test_every_recipe_that_fits_has_its_hours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = report(capsys)["recipes"][0]
    assert small["name"] == "small_cpu" and 0.01 < small["hours"] < 1000, "measured on this CPU"
    pretend(monkeypatch, "TPU v5 lite", 8, memory=None)
    seven = report(capsys)["recipes"][1]
    assert seven["hours"] == pytest.approx(25, rel=0.05), "as its header says"
    pretend(monkeypatch, "TPU v5 lite", 4, memory=None)
    assert report(capsys)["recipes"][1]["hours"] == pytest.approx(2 * seven["hours"], rel=0.01)
    assert program.run(["doctor"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert next(line for line in lines if line.startswith("7b_stage1")).split()[2] == "50"
    assert next(line for line in lines if line.startswith("33b_sft")).split()[1:3] == ["no", "–"]


@pytest.mark.parametrize("name", ["accel0", "vfio/0"])
def test_a_tpu_that_jax_does_not_see_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # the controller, which is there without any device
    monkeypatch.setattr(doctor, "DEVICES", tmp_path)
    assert report(capsys)["machine"]["warning"] is None
    (tmp_path / name).touch()
    assert 'pip install "jax[tpu]"' in report(capsys)["machine"]["warning"]


def test_a_plugin_that_cannot_start_is_told_and_not_fatal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> list[Any]:
        raise RuntimeError("Unable to initialize backend 'cuda': \n no driver")

    monkeypatch.setattr(jax, "devices", broken)
    found = report(capsys)
    assert found["machine"]["backend"] == "cpu"
    assert found["machine"]["warning"] == "jax cannot use its accelerator: Unable to initialize backend 'cuda': no driver"


def test_missing_extras_name_their_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needs = ["jax>=0.7.2", 'nowhere-to-be-found>=1; extra == "hub"', "numpy>=2; extra == 'other'", 'pytest; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    assert doctor.extras() == {
        "hub": {"purpose": doctor.PURPOSES["hub"], "missing": ["nowhere-to-be-found"]},
        "other": {"purpose": None, "missing": []},
    }
    assert program.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "not installed: pip install nowhere-to-be-found\n" in out and "extra     other: installed" in out


def test_a_source_tree_that_nobody_installed_has_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert doctor.extras() == {}


def test_without_recipes_it_still_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recipes, "paths", dict)
    assert program.run(["doctor"]) == 0
    assert "no recipes were found" in capsys.readouterr().out
