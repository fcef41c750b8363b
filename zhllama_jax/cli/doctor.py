"""`zhllama doctor`."""

import dataclasses
import importlib.metadata
import json as json_lib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zhllama_jax
from zhllama_jax.cli import flags, recipes, terminal
from zhllama_jax.train import machines

if TYPE_CHECKING:
    from zhllama_jax.model import config as model_config
    from zhllama_jax.train import config as train_config
    from zhllama_jax.train import fit

DISTRIBUTION = "zhllama-jax"

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "sentencepiece",
    "safetensors",
    "tensorflow-datasets",
    "array_record",
    "jsonargparse",
)

PURPOSES: Mapping[str, str] = {
    "hub": "models by their names on the Hugging Face hub",
    "zstd": ".zst files",
    "verify": "`zhllama verify --transformers`",
    "wandb": "Weights & Biases",
}
"""What each extra of the package is for; one that is not named here is listed without."""

PIECES = 49_953
"""Of the paper's vocabulary."""

MEASURED = 0.5
"""Seconds in which the fastest product of matrices is looked for."""

DEVICES = Path("/dev")
TPUS = ("accel[0-9]*", "vfio/[0-9]*")
"""What a TPU's host has there, of older and of newer machines (on the latter any device that is passed through to a guest)."""

OF_DEVELOPERS = frozenset({"test"})


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is there to compute with.

    Attributes:
      backend: jax's: cpu, gpu or tpu.
      kind: of the devices, as jax says it.
      devices: how many there are.
      memory: free bytes of each.
      capability: a CUDA device's compute capability.
      host_ram: free bytes of the host's memory.
      disk: free bytes in the working directory.
      preset: that fits it; None where no preset is made for it.
      warning: what is probably wrong, as a sentence; None where nothing is.
    """

    backend: str
    kind: str
    devices: int
    memory: int
    capability: str | None
    host_ram: int
    disk: int
    preset: machines.Preset | None
    warning: str | None


def run(*, json: bool = False) -> None:
    """Shows what this machine has and which recipes fit it.

    Versions, devices, the dtypes that are chosen and why, free memory and disk, the extras that are installed, and for every recipe whether
    it fits and how long it takes, or what would make it fit. Nothing is downloaded, written or trained: memory and hours are estimates.

    Args:
      json: print one JSON object instead.

    Examples:
      zhllama doctor
      zhllama doctor --json > machine.json
    """
    found = machine()
    report: dict[str, Any] = {
        "versions": versions(),
        "extras": extras(),
        "machine": dataclasses.asdict(found),
        "dtypes": {
            "training": machines.training(found.backend, found.capability)._asdict(),
            "decoding": machines.decoding(found.backend, found.capability)._asdict(),
        },
        "recipes": sorted(_recipes(found), key=lambda one: one["device"]),
    }
    terminal.result(json_lib.dumps(report, indent=2, ensure_ascii=False) if json else text(report))


def versions() -> dict[str, str | None]:
    """The versions of what we stand on; None for what is not installed."""
    return {
        "zhllama-jax": zhllama_jax.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in LIBRARIES},
    }


def extras() -> dict[str, dict[str, Any]]:
    """The package's extras: what for, which distributions they need, which of those are missing; {} where the package is not installed."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        if extra := re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", requirement):
            found.setdefault(extra[1], []).append(re.split(r"[^\w.-]", requirement)[0])
    return {
        name: {"purpose": PURPOSES.get(name), "missing": [need for need in needs if _version(need) is None]}
        for name, needs in found.items()
        if name not in OF_DEVELOPERS
    }


def machine() -> Machine:
    """The devices that jax sees, and what of this host is free."""
    import jax

    host_ram, disk = free_ram(), shutil.disk_usage(Path.cwd()).free
    try:
        devices, failure = jax.devices(), None
    except RuntimeError as error:  # a plug-in that is installed and cannot start
        devices, failure = [], " ".join(str(error).split())[:300]
    if not devices or devices[0].platform == "cpu":
        warning = f"jax cannot use its accelerator: {failure}" if failure else _unused_accelerator()
        return Machine("cpu", "cpu", 1, host_ram, None, host_ram, disk, "cpu", warning)
    device = devices[0]
    chip = machines.of_kind(device.device_kind)
    stats = device.memory_stats() or {}
    memory = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0) or (round(chip.hbm * chip.usable) if chip else 0)
    capability = getattr(device, "compute_capability", None)
    preset = machines.preset_of(chip, len(devices)) if chip else None
    return Machine(device.platform, device.device_kind, len(devices), memory, capability, host_ram, disk, preset, None)


def free_ram() -> int:
    """Bytes of memory that are free or can be freed at once."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").split("\n"):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _unused_accelerator() -> str | None:
    """A sentence if there is an accelerator that jax does not see."""
    if any(DEVICES.glob("nvidia[0-9]*")):
        return 'there is an NVIDIA GPU that jax does not see: pip install "jax[cuda12]" of the installed version of jax (not on Colab)'
    if any(any(DEVICES.glob(name)) for name in TPUS):
        return 'there seems to be a TPU that jax does not see: pip install "jax[tpu]" (not on Colab), and end other programs that use it'
    return None


def _recipes(found: Machine) -> Iterator[dict[str, Any]]:
    """Every recipe with its verdict under this machine's preset; of a pipeline that of its hardest training, and the hours of all."""
    from zhllama_jax.train import fit

    peak = _peak(found)
    place = fit.Place(found.devices, found.memory, found.host_ram, found.disk, shared=found.backend == "cpu")
    for name, path in recipes.paths().items():
        trainings = list(_trainings(path, ["--dtype", _dtype(found)] if found.preset is None else ["--preset", found.preset]))
        verdicts = [fit.judge(experiment, config, place, length=length) for experiment, config, length in trainings]
        if verdicts:
            hardest = max(verdicts, key=lambda verdict: (len(verdict.lacks), verdict.device))
            hours = [fit.hours(experiment, config, peak=peak, length=length) for experiment, config, length in trainings]
            known = [one for one in hours if one is not None]
            told: dict[str, Any] = {"advice": advice(hardest, found), "flags": settings(hardest, found)}
            told["hours"] = round(sum(known), 2) if len(known) == len(hours) else None
            yield {"name": name, "verb": command(path), "file": str(path), **hardest._asdict(), **told}


def _peak(found: Machine) -> float:
    """FLOP/s of all devices: of their data sheet, or, for a CPU and what the table does not know, measured on products of matrices."""
    import jax
    import jax.numpy as jnp

    if chip := machines.of_kind(found.kind):
        return found.devices * chip.flops.get("bfloat16", chip.flops.get("float32", 0.0))
    side = 1024 if found.backend == "cpu" else 4096
    matrix = jnp.ones((side, side), _dtype(found))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()  # compiles
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - began < MEASURED:  # clocks rise, and other programs leave gaps
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return found.devices * 2 * side**3 / min(seconds)


def _of_peak(found: Machine) -> str:
    """Where `_peak` is from, as the end of the sentence on hours."""
    if machines.of_kind(found.kind):
        return "the devices' peak, computed, not measured"
    return "a peak that was measured just now on products of matrices; under other load it is lower and the hours are more"


def settings(verdict: "fit.Verdict", found: Machine) -> list[str]:
    """The flags under which a training was judged: of the machine, and what was made smaller until it fitted.

    Weights and batch are split over all devices, as presets do it; where there is none, the mesh has to be said.
    """
    if found.preset:
        words = ["--preset", found.preset]
    else:
        words = ["--dtype", _dtype(found), *(["--mesh.data", "1", "--mesh.fsdp", "-1"] if found.devices > 1 else [])]
    return [*words, "--micro_batch", str(verdict.micro_batch), "--remat", verdict.remat]


def _dtype(found: Machine) -> str:
    """What a training computes in where no preset says it."""
    return machines.training(found.backend, found.capability).dtype


def _trainings(path: Path, words: Sequence[str]) -> Iterator[tuple["train_config.Experiment", "model_config.LlamaConfig", int | None]]:
    """Experiment, model and length of rows (None: as the experiment says) of each training of a recipe, as far as its model is known.

    A pipeline's vocabulary is not known before it is made; it is taken for the paper's.
    """
    from zhllama_jax.adapt import config as adapt_config
    from zhllama_jax.cli import program
    from zhllama_jax.model import config as model_config_lib
    from zhllama_jax.train import config as train_config

    verb = command(path)
    if verb not in ("train", "adapt"):
        return
    [made], _ = flags.parse(verb, program.VERBS[verb], ["--config", str(path), *words])
    if isinstance(made, train_config.Experiment) and made.expects is not None:
        yield made, made.expects.llama(), None
    elif isinstance(made, adapt_config.Adapt) and made.base.init is not None:
        shape = made.base.init.llama(vocab_size=PIECES, base_vocab_size=model_config_lib.LLAMA_VOCAB_SIZE)
        for one in made.all_trainings:
            yield one.stand_in(**made.computing(one)), shape, made.sequence_length


def command(path: Path) -> str | None:
    """The verb that a recipe is for, as its header says it."""
    match = re.search(r"^#.*zhllama (\w+(?: \w+)*) --config", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else None


def advice(verdict: "fit.Verdict", found: Machine) -> str:
    """How to run what fits, or what would make the rest fit, as one phrase."""
    from zhllama_jax.train import fit

    if verdict.fits:
        return f"micro_batch {verdict.micro_batch}, remat {verdict.remat}"
    ways = []
    if {"device memory", fit.DIVIDES} & set(verdict.lacks):
        if verdict.chips and verdict.chips < found.devices:
            ways.append(f"mesh: {{data: 1, fsdp: {verdict.chips}}}, as {found.devices} devices do not divide batch and width")
        elif verdict.chips:
            ways.append(f"{verdict.chips} devices of this kind")
        elif found.backend == "cpu":
            ways.append(f"{size(verdict.device)} of memory, or an accelerator")
        else:
            ways.append("devices with more memory")
    if "host memory" in verdict.lacks:
        ways.append(f"{size(verdict.host)} of the host's memory to read the base")
    if "disk" in verdict.lacks:
        ways.append(f"{size(verdict.disk)} of disk (fewer with checkpoint.keep: 1)")
    return "needs " + " and ".join(ways)


def size(count: int) -> str:
    """Bytes in GiB."""
    return f"{count / machines.GIB:,.1f} GiB"


def duration(hours: float | None) -> str:
    """Hours, of few with a tenth; a dash for None."""
    return "–" if hours is None else f"{hours:,.1f}" if hours < 10 else f"{hours:,.0f}"


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    from zhllama_jax.train import fit

    known = report["versions"]
    found = Machine(**report["machine"])
    head = f"zhllama {known['zhllama-jax']}, Python {known['python']}, {known['system']}"
    libraries = ", ".join(f"{name} {known[name] or 'missing'}" for name in LIBRARIES)
    lines = [head, libraries, ""]
    each = f"{size(found.memory)} free" + (" each" if found.devices > 1 else "") if found.backend != "cpu" else f"{os.cpu_count()} cores"
    lines.append(f"devices   {found.devices} × {found.kind}, {each}")
    lines.append(f"host      {size(found.host_ram)} of memory free; {size(found.disk)} of disk free in {Path.cwd()}")
    lines += [f"{purpose:<10}{chosen['dtype']}: {chosen['why']}" for purpose, chosen in report["dtypes"].items()]
    note = machines.MACHINES[found.preset].note if found.preset else ""
    lines.append(f"preset    {found.preset or 'none is made for this machine: set dtype, remat, micro_batch and mesh yourself'}")
    lines += [f"          {note}"] if note else []
    lines += [f"warning   {found.warning}"] if found.warning else []
    lines += [*_extra_lines(report["extras"]), ""]
    if not report["recipes"]:
        return "\n".join([*lines, "no recipes were found beside the package"])
    rows = [("recipe", "fits", "hours", "device", "host", "disk", "")]
    rows += [
        (
            one["name"],
            "yes" if one["fits"] else "no",
            duration(one["hours"] if one["fits"] else None),
            size(one["device"]),
            size(one["host"]),
            size(one["disk"]),
            one["advice"],
        )
        for one in report["recipes"]
    ]
    lines += [
        terminal.table(rows, left=(0, 1, 6)),
        "",
        "Estimates per device, of reading the base, and of checkpoints and results; the base's own files come on top.",
        f"Hours at {100 * fit.UTILISATION:.0f} % of {_of_peak(found)}; a dash: no fit, or the data decide.",
        "What a device needs was compared with XLA's plans for small float32 models on a CPU alone.",
    ]
    fitting = next((one for one in report["recipes"] if one["fits"] and one["verb"] == "train"), None)
    if fitting and found.backend != "cpu":  # what fits a CPU's memory would still train for months there
        name, words = fitting["name"], " ".join(fitting["flags"])
        lines.append(f"Next: zhllama stages --config {name}, then zhllama train --config {name} {words}")
    else:
        lines.append("Next: zhllama demo --output runs/demo, the whole pipeline at a size that any machine trains in minutes")
    return "\n".join(lines)


def _extra_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each extra."""
    lines = []
    for name, extra in found.items():
        purpose = f" ({extra['purpose']})" if extra["purpose"] else ""
        state = f"not installed: pip install {' '.join(extra['missing'])}" if extra["missing"] else "installed"
        lines.append(f"extra     {name}{purpose}: {state}")
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
