"""The header check refuses what the library lets pass; the writer's files are the library's."""

import json
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from zhllama_jax import files
from zhllama_jax.convert import safetensors_io

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(5, dtype=np.float16),
    "c.weight": np.arange(4, dtype=np.float32).reshape(4, 1).astype(ml_dtypes.bfloat16),
    "d": np.array(3, np.float32),
}
PLAN = {name: (safetensors_io.dtype_name(array.dtype), array.shape) for name, array in ARRAYS.items()}


def raw(header: Any, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets), **more}


def refuse(tmp_path: Path, contents: bytes) -> str:
    path = tmp_path / "x.safetensors"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"x\.safetensors") as error:
        safetensors_io.header(path)
    return str(error.value)


HARMFUL: dict[str, Callable[[], bytes]] = {
    "empty file": lambda: b"",
    "no header": lambda: b"\0" * 8,
    "header longer than the file": lambda: (10**9).to_bytes(8, "little") + b"{}",
    "header of 2^63": lambda: (2**63).to_bytes(8, "little") + b"{}" * 50,
    "leading blank": lambda: raw(b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "no object": lambda: raw(b"[]"),
    "not UTF-8": lambda: raw(b'{"\xff":1}'),
    "deep nesting": lambda: raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "duplicate tensor": lambda: raw(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
    "duplicate field": lambda: raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "unknown field": lambda: raw({"a": entry(extra=1)}),
    "missing field": lambda: raw({"a": {"dtype": "F32", "shape": [2]}}),
    "unknown dtype": lambda: raw({"a": entry(dtype="F4")}),
    "dtype of another type": lambda: raw({"a": entry(dtype=["F32"])}),
    "path in the name": lambda: raw({"../a": entry()}),
    "dots in the name": lambda: raw({"a..b": entry()}),
    "NUL in the name": lambda: raw({"a\0": entry()}),
    "control character in the name": lambda: raw({"a\n": entry()}),
    "empty name": lambda: raw({"": entry()}),
    "boolean size": lambda: raw({"a": entry(shape=[True, 2])}),
    "negative size": lambda: raw({"a": entry(shape=[-1, -2])}),
    "fractional size": lambda: raw({"a": entry(shape=[2.0])}),
    "shape of another type": lambda: raw({"a": entry(shape="2")}),
    "65 dimensions": lambda: raw({"a": entry(shape=[1] * 64 + [2])}),
    "no element": lambda: raw({"a": entry(), "b": entry(shape=[0, 2**60], offsets=[8, 8])}),
    "overflowing size": lambda: raw({"a": entry(shape=[2**32, 2**32, 2])}),
    "bytes too few": lambda: raw({"a": entry(shape=[3])}),
    "backward offsets": lambda: raw({"a": entry(offsets=[8, 0])}),
    "three offsets": lambda: raw({"a": entry(offsets=[0, 8, 8])}),
    "negative offset": lambda: raw({"a": entry(offsets=[-8, 0])}),
    "overlap": lambda: raw({"a": entry(), "b": entry(shape=[1], offsets=[4, 8])}),
    "hole": lambda: raw({"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[1], offsets=[8, 12])}, b"\0" * 12),
    "trailing bytes": lambda: raw({"a": entry()}, b"\0" * 9),
    "cut short": lambda: raw({"a": entry()}, b"\0" * 7),
    "metadata of another type": lambda: raw({"__metadata__": {"format": 1}, "a": entry()}),
    "half a character in the metadata": lambda: raw({"__metadata__": {"\ud800": "pt"}, "a": entry()}),
    "metadata list": lambda: raw({"__metadata__": [], "a": entry()}),
    "many tensors": lambda: raw({f"a{number}": entry() for number in range(100_001)}),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_headers_are_refused(case: str, tmp_path: Path) -> None:
    refuse(tmp_path, HARMFUL[case]())


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    told = refuse(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 9976578928\n")
    assert "x.safetensors is only Git LFS's pointer to the file: fetch the file itself with `git lfs pull`" in told


def test_sound_header_passes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"b": entry(shape=[1], offsets=[4, 8]), "a": entry(shape=[1], offsets=[0, 4])}))
    assert list(safetensors_io.header(path)) == ["a", "b"]


def test_what_only_the_library_refuses_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'))
    with safetensors_io.Reader([path]) as reader, pytest.raises(ValueError, match=r"x\.safetensors is no valid safetensors file"):
        reader.read("a")


def test_header_refuses_or_agrees_with_the_library(tmp_path: Path) -> None:
    """Mutants of a good file: an error of ours, or the same tensors as the library sees."""
    good = safetensors.numpy.save(ARRAYS, {"format": "pt"})
    rng = random.Random(0)
    path = tmp_path / "mutant.safetensors"
    accepted = 0
    for _ in range(1500):
        mutant = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            position = rng.randrange(320)
            mutant[position] = rng.choice([rng.randrange(256), ord(rng.choice('0123456789{}[]",:'))])
        path.write_bytes(mutant)
        try:
            entries = safetensors_io.header(path)
        except ValueError:
            continue
        accepted += 1
        theirs = dict(safetensors.deserialize(bytes(mutant)))
        assert {name: (entry.dtype, list(entry.shape)) for name, entry in entries.items()} == {
            name: (value["dtype"], value["shape"]) for name, value in theirs.items()
        }
    assert accepted > 50


@pytest.mark.parametrize("shard_bytes", [10**9, 250, 1])
def test_written_files_are_read_by_the_library_and_by_us(tmp_path: Path, shard_bytes: int) -> None:
    written = safetensors_io.write(tmp_path, PLAN, ARRAYS.items(), shard_bytes=shard_bytes)
    count = {10**9: 1, 250: 2, 1: 4}[shard_bytes]
    assert len(written.files) == count
    theirs: dict[str, np.ndarray] = {}
    for name, said in written.files.items():
        path = tmp_path / name
        assert said == {"sha256": files.sha256(path), "bytes": path.stat().st_size}
        theirs |= safetensors.numpy.load_file(path)
        with safetensors.safe_open(path, framework="np") as library:
            assert library.metadata() == {"format": "pt"}
    with safetensors_io.open_model(tmp_path) as reader:
        assert reader.shapes == {name: array.shape for name, array in ARRAYS.items()}
        assert reader.notes == []
        for name, array in ARRAYS.items():
            for found in (reader.read(name), theirs[name]):
                assert found.dtype == array.dtype
                assert found.tobytes() == array.tobytes()
            assert written.tensors[name] == safetensors_io.describe(reader.read(name))
    if count > 1:
        index = json.loads((tmp_path / safetensors_io.INDEX).read_text())
        assert index["metadata"] == {"total_size": 24 + 10 + 8 + 4, "total_parameters": 6 + 5 + 4 + 1}


def test_writer_takes_views_and_holds_one_tensor(tmp_path: Path) -> None:
    alive = []

    def stream() -> Iterable[tuple[str, np.ndarray]]:
        for number in range(4):
            alive.append(number)
            yield f"t{number}", np.arange(6, dtype=np.float32).reshape(2, 3).T + number

    safetensors_io.write(tmp_path, {f"t{number}": ("F32", (3, 2)) for number in range(4)}, stream(), shard_bytes=250)
    assert alive == [0, 1, 2, 3]
    with safetensors_io.open_model(tmp_path) as reader:
        np.testing.assert_array_equal(reader.read("t3"), np.arange(6, dtype=np.float32).reshape(2, 3).T + 3)


@pytest.mark.parametrize("shard_bytes", [0, 150, 200, 1000, 3000, 100_000])
def test_no_shard_is_larger_than_asked_for_unless_one_tensor_is(tmp_path: Path, shard_bytes: int) -> None:
    """Header and all."""
    plan = {f"layer.{number}.weight": ("F16", (number + 1, 5)) for number in range(40)}
    written = safetensors_io.write(
        tmp_path, plan, ((name, np.zeros(shape, np.float16)) for name, (_, shape) in plan.items()), shard_bytes=shard_bytes
    )
    sizes = {name: (tmp_path / name).stat().st_size for name in written.files}
    tensors = {name: len(safetensors_io.header(tmp_path / name)) for name in written.files}
    assert all(size <= shard_bytes or tensors[name] == 1 for name, size in sizes.items())
    assert shard_bytes < 1000 or max(sizes.values()) > 0.8 * min(shard_bytes, sum(sizes.values())), "and they are filled"


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"a": ("F32", (1000,))}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3999))
    with pytest.raises(OSError, match=r"No space left on device: 4,000 bytes are to be written, 3,999 are free") as caught:
        safetensors_io.write(tmp_path, plan, iter([]))
    assert caught.value.filename == str(tmp_path) and list(tmp_path.iterdir()) == []


def test_a_disk_that_becomes_full_is_told_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: [\d,]+ bytes are to be written, [\d,]+ are free") as caught:
        safetensors_io.write(tmp_path, {"a": ("F32", (1000,))}, [("a", np.zeros(1000, np.float32))])
    assert caught.value.filename == str(tmp_path / "model.safetensors")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    safetensors_io.write(tmp_path, PLAN, ARRAYS.items(), shard_bytes=1)
    return tmp_path


INDICES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "parent folder": (lambda index: index["weight_map"].update(d="../x.safetensors"), "not the plain name"),
    "absolute": (lambda index: index["weight_map"].update(d="/etc/x.safetensors"), "not the plain name"),
    "folder": (lambda index: index["weight_map"].update(d="a/b.safetensors"), "not the plain name"),
    "other suffix": (lambda index: index["weight_map"].update(d="x.bin"), "not the plain name"),
    "no text": (lambda index: index["weight_map"].update(d=3), "not the plain name"),
    "missing shard": (lambda index: index["weight_map"].update(d="y.safetensors"), "not found"),
    "tensor not in its shard": (lambda index: index["weight_map"].update(d=index["weight_map"]["a.weight"]), "disagree about d"),
    "tensor that no shard has": (lambda index: index["weight_map"].update(e=index["weight_map"]["d"]), "disagree about e"),
    "tensor left out": (lambda index: index["weight_map"].pop("d") and index["weight_map"].update(e="x.safetensors"), "not found"),
    "no map": (lambda index: index.pop("weight_map"), "no weight_map"),
}


@pytest.mark.parametrize("case", INDICES)
def test_index_must_agree_with_the_shards(case: str, sharded: Path) -> None:
    change, message = INDICES[case]
    index = json.loads((sharded / safetensors_io.INDEX).read_text())
    change(index)
    (sharded / safetensors_io.INDEX).write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        safetensors_io.open_model(sharded)


def test_wrong_total_size_is_only_noted(sharded: Path) -> None:
    index = json.loads((sharded / safetensors_io.INDEX).read_text())
    index["metadata"]["total_size"] = 7
    (sharded / safetensors_io.INDEX).write_text(json.dumps(index))
    with safetensors_io.open_model(sharded) as reader:
        assert len(reader.notes) == 1
        assert "total_size 7" in reader.notes[0]


def test_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"a\.weight stands in both"):
        safetensors_io.Reader([shards[0], shards[0]])


def test_directories_without_safetensors_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a Hugging Face model directory"):
        safetensors_io.open_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        safetensors_io.open_model(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors\.index\.json"):
        safetensors_io.open_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"PyTorch files \(pytorch_model\.bin …\); weights are read from safetensors"):
        safetensors_io.open_model(tmp_path)


def test_single_file_beside_an_index_is_refused(sharded: Path) -> None:
    (sharded / safetensors_io.SINGLE).write_bytes(b"")
    with pytest.raises(ValueError, match="holds both"):
        safetensors_io.open_model(sharded)


def test_weights_of_other_dtypes_are_named(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.arange(3)}, tmp_path / safetensors_io.SINGLE)
    with safetensors_io.open_model(tmp_path) as reader, pytest.raises(ValueError, match="a is I64; weights are read from F32, F16, BF16"):
        reader.read("a")


def test_a_closed_reader_maps_nothing_again(sharded: Path) -> None:
    with safetensors_io.open_model(sharded) as reader:
        kept = reader.read("b.weight")
    np.testing.assert_array_equal(kept, ARRAYS["b.weight"])
    for name in ("a.weight", "b.weight"):
        with pytest.raises(AssertionError, match="the files are closed"):
            reader.read(name)


@pytest.mark.parametrize("dtype", safetensors_io.DTYPES)
def test_numbers_that_are_none_are_counted(dtype: str) -> None:
    kind = safetensors_io.DTYPES[dtype]
    finite = ml_dtypes.finfo(kind)
    numbers = np.array([[0, -0.0, finite.max], [finite.min, finite.tiny, finite.smallest_subnormal]], kind)
    assert safetensors_io.not_finite(numbers) == 0
    large = np.ones((1200, 1001), kind)
    large[0, 3], large[-1, -1], large[700, 7] = np.nan, -np.inf, np.inf
    assert safetensors_io.not_finite(large) == safetensors_io.not_finite(large.T) == 3
