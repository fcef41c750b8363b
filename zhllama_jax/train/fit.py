"""Whether a training fits a machine, with which settings, and what would make it fit: arithmetic on shapes, see `memory`."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from zhllama_jax.model import config as model_config
from zhllama_jax.train import config as config_lib
from zhllama_jax.train import flops, memory, stages

HEADROOM = 0.9
"""Share of the free memory that an estimate may fill."""

MOST_CHIPS = 512

DIVIDES = "a number of devices that divides batch and width"
"""What a training lacks whose mesh would be refused: every device takes as many sequences, and as much of each weight, as any other."""

UTILISATION = 0.3
"""Share of the devices' peak that a training is taken to reach."""

STORED = 2
"""Bytes of a weight of a released model, float16 or bfloat16."""

STATE = 12
"""Bytes of a trainable in a checkpoint: itself and two moments, float32."""


class Place(NamedTuple):
    """What a machine has.

    Attributes:
      devices: accelerators, or 1 for a CPU.
      memory: free bytes of each.
      host_ram: free bytes of the host.
      disk: free bytes where results are written.
      shared: whether the devices' memory is the host's, as on a CPU.
    """

    devices: int
    memory: int
    host_ram: int
    disk: int
    shared: bool = False


class Verdict(NamedTuple):
    """Whether a training fits.

    Attributes:
      fits: with the settings below.
      micro_batch: sequences that a device takes at a time.
      remat: what is recomputed.
      device: bytes that each device needs so.
      host: bytes that the host needs while weights are read and cast.
      disk: bytes that the run writes: checkpoints, and what it learns.
      chips: how many of these devices would do where another number helps; None where none does.
      lacks: what there is too little of: "device memory", "host memory", "disk"; or `DIVIDES`.
    """

    fits: bool
    micro_batch: int
    remat: str
    device: int
    host: int
    disk: int
    chips: int | None
    lacks: tuple[str, ...]


def judge(experiment: config_lib.Experiment, config: model_config.LlamaConfig, place: Place, *, length: int | None = None) -> Verdict:
    """Tries the experiment's own settings, then smaller micro-batches, then full recomputation, over all devices of a place.

    Args:
      experiment: what is to be trained; its dtype is kept, its mesh is not looked at.
      config: the model's shape.
      place: the machine.
      length: tokens of a row; None takes what the experiment says.
    """
    length = length or row_length(experiment)
    weights = memory.shapes(config, experiment.choice, experiment.lora)
    sizes = {path: stages.logical_size(path, leaf.shape, config) for path, leaf in weights.leaves.items()}
    total, trainable = sum(sizes.values()), sum(size for path, size in sizes.items() if weights.mask[path])
    host = total * (STORED + memory.BYTES[experiment.dtype])  # as stored, and cast
    disk = trainable * (STATE * (experiment.checkpoint.keep + 1) + 4)
    room = round(HEADROOM * place.memory)
    reading = total * STORED if place.shared else 0

    def needed(devices: int, micro_batch: int, remat: str) -> int:
        return _needed(experiment, config, weights, devices, micro_batch, remat, length)

    tried = [
        (micro_batch, remat, needed(place.devices, micro_batch, remat) + reading)
        for remat, micro_batch in _settings(experiment, place.devices, length)
    ]
    fitting = next((one for one in tried if one[2] <= room), None)
    micro_batch, remat, least = fitting or min(tried, key=lambda one: one[2])
    dividing = _divides(config, experiment.batch_rows(length), place.devices)
    lacks = [] if fitting else ["device memory"]
    lacks += [] if dividing else [DIVIDES]
    lacks += ["host memory"] if not place.shared and host > HEADROOM * place.host_ram else []
    lacks += ["disk"] if disk > HEADROOM * place.disk else []
    chips = None if (fitting and dividing) or place.shared else _chips(experiment, config, place, length, needed, room)
    return Verdict(not lacks, micro_batch, remat, least, host, disk, chips, tuple(lacks))


def hours(experiment: config_lib.Experiment, config: model_config.LlamaConfig, *, peak: float, length: int | None = None) -> float | None:
    """How long a training takes at `UTILISATION` of a peak; None where only its data would say how many steps it has.

    Args:
      experiment: what is to be trained.
      config: the model's shape.
      peak: FLOP/s of all devices together.
      length: tokens of a row; None takes what the experiment says.
    """
    length = length or row_length(experiment)
    one_each = all(source.sft and source.sft.packing == "one" and source.share.max_rows for source in experiment.data.sources)
    if experiment.epochs is not None and not one_each:
        return None
    rows = sum(source.share.max_rows or 0 for source in experiment.data.sources)
    tokens = experiment.num_steps(rows=rows, length=length) * experiment.batch_rows(length) * length
    weights = memory.shapes(config, experiment.choice, experiment.lora)
    return tokens * flops.per_token(config, weights.leaves, weights.mask, length=length) / (UTILISATION * peak) / 3600


def row_length(experiment: config_lib.Experiment) -> int:
    """Tokens of a row, as far as the experiment says; 512 for stores, which are not opened here."""
    found = [data.length for source in experiment.data.sources if (data := source.text or source.sft) is not None]
    return max(found, default=512)


def _settings(experiment: config_lib.Experiment, devices: int, length: int) -> Iterator[tuple[str, int]]:
    """(remat, micro-batch) in the order in which they are tried."""
    share = max(1, experiment.batch_rows(length) // devices)
    most = min(experiment.micro_batch or share, share)
    for remat in dict.fromkeys((experiment.remat, "full")):
        micro_batch = most
        while micro_batch >= 1:
            yield remat, micro_batch
            micro_batch //= 2


def _needed(
    experiment: config_lib.Experiment,
    config: model_config.LlamaConfig,
    weights: memory.Shapes,
    devices: int,
    micro_batch: int,
    remat: str,
    length: int,
) -> int:
    """Bytes per device with weights and batch split over all of them."""
    share = experiment.batch_rows(length) // devices
    return memory.estimate(
        config,
        experiment.choice,
        experiment.lora,
        config_lib.Mesh(data=1, fsdp=devices, tensor=1),
        micro_batch=micro_batch,
        length=length,
        dtype=experiment.dtype,
        remat=remat,
        loss_chunk=experiment.loss_chunk,
        accumulation=max(1, share // micro_batch),
        weights=weights,
    ).total


def _chips(
    experiment: config_lib.Experiment,
    config: model_config.LlamaConfig,
    place: Place,
    length: int,
    needed: Callable[[int, int, str], int],
    room: int,
) -> int | None:
    """The most of the chips that are there, or else the fewest more, on which one sequence at a time fits under full recomputation."""
    batch = experiment.batch_rows(length)
    numbers = itertools.chain(range(place.devices - 1, 0, -1), range(place.devices + 1, MOST_CHIPS + 1))
    return next((chips for chips in numbers if _divides(config, batch, chips) and needed(chips, 1, "full") <= room), None)


def _divides(config: model_config.LlamaConfig, batch: int, chips: int) -> bool:
    """Whether weights and batch can be split over so many chips."""
    return config.hidden_size % chips == 0 and batch % chips == 0
