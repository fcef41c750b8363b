"""The mesh: shapes that use up the devices, and clear words for those that do not."""

import jax
import pytest
from jax.sharding import AxisType

from zhllama_jax.shard import mesh


def test_one_axis_takes_what_is_left() -> None:
    assert dict(mesh.make().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(mesh.make(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh.make(1, 2, 1).devices.tolist() == [[[device] for device in jax.devices()[:2]]]
    assert dict(mesh.make(1, 2, 2, devices=jax.devices()[:4]).shape) == {"data": 1, "fsdp": 2, "tensor": 2}


def test_axes_are_auto() -> None:
    assert set(mesh.make().axis_types) == {AxisType.Auto}


def test_a_batch_is_split_over_data_and_fsdp() -> None:
    assert mesh.batch_shards(mesh.make(2, 2, 2)) == 4


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((-1, 3, 1), "8 devices are not divisible by 3"),
        ((4, 4, 1), "takes 16 devices, but there are 8"),
        ((-1, -1, 1), "at most one"),
        ((0, 8, 1), "above 0"),
    ],
)
def test_shapes_that_do_not_fit(shape, words) -> None:
    with pytest.raises(ValueError, match=words):
        mesh.make(*shape)
