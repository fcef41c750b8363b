"""Archives and pickles as an attacker would make them, built with nothing of the package.

Run as a program with a count and a seed it makes that many mutants of good files, reads each, and fails if one leads to anything but an
answer or one ValueError, takes long, or makes Python import, open, run or connect to anything but the file itself.
"""

import io
import random
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

FLOATS = struct.pack("<6f", 1, 2, 3, 4, 5, 6)


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def storage(key: str = "0", numel: int = 6, kind: str = "Float") -> bytes:
    """A persistent id, as PyTorch writes it."""
    return b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + integer(numel) + b"tQ"


def integer(value: int) -> bytes:
    """BININT or LONG1."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def integers(*values: int) -> bytes:
    """A tuple."""
    return b"(" + b"".join(map(integer, values)) + b"t"


HOOKS = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def tensor(at: bytes | None = None, offset: int = 0, shape: Any = (2, 3), stride: Any = (3, 1), rest: bytes = b"\x89" + HOOKS) -> bytes:
    """A call of `_rebuild_tensor_v2`."""
    window = integer(offset) + integers(*shape) + integers(*stride)
    return REBUILD + b"(" + (storage() if at is None else at) + window + rest + b"tR"


def pickled(**tensors: bytes) -> bytes:
    """A dictionary of what the given opcodes leave on the stack."""
    items = b"".join(text(name) + code for name, code in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def archive(pickle: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> bytes:
    """A file as `torch.save` makes it, with right checksums; `more` are further members (`__` for a slash)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as opened:
        opened.writestr("archive/data.pkl", pickle)
        for key, content in ({"0": FLOATS} if storages is None else storages).items():
            opened.writestr(f"archive/data/{key}", content)
        for name, content in {"version": b"3\n", **more}.items():
            opened.writestr("archive/" + name.replace("__", "/"), content)
    return target.getvalue()


# What has been found in pickles that attack: a callable by name, and something to call it with.
CALLABLES = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("__builtin__", "eval"),
    ("subprocess", "Popen"),
    ("pip", "main"),
    ("pip._internal.cli.main", "main"),
    ("runpy", "run_path"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ("numpy.f2py.crackfortran", "getlincoef"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch._dynamo.guards", "GuardBuilder.get"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    ("torch.utils._config_module", "ConfigModule.load_config"),
    ("torch.utils.bottleneck.__main__", "run_cprofile"),
    ("timeit", "timeit"),
    ("cProfile", "run"),
    ("code", "InteractiveInterpreter.runcode"),
    ("idlelib.pyshell", "ModifiedInterpreter.runcode"),
    ("lib2to3.pgen2.grammar", "Grammar.loads"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("marshal", "loads"),
    ("ctypes", "CDLL"),
    ("socket", "create_connection"),
    ("http.server", "test"),
    ("bdb", "Bdb.run"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("webbrowser", "open"),
    ("io", "open"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch", "_utils"),
)


def gadgets() -> dict[str, bytes]:
    """Whole pickles, by what they try."""
    found: dict[str, bytes] = {}
    for module, name in CALLABLES:
        called = b"(" + text("id") + b"tR"
        full = f"{module}.{name}"
        found[f"GLOBAL {full}"] = b"\x80\x02" + f"c{module}\n{name}\n".encode() + called + b"."
        found[f"STACK_GLOBAL {full}"] = b"\x80\x04" + text(module) + text(name) + b"\x93" + called + b"."
        found[f"STACK_GLOBAL by memo {full}"] = b"\x80\x04" + text(name) + b"\x94" + text(module) + b"\x94h\x01h\x00\x93" + called + b"."
        found[f"NEWOBJ {full}"] = b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"(" + text("id") + b"t\x81."
        found[f"INST {full}"] = b"(" + text("id") + f"i{module}\n{name}\n.".encode()
        found[f"OBJ {full}"] = b"(" + f"c{module}\n{name}\n".encode() + text("id") + b"o."
        found[f"inside a tensor {full}"] = pickled(a=REBUILD + f"(c{module}\n{name}\n(".encode() + text("id") + b"tRtR")
    return found | {
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"\x80\x02Pid\n.",
        "NEWOBJ_EX": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 10**9) + b".",
        "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 10**9) + b".",
        "nested pickle": b"\x80\x02cpickle\nloads\n" + text("\x02cos\nsystem\n.") + b"\x85R.",
    }


def open_archive(content: bytes) -> tuple[bytes, dict[str, bytes]]:
    """(data.pkl, storages) of a good file."""
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        parts = {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}
    return parts["data.pkl"], {name.removeprefix("data/"): part for name, part in parts.items() if name.startswith("data/")}


ALPHABET = b"\x80\x95(N\x88\x89KMJ\x8aGX\x8c)\x85\x86\x87t]ae}suqr\x94hjc\x93QRb.0128iloI\x8e\x96\x81\x92P\x82"


def mutant(good: bytes, rng: random.Random) -> bytes:
    """A file a few steps away: bytes of the archive, or of its pickle under a right checksum, or a gadget in the middle of the pickle."""
    kind = rng.randrange(4)
    if kind == 0:
        changed = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)
    pickle, storages = open_archive(good)
    code = bytearray(pickle)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(code))
        if kind == 1:
            code[at] = rng.choice((rng.randrange(256), rng.choice(ALPHABET)))
        elif kind == 2:
            end = at + rng.randrange(12)
            code[at:end] = bytes(rng.choice(ALPHABET) for _ in range(rng.randrange(6))) if rng.random() < 0.5 else code[at:end] * 2
        else:
            code[at:at] = rng.choice(list(GADGETS.values()))[2:-1]
    return archive(bytes(code), storages)


GADGETS = gadgets()
_SECOND = text("v") + tensor(storage("1", 3, "Half"), 0, (3,), (1,))
GOOD = (
    archive(pickled(a=tensor(), b=tensor(offset=1, shape=(2,), stride=(2,)))),
    archive(b"\x80\x02" + HOOKS + b"(" + text("w") + tensor() + _SECOND + b"u.", {"0": FLOATS, "1": b"\0\x3c" * 3}, byteorder=b"little"),
)


def main(count: int, seed: int) -> None:
    """Reads `count` mutants."""
    from zhllama_jax.convert import torch_io

    rng = random.Random(seed)
    events: list[str] = []
    watching = False
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "mutant.bin"

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and not (event == "open" and str(arguments[0]) == str(path)) and event not in ("mmap.__new__", "object.__getattr__"):
            events.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    accepted, slowest = 0, 0.0
    for number in range(count + 1):
        # Number 0 is a good file: whatever Python loads late is loaded by then.
        path.write_bytes(rng.choice(GOOD) if number == 0 else mutant(rng.choice(GOOD), rng))
        watching, began = number > 0, time.process_time()
        try:
            with torch_io.Reader([path]) as reader:
                for name in reader.entries:
                    if reader.entries[name].dtype in ("F32", "F16", "BF16"):
                        reader.read(name)
            accepted += 1
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), f"seed {seed}, mutant {number}: {error}"
        watching, slowest = False, max(slowest, time.process_time() - began)
        assert not events, f"seed {seed}, mutant {number}: {events}"
    folder.cleanup()
    assert slowest < 1, f"a mutant took {slowest:.1f} s"
    print(f"{count} mutants, {accepted} accepted, the slowest took {slowest * 1000:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
