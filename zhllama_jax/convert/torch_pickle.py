"""The pickle inside a PyTorch file, read as a description of tensors and never run.

A pickle is a program for a small stack machine, and its usual interpreter imports and calls whatever the program names. `parse` is an
interpreter of its own for the few opcodes that dictionaries of tensors need. It builds numbers, text, tuples, lists, dictionaries,
`Storage` and `Tensor`; a name is compared with the handful below and never looked up; nothing is imported, opened or called. Every other
opcode and every other name is refused. `compose` writes the pickle of a dictionary of tensors.
"""

import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
"""PyTorch's name of a storage -> the dtype of its numbers, as safetensors calls it."""

MAX_DIMS = 64
_MAX_STEPS = 400_000
_MAX_NAME = 200
_KEY = re.compile(r"[0-9]{1,20}")
_MARK = object()


class Storage(NamedTuple):
    """A run of numbers: member `data/<key>` of the archive."""

    key: str
    dtype: str
    numel: int


class Tensor(NamedTuple):
    """A window into a storage: element (i, j, …) is number `offset + i·stride[0] + j·stride[1] + …`, which lies inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Global(NamedTuple):
    """A name that a pickle asks for, as text."""

    name: str


class Contents(NamedTuple):
    """What a pickle describes: its value, and every storage that it mentions, by key."""

    value: Any
    storages: dict[str, Storage]


def parse(code: bytes) -> Contents:
    """Interprets a pickle.

    Raises:
      ValueError: it asks for anything that a dictionary of tensors does not need, or describes a tensor that cannot be.
    """
    machine = _Machine(code)
    for _ in range(_MAX_STEPS):
        at = machine.position
        opcode = machine.take(1)
        if opcode == b".":
            value = machine.pop()
            if machine.stack or machine.position != len(code):
                raise ValueError(f"data.pkl does not end where its value ends, at byte {at:,}")
            return Contents(value, machine.storages)
        step = _STEPS.get(opcode)
        if step is None:
            raise ValueError(f"data.pkl, byte {at:,}: opcode {opcode!r} is not one that a dictionary of tensors needs{_DANGER}")
        try:
            step(machine)
        except ValueError as error:
            raise ValueError(f"data.pkl, byte {at:,}: {error}") from None
    raise ValueError(f"data.pkl takes more than {_MAX_STEPS:,} steps, more than any model's")


_DANGER = ". Other programs might run what it asks for: do not load this file with them unless you trust who made it"


class _Machine:
    """The stack machine: the values under construction, the memo, and the position in the code."""

    def __init__(self, code: bytes):
        self.code = code
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def take(self, count: int) -> bytes:
        found = self.code[self.position : self.position + count]
        if len(found) < count:
            raise ValueError("the pickle ends in the middle of a value")
        self.position += count
        return found

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("text that is not UTF-8") from None

    def line(self) -> str:
        end = self.code.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise ValueError("a name without an end")
        found = self.text(end - self.position)
        self.position += 1
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, kind: type = object) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("a value is taken where none was put")
        if kind is not object and type(self.stack[-1]) is not kind:
            raise ValueError(f"{_kind(self.stack[-1])} stands where {kind.__name__.lstrip('_')} must")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Takes everything above the last mark, and the mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise ValueError("values are gathered where no mark was set")

    def remember(self, slot: int) -> None:
        if slot in self.memo:
            raise ValueError(f"memo slot {slot} is written twice")
        value = self.pop()
        self.push(value)
        self.memo[slot] = value

    def recall(self, slot: int) -> None:
        if slot not in self.memo:
            raise ValueError(f"memo slot {slot} is read before it is written")
        self.push(self.memo[slot])

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in STORAGES and full not in _CALLS:
            raise ValueError(f"it asks for {full[:_MAX_NAME]!r}, which a dictionary of tensors does not need{_DANGER}")
        self.push(_Global(full))

    def call(self) -> None:
        arguments, callee = self.pop(tuple), self.pop(_Global)
        if callee.name not in _CALLS:
            raise ValueError(f"{callee.name} is called")
        self.push(_CALLS[callee.name](arguments))

    def build(self) -> None:
        # What state_dict() hangs onto its dictionary besides its items: versions of modules.
        state, target = self.pop(dict), self.pop(dict)
        if state.keys() - {"_metadata"}:
            raise ValueError("a dictionary is given attributes")
        self.push(target)

    def set_items(self, items: list[Any]) -> None:
        target = self.pop(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A key of any other kind could take forever to hash.
            if type(key) not in (str, int):
                raise ValueError(f"{_kind(key)} is used as a key")
            if key in target:
                raise ValueError(f"the key {str(key)[:80]!r} stands there twice")
            target[key] = value
        self.push(target)

    def extend(self, items: list[Any]) -> None:
        target = self.pop(list)
        target.extend(items)
        self.push(target)

    def pack(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def storage(self) -> None:
        match self.pop(tuple):
            case ("storage", _Global(name), str(key), str(), int(numel)) if name in STORAGES and _KEY.fullmatch(key) and type(numel) is int:
                found = Storage(key, STORAGES[name], numel)
            case _:
                raise ValueError("a storage is described as PyTorch never does")
        if numel < 0 or self.storages.setdefault(key, found) != found:
            raise ValueError(f"storage {key} is described in two ways")
        self.push(found)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`: storage, offset, shape, stride, requires_grad, backward hooks and, in some versions, metadata."""
    if len(arguments) not in (6, 7) or (type(arguments[0]), type(arguments[4]), type(arguments[5])) != (Storage, bool, dict):
        raise ValueError("a tensor is described as PyTorch never does")
    storage, offset, shape, stride = arguments[:4]
    if arguments[5] or (len(arguments) == 7 and arguments[6]):
        raise ValueError("a tensor carries hooks or metadata")
    if not (_counts((offset,)) and _counts(shape) and _counts(stride) and len(shape) == len(stride) <= MAX_DIMS):
        raise ValueError("a tensor's offset, shape and stride are not what they must be")
    numel = 1
    for size in shape:
        numel *= size
        if numel > storage.numel:
            raise ValueError(f"a tensor would have more numbers than its storage ({storage.numel:,}): it is expanded, or damaged")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if numel and last >= storage.numel:
        raise ValueError(f"a tensor would reach number {last:,} of a storage of {storage.numel:,}")
    return Tensor(storage, offset, shape, stride)


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    """`torch._utils._rebuild_parameter`: tensor, requires_grad, backward hooks."""
    if len(arguments) != 3 or tuple(map(type, arguments)) != (Tensor, bool, dict) or arguments[2]:
        raise ValueError("a parameter is described as PyTorch never does")
    return arguments[0]


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError("an ordered dictionary is not built item by item")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _counts(arguments[0]):
        raise ValueError("a size is described as PyTorch never does")
    return arguments[0]


def _counts(value: Any) -> bool:
    # Not isinstance: a bool is an int, and a `Storage` is a tuple.
    return type(value) is tuple and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _kind(value: Any) -> str:
    return "a mark" if value is _MARK else f"a value of type {type(value).__name__.lstrip('_')}"


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
}

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda machine: _expect(machine.number("<B") in range(2, 6), "a protocol that is not from 2 to 5"),  # PROTO
    b"\x95": lambda machine: _expect(machine.number("<Q") <= len(machine.code), "a frame longer than the file"),  # FRAME
    b"(": lambda machine: machine.push(_MARK),  # MARK
    b"N": lambda machine: machine.push(None),  # NONE
    b"\x88": lambda machine: machine.push(True),  # NEWTRUE
    b"\x89": lambda machine: machine.push(False),  # NEWFALSE
    b"K": lambda machine: machine.push(machine.number("<B")),  # BININT1
    b"M": lambda machine: machine.push(machine.number("<H")),  # BININT2
    b"J": lambda machine: machine.push(machine.number("<i")),  # BININT
    b"\x8a": lambda machine: machine.push(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True)),  # LONG1
    b"G": lambda machine: machine.push(machine.number(">d")),  # BINFLOAT
    b"X": lambda machine: machine.push(machine.text(machine.number("<I"))),  # BINUNICODE
    b"\x8c": lambda machine: machine.push(machine.text(machine.number("<B"))),  # SHORT_BINUNICODE
    b")": lambda machine: machine.push(()),  # EMPTY_TUPLE
    b"\x85": lambda machine: machine.pack(1),  # TUPLE1
    b"\x86": lambda machine: machine.pack(2),  # TUPLE2
    b"\x87": lambda machine: machine.pack(3),  # TUPLE3
    b"t": lambda machine: machine.push(tuple(machine.since_mark())),  # TUPLE
    b"]": lambda machine: machine.push([]),  # EMPTY_LIST
    b"a": lambda machine: machine.extend([machine.pop()]),  # APPEND
    b"e": lambda machine: machine.extend(machine.since_mark()),  # APPENDS
    b"}": lambda machine: machine.push({}),  # EMPTY_DICT
    b"s": lambda machine: machine.set_items([machine.pop() for _ in range(2)][::-1]),  # SETITEM
    b"u": lambda machine: machine.set_items(machine.since_mark()),  # SETITEMS
    b"q": lambda machine: machine.remember(machine.number("<B")),  # BINPUT
    b"r": lambda machine: machine.remember(machine.number("<I")),  # LONG_BINPUT
    b"\x94": lambda machine: machine.remember(len(machine.memo)),  # MEMOIZE
    b"h": lambda machine: machine.recall(machine.number("<B")),  # BINGET
    b"j": lambda machine: machine.recall(machine.number("<I")),  # LONG_BINGET
    b"c": lambda machine: machine.name(machine.line(), machine.line()),  # GLOBAL
    b"\x93": lambda machine: machine.name(*[machine.pop(str) for _ in range(2)][::-1]),  # STACK_GLOBAL
    b"Q": lambda machine: machine.storage(),  # BINPERSID
    b"R": lambda machine: machine.call(),  # REDUCE
    b"b": lambda machine: machine.build(),  # BUILD
}


def _expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


def compose(tensors: Iterable[tuple[str, Storage, tuple[int, ...]]]) -> bytes:
    """The pickle of an ordered dictionary of contiguous tensors, each (name, storage of its own, shape), as `torch.save` would write it."""
    names = {dtype: name.removeprefix("torch.") for name, dtype in STORAGES.items()}
    parts = [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for name, storage, shape in tensors:
        stride = [1] * len(shape)
        for axis in range(len(shape) - 1, 0, -1):
            stride[axis - 1] = stride[axis] * shape[axis]
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        parts += [_text("storage"), f"ctorch\n{names[storage.dtype]}\n".encode(), _text(storage.key), _text("cpu"), _whole(storage.numel)]
        parts += [b"tQ", _whole(0), b"(", *map(_whole, shape), b"t(", *map(_whole, stride), b"t\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join([*parts, b"u."])


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw
