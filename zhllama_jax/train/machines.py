"""What machines can do: peaks and memory of chips, and the machines that `--preset` names. No JAX here.

Figures are the vendors', for dense products; what a program gets of a chip's memory is less than its data sheet says (`Chip.usable`).
Cloud TPU names count cores on v4 and v5p, two in a chip, and chips on v5e and v6e: a v4-32 has 16 chips, a v5e-16 has 16 too.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

GIB = 2**30
GB = 10**9

Dtype = Literal["float32", "bfloat16", "float16"]
Preset = Literal["cpu", "colab-t4", "colab-v5e-1", "v5e-8", "v5e-16", "v4-32", "v5p-8", "v6e-8", "h100", "h200"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as jax sees it.

    Attributes:
      name: for people.
      kinds: how jax's `device_kind` begins; the longest start wins.
      hbm: bytes of its memory.
      flops: peak FLOP/s of dense products by dtype; a dtype that the chip only emulates is not in it.
      usable: share of the memory that a program gets: jax takes 75 % of a GPU's unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; what
        the runtime of a TPU keeps is a guess, not measured, and counts only where jax does not say what is free.
    """

    name: str
    kinds: tuple[str, ...]
    hbm: int
    flops: Mapping[str, float]
    usable: float = 0.75


# GPUs: NVIDIA's data sheets (SXM boards, without sparsity; float32 is that of the plain units, not of TF32).
# TPUs: cloud.google.com/tpu/docs, system architecture of v4, v5e, v5p, v6e and Ironwood; they publish no float32 peak.
CHIPS: tuple[Chip, ...] = (
    Chip("T4", ("Tesla T4", "NVIDIA T4"), 15 * GIB, {"float16": 65e12, "float32": 8.1e12}),
    Chip("L4", ("NVIDIA L4",), 24 * GB, {"bfloat16": 121e12, "float16": 121e12, "float32": 30.3e12}),
    Chip("L40", ("NVIDIA L40",), 48 * GB, {"bfloat16": 181e12, "float16": 181e12, "float32": 90.5e12}),
    Chip("L40S", ("NVIDIA L40S",), 48 * GB, {"bfloat16": 362e12, "float16": 362e12, "float32": 91.6e12}),
    Chip("A100", ("NVIDIA A100",), 80 * GB, {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12}),
    Chip("H100", ("NVIDIA H100",), 80 * GB, {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12}),
    Chip("H200", ("NVIDIA H200",), 141 * GB, {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12}),
    Chip("B200", ("NVIDIA B200",), 180 * GB, {"bfloat16": 2250e12, "float16": 2250e12, "float32": 75e12}),
    Chip("TPU v4", ("TPU v4",), 32 * GIB, {"bfloat16": 275e12}, usable=0.96),
    Chip("TPU v5e", ("TPU v5 lite", "TPU v5e"), 16 * GIB, {"bfloat16": 197e12}, usable=0.96),
    Chip("TPU v5p", ("TPU v5", "TPU v5p"), 95 * GIB, {"bfloat16": 459e12}, usable=0.96),
    Chip("TPU v6e", ("TPU v6 lite", "TPU v6e"), 32 * GIB, {"bfloat16": 918e12}, usable=0.96),
    Chip("TPU7x", ("TPU7x",), 192 * GIB, {"bfloat16": 2307e12}, usable=0.96),
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine, or a slice of several, that a preset is made for.

    Attributes:
      chip: its accelerator; None for a CPU.
      chips: how many there are.
      host_ram: bytes of memory of one host: nothing here needs it; that the recipes can be read into it is tested.
      dtype: to compute in.
      remat: what the backward pass recomputes.
      micro_batch: sequences that a device takes at a time, at most: a guess for rows of 512 tokens and 7B, not measured on these machines.
      note: what somebody who leaves the dtype to it is told.
    """

    chip: str | None
    chips: int
    host_ram: int
    dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "dots", "full"]
    micro_batch: int
    note: str = ""


# Memory of the hosts, of the smaller type where several are on offer: Colab's runtimes as users see them; cloud.google.com/tpu/docs for
# hosts of TPUs; one eighth of a server of eight (2 TiB) for one H100 or H200.
MACHINES: Mapping[Preset, Machine] = {
    "cpu": Machine(None, 1, 12 * GB, "float32", "dots", 8),
    "colab-t4": Machine(
        "T4",
        1,
        round(12.7 * GB),
        "bfloat16",
        "full",
        2,
        "a T4 has no bfloat16 units: the weights are kept in bfloat16, which halves them, and XLA multiplies in float32",
    ),
    "colab-v5e-1": Machine("TPU v5e", 1, 47 * GB, "bfloat16", "full", 8),
    "v5e-8": Machine("TPU v5e", 8, 192 * GB, "bfloat16", "full", 8),
    "v5e-16": Machine("TPU v5e", 16, 192 * GB, "bfloat16", "full", 8),
    "v4-32": Machine("TPU v4", 16, 400 * GB, "bfloat16", "full", 16),
    "v5p-8": Machine("TPU v5p", 4, 448 * GB, "bfloat16", "full", 16),
    "v6e-8": Machine("TPU v6e", 8, 1440 * GB, "bfloat16", "full", 16),
    "h100": Machine("H100", 1, 256 * GB, "bfloat16", "full", 16),
    "h200": Machine("H200", 1, 256 * GB, "bfloat16", "full", 32),
}


def chip(name: str) -> Chip:
    """The chip of that name in the table."""
    return next(chip for chip in CHIPS if chip.name == name)


def of_kind(device_kind: str) -> Chip | None:
    """The chip that jax calls `device_kind`; None for a CPU or an accelerator that the table does not know."""
    starts = {start: chip for chip in CHIPS for start in chip.kinds if device_kind.startswith(start)}
    return starts[max(starts, key=len)] if starts else None


def preset_of(chip: Chip, chips: int) -> Preset | None:
    """The preset for so many chips of a kind: the largest that they make up; None for a chip that no preset is made for."""
    fitting = [preset for preset, machine in MACHINES.items() if machine.chip == chip.name and machine.chips <= chips]
    return max(fitting, key=lambda preset: MACHINES[preset].chips, default=None)


class Chosen(NamedTuple):
    """A dtype, and why."""

    dtype: Dtype
    why: str


def decoding(platform: str, capability: str | None) -> Chosen:
    """The dtype that decoding and scoring choose where nobody says one.

    Args:
      platform: jax's name of the backend: cpu, gpu, tpu.
      capability: a CUDA device's compute capability, such as "7.5".
    """
    if platform == "cpu":
        return Chosen("float32", "a CPU has no fast bfloat16")
    if _without_bfloat16(capability):
        return Chosen("float16", f"compute capability {capability} has fast float16 and no bfloat16")
    return Chosen("bfloat16", "half the memory of float32, and its range")


def training(platform: str, capability: str | None) -> Chosen:
    """The dtype that training should be told; arguments as in `decoding`."""
    if platform == "cpu":
        return decoding(platform, capability)
    if _without_bfloat16(capability):
        return Chosen("bfloat16", f"compute capability {capability} has no bfloat16 units: it saves memory, and XLA multiplies in float32")
    return Chosen("bfloat16", "of products and the frozen base; whatever learns is float32")


def _without_bfloat16(capability: str | None) -> bool:
    """Whether a CUDA device is older than Ampere (8.0); an AMD GPU has a name there, such as "gfx90a", and is not."""
    return capability is not None and re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) < 8


def fields(preset: Preset) -> dict[str, object]:
    """The fields of an experiment that a preset fills: dtype, remat, micro_batch and, where weights can be split over chips, mesh."""
    machine = MACHINES[preset]
    filled: dict[str, object] = {"dtype": machine.dtype, "remat": machine.remat, "micro_batch": machine.micro_batch}
    if machine.chip is not None:
        # Weights and batch over all the chips there are, which needs least memory; MaxText (configs/gpu/a3/llama_2_7b) and AXLearn
        # (experiments/text/gpt/fuji.py) publish their figures for 7B so.
        filled["mesh"] = {"data": 1, "fsdp": -1, "tensor": 1}
    return filled
