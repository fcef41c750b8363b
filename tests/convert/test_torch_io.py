"""What torch.save writes is read bit for bit as torch.load reads it; what we write torch.load reads; nothing else is read at all."""

import json
import random
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference import torch_files as made
from zhllama_jax import files
from zhllama_jax.convert import safetensors_io, torch_io, torch_zip

torch = pytest.importorskip("torch")

REPOSITORY = Path(__file__).resolve().parents[2]


def bits(array: Any) -> bytes:
    """The bytes of an array or a tensor of theirs, in the order of the indices."""
    if isinstance(array, torch.Tensor):
        array = torch.empty(array.numel(), dtype=array.dtype).copy_(array.detach().flatten()).view(torch.uint8).numpy()
    return array.tobytes()


def agree(path: Path, theirs: dict[str, Any]) -> None:
    """Every tensor that torch has, we have: shape, dtype, bits."""
    with torch_io.Reader([path]) as reader:
        assert reader.entries.keys() == theirs.keys()
        for name, tensor in theirs.items():
            entry = reader.entries[name]
            assert entry.shape == tuple(tensor.shape) == reader.shapes[name]
            if entry.dtype in safetensors_io.DTYPES:
                found = reader.read(name)
                assert found.shape == entry.shape and found.flags.c_contiguous
                assert bits(found) == bits(tensor)
                assert safetensors_io.dtype_name(found.dtype) == entry.dtype
                assert entry.num_bytes == found.nbytes


def tensors(dtype: Any) -> dict[str, Any]:
    """Views of every kind: whole, offset, transposed, with gaps, broadcast within a storage, of one number, sharing."""
    whole = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5).to(dtype)
    return {
        "whole": whole,
        "offset": whole[1],
        "turned": whole.permute(2, 0, 1),
        "gaps": whole[:, ::2, 1::3],
        "column": whole[:, 2, 3],
        "one": whole[2, 3, 4],
        "same": whole,
        "thin": whole[:1, :, :1],
        "windows": torch.arange(10, dtype=torch.float32).to(dtype).unfold(0, 2, 1)[:5],
        "nan": torch.tensor([float("nan"), float("inf"), -0.0], dtype=torch.float32).to(dtype),
        "parameter": torch.nn.Parameter(torch.ones(2, 2, dtype=dtype)),
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_view_equals_torch(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(tensors(getattr(torch, dtype)), path)
    agree(path, torch.load(path, weights_only=True))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(OrderedDict(tensors(torch.float32)), path, pickle_protocol=protocol)
    agree(path, torch.load(path, weights_only=False))


def test_state_dict_of_a_module(tmp_path: Path) -> None:
    """With the versions of its modules, which hang on the dictionary as an attribute; and with counts, which are whole numbers."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).half()
    path = tmp_path / "x.bin"
    torch.save(module.state_dict(), path)
    agree(path, torch.load(path, weights_only=True))
    with torch_io.Reader([path]) as reader:
        assert reader.entries["1.num_batches_tracked"].dtype == "I64"
        with pytest.raises(ValueError, match=r"1\.num_batches_tracked is I64; weights are read from F32, F16, BF16"):
            reader.read("1.num_batches_tracked")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_are_torchs_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    """Any offset, shape and stride: torch's numbers; or an error where it has one too, or for what it accepts and never writes."""
    rank = data.draw(st.integers(0, 3))
    shape = data.draw(st.lists(st.integers(-1, 4), min_size=rank, max_size=rank))
    stride = data.draw(st.lists(st.integers(-1, 5), min_size=rank, max_size=rank))
    offset = data.draw(st.integers(-1, 7))
    path = tmp_path / "x.bin"
    path.write_bytes(made.archive(made.pickled(a=made.tensor(offset=offset, shape=shape, stride=stride))))
    try:
        theirs = torch.load(path, weights_only=True)
    except RuntimeError:
        theirs = None
    try:
        agree(path, theirs or {})
    except ValueError as error:
        assert theirs is None or not 0 < theirs["a"].numel() <= 6 or min(stride) < 0, str(error)
    else:
        assert theirs is not None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_mutants_are_refused_or_read_as_torch_reads_them(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = tmp_path / "mutant.bin"
    path.write_bytes(made.mutant(rng.choice(made.GOOD), rng))
    try:
        with torch_io.Reader([path]) as reader:
            ours = {name: reader.read(name) for name in reader.entries if reader.entries[name].dtype in safetensors_io.DTYPES}
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles of another protocol
        theirs = torch.load(path, weights_only=False, map_location="cpu")  # only what our own reader has found to be plain
    for key in ("model", "state_dict"):
        theirs = theirs[key] if isinstance(theirs.get(key), dict) else theirs
    for name, array in ours.items():
        assert bits(array) == bits(theirs[name])


def run_mutants(count: int, seed: int) -> str:
    words = [sys.executable, "-W", "error", str(REPOSITORY / "tests" / "reference" / "torch_files.py"), str(count), str(seed)]
    result = subprocess.run(
        words, capture_output=True, text=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, timeout=1500, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_mutants_touch_nothing() -> None:
    """Under an audit hook: no import, no call, no other file, no process, no connection."""
    assert run_mutants(5_000, 0).startswith("5000 mutants")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_mutants_touch_nothing(seed: int) -> None:
    assert run_mutants(25_000, seed).startswith("25000 mutants")


def test_gadgets_touch_nothing(tmp_path: Path) -> None:
    """Each in a file of its own, whole and behind a good tensor; a canary would show a call, the hook an import."""
    code = """
import sys
from pathlib import Path
from tests.reference import torch_files as made
from zhllama_jax.convert import torch_io
folder = Path(sys.argv[1])
files = []
for name, gadget in made.gadgets().items():
    for content in (gadget, made.pickled(a=made.tensor())[:-1] + gadget[2:], made.pickled(a=made.tensor(), b=gadget[2:-1])):
        files.append(folder / f"{len(files)}.bin")
        files[-1].write_bytes(made.archive(content))
events = []
sys.addaudithook(lambda event, arguments: events.append((event, *arguments[:1])))
for path in files:
    try:
        torch_io.Reader([path])
    except ValueError as error:
        refusal = str(error)
    else:
        raise AssertionError(path)
seen = set(events)
assert seen <= {("open", str(path)) for path in files} | {("open", path) for path in files}, seen
print(len(files))
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True, text=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout) > 500


REFUSED: dict[str, tuple[Any, str]] = {
    "no dictionary": ([torch.ones(1)], "it holds a value of type list, not a dictionary"),
    "a bare tensor": (torch.ones(1), "it holds a value of type Tensor, not a dictionary"),
    "nothing": ({}, "it holds no tensor"),
    "text among tensors": ({"a": torch.ones(1), "b": "x"}, "'b' is a value of type str, not a tensor"),
    "a nest among tensors": ({"a": torch.ones(1), "model": {"b": torch.ones(1)}}, "'model' is a value of type dict, not a tensor"),
    "an unknown nest": ({"weights": {"a": torch.ones(1)}}, "'weights' is a value of type dict, not a tensor. Expected is"),
    "two nests": ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, "under both model and state_dict"),
    "a nest in a nest": ({"model": {"model": {"a": torch.ones(1)}}}, "'model' is a value of type dict"),
    "an empty nest": ({"model": {}}, "it holds no tensor"),
    "a number as name": ({1: torch.ones(1)}, "'1' is not a tensor's name"),
    "a path as name": ({"../a": torch.ones(1)}, "'../a' is not a tensor's name"),
    "a line break in a name": ({"a\nb": torch.ones(1)}, "is not a tensor's name"),
    "no element": ({"a": torch.ones(0, 3)}, r"a has shape \[0, 3\], without a single element"),
    "an expanded tensor": ({"a": torch.ones(1).expand(5)}, "it is expanded, or damaged"),
    "8-bit floats": ({"a": torch.ones(1, dtype=torch.float8_e4m3fn)}, "'torch._utils._rebuild_tensor_v3', which a dictionary of"),
    "complex numbers": ({"a": torch.ones(1, dtype=torch.complex64)}, "'torch.ComplexFloatStorage'"),
    "a whole module": (torch.nn.Linear(1, 1), "'torch.nn.modules.linear.Linear'"),
    "arrays": ({"a": np.ones(1)}, "numpy"),
    "sparse": ({"a": torch.ones(2).to_sparse()}, "'torch._utils._rebuild_sparse_tensor'"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_other_contents_are_refused_by_name(case: str, tmp_path: Path) -> None:
    value, message = REFUSED[case]
    path = tmp_path / "x.bin"
    torch.save(value, path)
    with pytest.raises(ValueError, match=message) as error:
        torch_io.Reader([path])
    assert str(error.value).startswith(f"{path} is no file of plain tensors: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nest", ["model", "state_dict"])
def test_checkpoints_of_a_training_are_read_and_noted(nest: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    torch.save({"step": 7, nest: {"a": torch.arange(3.0)}, "optimizer": optimizer}, path)
    agree(path, {"a": torch.arange(3.0)})
    with torch_io.Reader([path], notes=["before"]) as reader:
        assert reader.notes == ["before", f"{path}: the tensors under {nest!r} are read; optimizer, step beside it left alone"]
    torch.save({nest: {"a": torch.arange(3.0)}}, path)
    with torch_io.Reader([path]) as reader:
        assert reader.notes == []


def test_other_formats_are_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before PyTorch 1\.6, .* save it anew .* with torch\.save\(torch\.load\("):
        torch_io.Reader([path])
    path.write_bytes(b"a" * 257 + b"ustar" + b"\0" * 600)
    with pytest.raises(ValueError, match=r"before PyTorch 1\.6"):
        torch_io.Reader([path])
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        torch_io.Reader([path])
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="is no PyTorch file: it does not begin like a zip"):
        torch_io.Reader([path])
    with pytest.raises(FileNotFoundError, match="expected a PyTorch file"):
        torch_io.Reader([tmp_path / "absent.bin"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (made.archive(made.pickled(a=made.tensor()), byteorder=b"big"), r"x\.bin has its bytes in the order b'big'"),
        (made.archive(made.pickled(a=made.tensor()), version=b"x\n"), r"x\.bin has the version b'x\\n'"),
        (made.archive(made.pickled(a=made.tensor()), {}), "describes storage 0, and has no data/0"),
        (made.archive(made.pickled(a=made.tensor()), {"0": made.FLOATS, "1": b""}), "has data/1, and does not say what that is"),
        (made.archive(made.pickled(a=made.tensor()), {"0": made.FLOATS[:-1]}), "data/0 has 23 bytes, which is not 6 numbers of F32"),
        (made.archive(b"\x80\x02" + b"N" * (2 << 20) + b"."), "out of proportion"),
    ],
)
def test_pickle_and_storages_must_agree(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        torch_io.Reader([path])


ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(5, dtype=np.float16),
    "c.weight": np.arange(4, dtype=np.float32).reshape(4, 1).astype(ml_dtypes.bfloat16),
    "d": np.array(3, np.float32),
}
PLAN = {name: (safetensors_io.dtype_name(array.dtype), array.shape) for name, array in ARRAYS.items()}


@pytest.mark.parametrize("wide", [False, True])
def test_written_files_are_torchs(wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide:  # as beyond 4 GB
        monkeypatch.setattr(torch_zip, "_WIDE_FROM", 5)
    path = tmp_path / "x.pth"
    written = torch_io.write(path, PLAN, ARRAYS.items())
    assert written.files == {"x.pth": {"sha256": files.sha256(path), "bytes": path.stat().st_size}}
    assert written.tensors == {name: safetensors_io.describe(array) for name, array in ARRAYS.items()}
    for mapped in (False, True):
        theirs = torch.load(path, weights_only=True, mmap=mapped)
        assert type(theirs) is OrderedDict
        assert list(theirs) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert (tuple(theirs[name].shape), theirs[name].is_contiguous()) == (array.shape, True)
            assert bits(theirs[name]) == bits(array)
            assert theirs[name].data_ptr() % 32 == 0
    agree(path, torch.load(path, weights_only=True))


def test_writer_takes_views_and_holds_one_tensor(tmp_path: Path) -> None:
    alive = []

    def stream() -> Iterable[tuple[str, np.ndarray]]:
        for number in range(4):
            alive.append(number)
            yield f"t{number}", np.arange(6, dtype=np.float32).reshape(2, 3).T + number

    torch_io.write(tmp_path / "x.bin", {f"t{number}": ("F32", (3, 2)) for number in range(4)}, stream())
    assert alive == [0, 1, 2, 3]
    with torch_io.Reader([tmp_path / "x.bin"]) as reader:
        np.testing.assert_array_equal(reader.read("t3"), np.arange(6, dtype=np.float32).reshape(2, 3).T + 3)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    names = list(ARRAYS)
    for number, part in enumerate((names[:2], names[2:]), 1):
        torch.save({name: torch.from_numpy(ARRAYS[name].astype(np.float32)) for name in part}, tmp_path / f"pytorch_model-{number}.bin")
    weight_map = {name: f"pytorch_model-{1 if name in names[:2] else 2}.bin" for name in names}
    total = sum(4 * array.size for array in ARRAYS.values())
    (tmp_path / torch_io.INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return tmp_path


def test_sharded_models(sharded: Path) -> None:
    with torch_io.open_model(sharded) as reader:
        assert reader.notes == []
        assert reader.file("d").name == "pytorch_model-2.bin"
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(reader.read(name), array.astype(np.float32))
    index = json.loads((sharded / torch_io.INDEX).read_text())
    index["weight_map"]["d"] = "pytorch_model-1.bin"
    (sharded / torch_io.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="disagree about d"):
        torch_io.open_model(sharded)
    (sharded / torch_io.SINGLE).write_bytes(b"")
    with pytest.raises(ValueError, match="holds both"):
        torch_io.open_model(sharded)


def test_single_files_and_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a Hugging Face model directory"):
        torch_io.open_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no PyTorch weights"):
        torch_io.open_model(tmp_path)
    torch_io.write(tmp_path / torch_io.SINGLE, PLAN, ARRAYS.items())
    with torch_io.open_model(tmp_path) as reader:
        assert list(reader.entries) == list(ARRAYS)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("x.bin", "y.bin"):
        torch_io.write(tmp_path / name, PLAN, ARRAYS.items())
    with pytest.raises(ValueError, match=r"a\.weight stands in both .*x\.bin and .*y\.bin"):
        torch_io.Reader([tmp_path / "x.bin", tmp_path / "y.bin"])


def test_damage_is_found_when_a_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    torch_io.write(path, PLAN, ARRAYS.items())
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["a.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with torch_io.Reader([path]) as reader:
        reader.read("d")
        with pytest.raises(ValueError, match="data/0 does not have its checksum"):
            reader.read("a.weight")
