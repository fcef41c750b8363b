"""The reader refuses what lies, at once and by name; the writer's files are, byte for byte, the library's."""

import errno
import random
import re
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from zhllama_jax import files
from zhllama_jax.convert import gguf_file, gguf_quant, sink

gguf = pytest.importorskip("gguf")

ARRAYS = {
    "token_embd.weight": np.arange(128, dtype=np.float32).reshape(2, 64),
    "output_norm.weight": np.arange(5, dtype=np.float32),
    "blk.0.attn_q.weight": np.arange(96, dtype=np.float32).reshape(3, 32) - 7,
}
STORED = dict(zip(ARRAYS, ("Q4_0", "F32", "Q8_0"), strict=True))
PLAN = {name: (STORED[name], array.shape) for name, array in ARRAYS.items()}
METADATA: dict[str, gguf_file.Value] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.rope.freq_base": 0.5,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<unk>", "▁中文", ""],
    "tokenizer.ggml.scores": np.array([0, -1.5, 3], np.float32),
    "tokenizer.ggml.token_type": np.array([2, 1, 1], np.int32),
    "zhllama.double": np.array([0.1], np.float64),
    "empty": np.array([], np.int32),
}


def encoded() -> Any:
    return ((name, gguf_quant.encode(array, STORED[name])) for name, array in ARRAYS.items())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file."""
    path = tmp_path_factory.mktemp("good") / "model.gguf"
    gguf_file.write(path, METADATA, PLAN, encoded())
    return path


def test_a_file_is_byte_for_byte_the_librarys(good: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    writer.add_block_count(3)
    writer.add_rope_freq_base(0.5)
    writer.add_add_bos_token(True)
    writer.add_token_list(METADATA["tokenizer.ggml.tokens"])
    writer.add_token_scores([0.0, -1.5, 3.0])
    writer.add_token_types([2, 1, 1])
    values = gguf.GGUFValueType
    writer.add_key_value("zhllama.double", [0.1], values.ARRAY, sub_type=values.FLOAT64)
    for name, array in ARRAYS.items():
        kind = gguf.GGMLQuantizationType[STORED[name]]
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # The library cannot write an empty array.
    said = gguf_file.write(tmp_path / "ours.gguf", {key: value for key, value in METADATA.items() if key != "empty"}, PLAN, encoded())
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    assert said == {"sha256": files.sha256(tmp_path / "ours.gguf"), "bytes": (tmp_path / "ours.gguf").stat().st_size}
    assert (tmp_path / "ours.gguf").stat().st_size % gguf_file.ALIGNMENT == 0


def test_what_was_written_is_read(good: Path) -> None:
    metadata, tensors = gguf_file.read(good)
    assert list(metadata) == list(METADATA)
    for key, value in METADATA.items():
        if isinstance(value, np.ndarray):
            assert metadata[key].dtype == value.dtype
            np.testing.assert_array_equal(metadata[key], value)
        else:
            assert type(metadata[key]) is type(value)
            assert metadata[key] == value
    contents = good.read_bytes()
    for (name, octets), (found, entry) in zip(encoded(), tensors.items(), strict=True):
        assert (found, entry.dtype, entry.shape) == (name, *PLAN[name])
        assert contents[entry.begin : entry.end] == octets.tobytes()


def test_the_library_reads_the_same(good: Path) -> None:
    theirs = gguf.GGUFReader(good)
    metadata, tensors = gguf_file.read(good)
    assert [tensor.name for tensor in theirs.tensors] == list(tensors)
    for tensor in theirs.tensors:
        entry = tensors[tensor.name]
        assert (tensor.tensor_type.name, tuple(tensor.shape)[::-1], tensor.data_offset, tensor.n_bytes) == (
            entry.dtype,
            entry.shape,
            entry.begin,
            entry.end - entry.begin,
        )
    assert theirs.fields["tokenizer.ggml.tokens"].contents() == metadata["tokenizer.ggml.tokens"]
    assert theirs.fields["llama.block_count"].contents() == metadata["llama.block_count"]


def test_all_types_of_values_are_read(tmp_path: Path) -> None:
    """Those that we do not write too."""
    codes = {0: ("B", 200), 1: ("b", -3), 2: ("H", 60_000), 3: ("h", -300), 4: ("I", 2**32 - 1), 5: ("i", -(2**31))}
    codes |= {6: ("f", 0.5), 10: ("Q", 2**64 - 1), 11: ("q", -(2**63)), 12: ("d", 1e300)}
    single = b"".join(text(f"a{number}") + struct.pack(f"<I{code}", number, value) for number, (code, value) in codes.items())
    arrays = b"".join(text(f"b{number}") + struct.pack(f"<IIQ2{code}", 9, number, 2, value, 1) for number, (code, value) in codes.items())
    truth = text("c") + struct.pack("<I?", 7, True) + text("d") + struct.pack("<IIQ3?", 9, 7, 3, True, False, True)
    path = tmp_path / "x.gguf"
    path.write_bytes(raw(keys=2 * len(codes) + 2, body=single + arrays + truth))
    metadata, _ = gguf_file.read(path)
    for number, (code, value) in codes.items():
        assert metadata[f"a{number}"] == value
        assert metadata[f"b{number}"].tolist() == [value, 1]
        assert metadata[f"b{number}"].dtype == np.dtype(f"<{code}")
    assert metadata["c"] is True
    assert metadata["d"].tolist() == [True, False, True]


def text(value: str | bytes) -> bytes:
    octets = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(octets)) + octets


def raw(*, tensors: int = 0, keys: int = 0, body: bytes = b"", data: bytes = b"", version: int = 3, align: int = 32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body
    return head + (bytes(-len(head) % align) + data if tensors else b"")


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, value: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + value


def tensor(name: str | bytes = "a", dims: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0, num_dims: int | None = None) -> bytes:
    lengths = struct.pack(f"<{len(dims)}Q", *dims)
    return text(name) + struct.pack("<I", len(dims) if num_dims is None else num_dims) + lengths + struct.pack("<IQ", kind, offset)


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "another format": (lambda: b"GGML" + bytes(99), "does not begin with GGUF"),
    "cut in the head": (lambda: b"GGUF\3\0\0\0\0", "ends within a number"),
    "version 1": (lambda: raw(version=1), "version is 1"),
    "big-endian": (lambda: raw(version=3 << 24), "big-endian"),
    "2^63 keys": (lambda: raw(keys=2**63), "claims 9,223,372,036,854,775,808 keys"),
    "2^64 - 1 tensors": (lambda: raw(tensors=2**64 - 1), "claims 18,446,744,073,709,551,615 tensors"),
    "more keys than bytes": (lambda: raw(keys=9_000), "more than there is room for"),
    "more tensors than bytes": (lambda: raw(tensors=90_000), "more than there is room for"),
    "key of 2^63 bytes": (lambda: raw(keys=1, body=struct.pack("<Q", 2**63) + bytes(50)), "bytes of a key"),
    "key of more than the file": (lambda: raw(keys=1, body=struct.pack("<Q", 99) + bytes(50)), "bytes of a key"),
    "text of 2^63 bytes": (lambda: raw(keys=1, body=key("a", 8, struct.pack("<Q", 2**63) + bytes(50))), "bytes of a, allowed"),
    "duplicate key": (lambda: raw(keys=2, body=key("a", 0, b"\0") * 2), "the key a stands there twice"),
    "key with a path": (lambda: raw(keys=1, body=key("../a", 0, b"\0")), "is not a key"),
    "key that is not UTF-8": (lambda: raw(keys=1, body=key(b"\xff", 0, b"\0")), "not UTF-8"),
    "text that is not UTF-8": (lambda: raw(keys=1, body=key("a", 8, text(b"\xed\xa0\x80"))), "a is not UTF-8"),
    "unknown type of a value": (lambda: raw(keys=1, body=key("a", 13, bytes(8))), "unknown type 13"),
    "truth value of 2": (lambda: raw(keys=1, body=key("a", 7, b"\2")), "truth value of 2"),
    "truth values of 2": (lambda: raw(keys=1, body=key("a", 9, array(7, 2, b"\1\2"))), "truth value of 2"),
    "array of arrays": (lambda: raw(keys=1, body=key("a", 9, array(9, 1, array(9, 1)) + bytes(50))), "array of arrays"),
    "deeply nested arrays": (lambda: raw(keys=1, body=key("a", 9, array(9, 1) * 100_000)), "array of arrays"),
    "array of an unknown type": (lambda: raw(keys=1, body=key("a", 9, array(99, 1, bytes(9)))), "unknown type 99"),
    "array of 2^63": (lambda: raw(keys=1, body=key("a", 9, array(12, 2**63, bytes(9)))), "numbers in a, allowed"),
    "array longer than the file": (lambda: raw(keys=1, body=key("a", 9, array(12, 3, bytes(23)))), "more than there is room for"),
    "strings of 2^61": (lambda: raw(keys=1, body=key("a", 9, array(8, 2**61, bytes(99)))), "strings in a, allowed"),
    "more strings than bytes": (lambda: raw(keys=1, body=key("a", 9, array(8, 400_000, bytes(99)))), "more than there is room for"),
    "a string beyond the end": (lambda: raw(keys=1, body=key("a", 9, array(8, 2, text("b") + struct.pack("<Q", 9)))), "bytes of a"),
    "alignment 0": (lambda: raw(keys=1, body=key("general.alignment", 4, bytes(4))), "power of two"),
    "alignment 2^30": (lambda: raw(keys=1, body=key("general.alignment", 4, struct.pack("<I", 1 << 30))), "power of two"),
    "alignment 24": (lambda: raw(keys=1, body=key("general.alignment", 4, struct.pack("<I", 24))), "power of two"),
    "alignment as text": (lambda: raw(keys=1, body=key("general.alignment", 8, text("32"))), "power of two"),
    "2^32 - 1 dimensions": (lambda: raw(tensors=1, body=tensor(num_dims=2**32 - 1)), "4,294,967,295 dimensions"),
    "no dimension": (lambda: raw(tensors=1, body=tensor(num_dims=0)), "0 dimensions"),
    "no element": (lambda: raw(tensors=1, body=tensor(dims=(2**60, 0))), "without a single element"),
    "overflowing product": (lambda: raw(tensors=1, body=tensor(dims=(2**32, 2**32, 2)), data=bytes(8)), "cut short"),
    "product of 2^64 and a bit": (lambda: raw(tensors=1, body=tensor(dims=(2**62 + 2, 4)), data=bytes(64)), "cut short"),
    "unknown type of a tensor": (lambda: raw(tensors=1, body=tensor(kind=999), data=bytes(8)), "unknown type 999"),
    "type that was removed": (lambda: raw(tensors=1, body=tensor(kind=4), data=bytes(8)), "unknown type 4"),
    "half a block": (lambda: raw(tensors=1, body=tensor(dims=(40,), kind=2), data=bytes(64)), "no multiple of 32"),
    "duplicate tensor": (lambda: raw(tensors=2, body=tensor() + tensor(offset=32), data=bytes(64)), "the tensor a stands there twice"),
    "path in the name": (lambda: raw(tensors=1, body=tensor("../a"), data=bytes(8)), "is not a tensor's name"),
    "dots in the name": (lambda: raw(tensors=1, body=tensor("a..b"), data=bytes(8)), "is not a tensor's name"),
    "NUL in the name": (lambda: raw(tensors=1, body=tensor("a\0"), data=bytes(8)), "is not a tensor's name"),
    "long name": (lambda: raw(tensors=1, body=tensor("a" * 65), data=bytes(8)), "is not a tensor's name"),
    "offset past the end": (lambda: raw(tensors=1, body=tensor(offset=2**40), data=bytes(8)), "begin at 1,099,511,627,776"),
    "offset of 2^64 - 32": (lambda: raw(tensors=1, body=tensor(offset=2**64 - 32), data=bytes(8)), "begin at"),
    "crooked offset": (lambda: raw(tensors=1, body=tensor(offset=4), data=bytes(12)), "begin at 4, not at 0"),
    "overlap": (lambda: raw(tensors=2, body=tensor() + tensor("b"), data=bytes(64)), "begin at 0, not at 32"),
    "hole": (lambda: raw(tensors=2, body=tensor() + tensor("b", offset=64), data=bytes(96)), "begin at 64, not at 32"),
    "cut short": (lambda: raw(tensors=1, body=tensor(), data=bytes(7)), "cut short"),
    "cut before the numbers": (lambda: raw(tensors=1, body=tensor(), data=b"")[:-3], "cut short"),
    "something behind": (lambda: raw(tensors=1, body=tensor(), data=bytes(33)), "something behind"),
    "something behind nothing": (lambda: raw(body=bytes(40)), "something behind"),
    "something behind few keys": (lambda: raw(keys=1, body=key("a", 0, b"\0") + bytes(32)), "something behind"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful_files_are_refused_at_once(case: str, tmp_path: Path) -> None:
    make, message = HARMFUL[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(make())
    started = time.process_time()
    with pytest.raises(ValueError, match=rf"x\.gguf is no GGUF file: .*{re.escape(message)}"):
        gguf_file.read(path)
    assert time.process_time() - started < 0.1


def test_what_is_not_there_and_a_folder_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a GGUF file"):
        gguf_file.read(tmp_path / "absent.gguf")
    with pytest.raises(ValueError, match="is a folder"):
        gguf_file.read(tmp_path)


@pytest.mark.parametrize(("version", "align"), [(2, 32), (3, 8), (3, 256)])
def test_other_alignments_and_version_2_are_read(version: int, align: int, tmp_path: Path) -> None:
    aligned = key("general.alignment", 4, struct.pack("<I", align))
    body = aligned + tensor("a", (3,)) + tensor("b", (1,), offset=max(align, 16))
    (tmp_path / "x.gguf").write_bytes(raw(version=version, tensors=2, keys=1, body=body, data=bytes(max(align, 16) + 4), align=align))
    _, tensors = gguf_file.read(tmp_path / "x.gguf")
    assert [entry.end - entry.begin for entry in tensors.values()] == [12, 4]
    assert all(entry.begin % align == 0 for entry in tensors.values())


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def stream() -> Any:
        yield from list(encoded())[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gguf_file.write(tmp_path / "x.gguf", METADATA, PLAN, stream())
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_told_before_anything_is_written(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = good.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size - 1))
    told = f"No space left on device: {size:,} bytes are to be written, {size - 1:,} are free"
    with pytest.raises(OSError, match=told) as caught:
        gguf_file.write(tmp_path / "x.gguf", METADATA, PLAN, iter([]))
    assert caught.value.filename == str(tmp_path / "x.gguf") and not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    gguf_file.write(tmp_path / "x.gguf", METADATA, PLAN, encoded())


def test_a_disk_that_becomes_full_is_told_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink.Sink, "finish", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: [\d,]+ bytes are to be written, [\d,]+ are free"):
        gguf_file.write(tmp_path / "x.gguf", METADATA, PLAN, encoded())
    assert not list(tmp_path.iterdir())


def full_disk(_: sink.Sink) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_number_beyond_32_bits_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llama\.context_length = 4294967296 does not fit"):
        gguf_file.write(tmp_path / "x.gguf", {"llama.context_length": 1 << 32}, {}, [])


def examine(contents: bytes) -> bool:
    """Whether mutated contents are accepted; then all places must lie in the file. Nothing else than our errors may come."""
    try:
        metadata, tensors = gguf_file.parse(contents)
    except ValueError:
        return False
    assert all(0 < entry.begin < entry.end <= len(contents) for entry in tensors.values())
    assert all(entry.end - entry.begin == gguf_quant.num_bytes(entry.shape, entry.dtype) for entry in tensors.values())
    assert len(metadata) < 100
    return True


def mutant(good: bytes, rng: random.Random) -> bytes:
    """A good file with bytes changed, numbers made extreme, pieces cut out, doubled or swapped."""
    result = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(result))
        kind = rng.randrange(5)
        if kind == 0:
            result[place] = rng.randrange(256)
        elif kind == 1:
            extreme = rng.choice([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, rng.randrange(300)])
            result[place : place + 8] = struct.pack("<Q", extreme)
        elif kind == 2:
            del result[place : place + rng.randint(1, 40)]
        elif kind == 3:
            result[place:place] = result[place : place + rng.randint(1, 40)]
        else:
            result[place] ^= 1 << rng.randrange(8)
    return bytes(result)


def fuzz(good: Path, count: int, seed: int) -> None:
    """Reads `count` mutants: none takes two seconds, none more memory than twice its size and 64 MB."""
    contents, rng = good.read_bytes(), random.Random(seed)
    accepted, slowest, peak = 0, 0.0, 0
    tracemalloc.start()
    try:
        for number in range(count):
            if number == count // 10:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()  # it makes everything slow
            started = time.process_time()
            accepted += examine(mutant(contents, rng))
            slowest = max(slowest, time.process_time() - started)
    finally:
        tracemalloc.stop()
    assert slowest < 2
    assert 0 < peak < 2 * len(contents) + (64 << 20)
    assert 0 < accepted < count


def test_mutants_are_refused_or_sound(good: Path) -> None:
    fuzz(good, 5_000, 0)


@pytest.mark.slow
def test_a_hundred_thousand_mutants_are_refused_or_sound(good: Path) -> None:
    fuzz(good, 100_000, 1)


VALUES = st.one_of(
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=5),
)
PLACES = st.tuples(st.sampled_from(["F32", "F16", "BF16", "Q8_0", "Q4_0"]), st.lists(st.integers(1, 4), min_size=1, max_size=3))
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}(\.[a-z0-9_]{1,20})?", fullmatch=True)


@hypothesis.settings(deadline=None, max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.dictionaries(NAMES, VALUES, max_size=6), st.dictionaries(NAMES, PLACES, max_size=4))
def test_whatever_is_written_is_read(tmp_path: Path, metadata: dict[str, Any], places: dict[str, Any]) -> None:
    metadata.pop("general.alignment", None)
    plan = {name: (dtype, (*shape[:-1], shape[-1] * gguf_quant.TYPES[dtype].block)) for name, (dtype, shape) in places.items()}
    octets = {name: np.full(gguf_quant.num_bytes(shape, dtype), 7, np.uint8) for name, (dtype, shape) in plan.items()}
    gguf_file.write(tmp_path / "x.gguf", metadata, plan, octets.items())
    said, tensors = gguf_file.read(tmp_path / "x.gguf")
    assert said == metadata
    assert {name: (entry.dtype, entry.shape) for name, entry in tensors.items()} == plan


@hypothesis.settings(deadline=1000, max_examples=200)
@hypothesis.given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 3))
def test_random_bytes_behind_a_head_are_refused_or_sound(body: bytes, tensors: int, keys: int) -> None:
    examine(raw(tensors=tensors, keys=keys, body=body))
