"""The interpreter of pickles builds tensors and plain values, and refuses all else without trying it."""

import pickle
import struct
import time
from typing import Any

import pytest

from tests.reference import torch_files as made
from zhllama_jax.convert import torch_pickle

WINDOW = torch_pickle.Tensor(torch_pickle.Storage("0", "F32", 6), 0, (2, 3), (3, 1))


def parse(code: bytes) -> Any:
    return torch_pickle.parse(code).value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_what_python_reads(protocol: int) -> None:
    value = {
        "a": [1, 255, 256, 65536, -1, 2**40, -(2**70), 0.5],
        "b": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        3: "é" * 300,
    }
    assert parse(pickle.dumps(value, protocol)) == value


def test_a_tensor_is_a_window() -> None:
    found = torch_pickle.parse(made.pickled(a=made.tensor(), b=made.tensor(offset=1, shape=(2,), stride=(2,))))
    assert found.value == {"a": WINDOW, "b": torch_pickle.Tensor(WINDOW.storage, 1, (2,), (2,))}
    assert found.storages == {"0": WINDOW.storage}


def test_parameters_sizes_and_attributes_of_the_dictionary() -> None:
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + made.tensor() + b"\x89" + made.HOOKS + b"tR"
    size = b"ctorch\nSize\n(" + made.integers(2, 3) + b"tR"
    assert parse(made.pickled(a=parameter, b=size)) == {"a": WINDOW, "b": (2, 3)}
    metadata = b"}" + made.text("_metadata") + made.HOOKS + b"sb."
    assert parse(made.pickled(a=made.tensor())[:-1] + metadata) == {"a": WINDOW}
    with pytest.raises(ValueError, match="given attributes"):
        parse(made.pickled(a=made.tensor())[:-1] + metadata.replace(b"_metadata", b"__class__"))


def test_gadgets_are_refused() -> None:
    for name, code in made.gadgets().items():
        with pytest.raises(ValueError, match=r"^data\.pkl, byte \d+: [^\n]*do not load this file") as error:
            parse(code)
        if name.startswith("GLOBAL"):
            assert repr(name.removeprefix("GLOBAL ")) in str(error.value)


def storage_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"tQ"


FLOAT = b"ctorch\nFloatStorage\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n("
WORD, KEY, CPU = made.text("storage"), made.text("0"), made.text("cpu")
SIX = made.integer(6)

# Opcodes that leave one value, and what is said about them.
HARMFUL: dict[str, tuple[bytes, str]] = {
    "offset too far": (made.tensor(offset=1), "reach number 6"),
    "offset far too far": (made.tensor(offset=2**63 - 1), "reach number"),
    "offset of 2^2000": (made.tensor(offset=1 << 2000), "not what they must be"),
    "negative offset": (made.tensor(offset=-1), "not what they must be"),
    "stride too far": (made.tensor(stride=(4, 1)), "reach number 6"),
    "negative stride": (made.tensor(offset=5, stride=(-3, -1)), "not what they must be"),
    "huge stride": (made.tensor(stride=(2**62, 1)), "reach number"),
    "more numbers than the storage": (made.tensor(shape=(7, 1), stride=(0, 0)), r"more numbers than its storage \(6\)"),
    "expanded to 2^40": (made.tensor(shape=(2**20, 2**20), stride=(0, 0)), "it is expanded"),
    "negative size": (made.tensor(shape=(-2, -3)), "not what they must be"),
    "shape and stride of two lengths": (made.tensor(shape=(2, 3), stride=(1,)), "not what they must be"),
    "65 dimensions": (made.tensor(shape=(1,) * 65, stride=(1,) * 65), "not what they must be"),
    "a truth value as size": (made.tensor().replace(made.integers(2, 3), b"(\x88" + made.integer(3) + b"t"), "not what they must be"),
    "a list as shape": (made.tensor().replace(made.integers(2, 3), b"](" + made.integer(2) + made.integer(3) + b"e"), "must be"),
    "text as offset": (made.REBUILD + b"(" + made.storage() + made.text("0") + made.integers(1) + made.integers(1) + b"\x89}tR", "must be"),
    "hooks": (made.tensor(rest=b"\x89" + b"}" + made.text("a") + b"Ns"), "hooks or metadata"),
    "metadata": (made.tensor(rest=b"\x89" + made.HOOKS + b"}" + made.text("conj") + b"\x88s"), "hooks or metadata"),
    "five arguments": (made.tensor(rest=b"\x89"), "as PyTorch never does"),
    "no storage": (made.tensor(made.integers(1)), "as PyTorch never does"),
    "a tensor of a tensor": (made.tensor(made.tensor()), "as PyTorch never does"),
    "a parameter of text": (
        b"ctorch._utils\n_rebuild_parameter\n(" + made.text("a") + b"\x89" + made.HOOKS + b"tR",
        "as PyTorch never does",
    ),
    "a dictionary of pairs": (b"ccollections\nOrderedDict\n(]tR", "not built item by item"),
    "a size of text": (b"ctorch\nSize\n(" + made.text("a") + b"tR", "as PyTorch never does"),
    "an untyped storage": (made.storage(kind="Untyped"), "'torch.UntypedStorage', which a dictionary of tensors does not need"),
    "a storage that is called": (FLOAT + b")R", r"torch\.FloatStorage is called"),
    "no word": (storage_of(made.text("Storage"), FLOAT, KEY, CPU, SIX), "as PyTorch never does"),
    "no type": (storage_of(WORD, b"ccollections\nOrderedDict\n", KEY, CPU, SIX), "as PyTorch never does"),
    "a type as text": (storage_of(WORD, made.text("torch.FloatStorage"), KEY, CPU, SIX), "as PyTorch never does"),
    "a path as key": (storage_of(WORD, FLOAT, made.text("../0"), CPU, SIX), "as PyTorch never does"),
    "a long key": (storage_of(WORD, FLOAT, made.text("0" * 21), CPU, SIX), "as PyTorch never does"),
    "a number as key": (storage_of(WORD, FLOAT, SIX, CPU, SIX), "as PyTorch never does"),
    "a truth value as numel": (storage_of(WORD, FLOAT, KEY, CPU, b"\x88"), "as PyTorch never does"),
    "four parts": (storage_of(WORD, FLOAT, KEY, CPU), "as PyTorch never does"),
    "negative numel": (made.storage(numel=-1), "in two ways"),
    "one key, two lengths": (made.storage() + made.storage(numel=5) + b"\x86", "described in two ways"),
    "one key, two dtypes": (made.storage() + made.storage(kind="Int") + b"\x86", "described in two ways"),
    "a tuple as key of a dictionary": (b"})Ns", "type tuple is used as a key"),
    "a tensor as key": (b"}" + made.tensor() + b"Ns", "type Tensor is used as a key"),
    "a key twice": (b"}" + made.text("a") + b"Ns" + made.text("a") + b"Ns", "'a' stands there twice"),
    "a key without a value": (b"}(Nu", "a key without a value"),
    "items for a tuple": (b")" + made.text("a") + b"Ns", "type tuple stands where dict must"),
    "items for a tensor": (made.tensor() + b"(Ne", "type Tensor stands where list must"),
    "attributes for a tensor": (made.tensor() + b"}b", "type Tensor stands where dict must"),
    "a name from numbers": (b"K\1K\1\x93", "type int stands where str must"),
    "a dictionary is called": (b"})R", "type dict stands where Global must"),
    "memo written twice": (b"Nq\0q\0", "memo slot 0 is written twice"),
    "memo unwritten": (b"h\7", "memo slot 7 is read before"),
    "nothing to take": (b"\x86", "taken where none was put"),
    "a mark taken as a value": (b"(\x85", "taken where none was put"),
    "no mark": (b"t", "where no mark was set"),
    "a name without an end": (b"c" + b"a" * 300 + b"\n\n", "a name without an end"),
    "text that is not UTF-8": (b"X\1\0\0\0\xff", "not UTF-8"),
    "text of 4 GB": (b"X\xff\xff\xff\xff", "in the middle of a value"),
    "a frame of 2^63": (b"\x95" + struct.pack("<Q", 1 << 63), "a frame longer"),
    "protocol 1": (b"\x80\1", "protocol"),
    "two values": (b"NN", "does not end where its value ends"),
    "a mark left": (b"(N", "does not end where its value ends"),
    "no value": (b"", "taken where none was put"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pickles_are_refused(name: str) -> None:
    code, message = HARMFUL[name]
    with pytest.raises(ValueError, match=message) as error:
        parse(b"\x80\x02" + code + b".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["no end", "bytes behind the end"])
def test_a_pickle_ends_where_its_value_ends(end: str) -> None:
    good = made.pickled(a=made.tensor())
    with pytest.raises(ValueError, match="end"):
        parse(good[:-1] if end == "no end" else good + b".")


def test_every_shorter_pickle_is_refused() -> None:
    good = made.pickled(a=made.tensor())
    for length in range(len(good)):
        with pytest.raises(ValueError, match=r"data\.pkl|pickle"):
            parse(good[:length])


def test_bombs_stay_small() -> None:
    """Nesting, sharing and repetition cost what they weigh; nothing walks over them."""
    shared = (
        b"N" + b"q\0h\0\x86" + b"".join(b"r" + struct.pack("<I", slot) + b"j" + struct.pack("<I", slot) + b"\x86" for slot in range(1, 500))
    )
    itself = b"]q\0h\0ah\0a"
    began = time.process_time()
    for code in (b")" + b"\x85" * 100_000, b"](" + b"]" * 100_000 + b"e", b"(" * 100_000, shared, itself):
        for tail in (b".", b"}b.", b"}" + made.text("a") + b"Ns\x86."):
            try:
                torch_pickle.parse(b"\x80\x02" + code + tail)
            except ValueError as error:
                assert len(str(error)) < 300
    with pytest.raises(ValueError, match=r"more than 400,000 steps"):
        parse(b"\x80\x02" + b"N" * 500_000 + b".")
    with pytest.raises(ValueError, match="used as a key"):
        parse(b"\x80\x02}" + shared + b"Ns.")
    assert time.process_time() - began < 30


def test_composed_pickles_describe_their_tensors() -> None:
    plan = [("a.weight", torch_pickle.Storage("0", "BF16", 6), (2, 3)), ("b", torch_pickle.Storage("1", "F32", 1), ())]
    large = ("c", torch_pickle.Storage("2", "F16", 2**33), (2**32, 2))
    found = torch_pickle.parse(torch_pickle.compose([*plan, large]))
    assert list(found.value) == ["a.weight", "b", "c"]
    assert found.value["a.weight"] == torch_pickle.Tensor(plan[0][1], 0, (2, 3), (3, 1))
    assert found.value["b"] == torch_pickle.Tensor(plan[1][1], 0, (), ())
    assert found.value["c"] == torch_pickle.Tensor(large[1], 0, (2**32, 2), (2, 1))
