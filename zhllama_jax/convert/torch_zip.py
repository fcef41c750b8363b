"""The archive of a PyTorch file: a zip whose members are stored, aligned and checksummed, read and written under strict rules.

`torch.save` writes one folder, named after the file, that holds `data.pkl` (what the tensors are called and how they lie in their
storages), `data/0`, `data/1` … (the storages' bytes), `byteorder` and `version`. A zip can say the same thing in two places, hide bytes
between its members or unpack to far more than it weighs; `Archive` accepts none of that. Member names are labels here, never paths.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zhllama_jax.convert import mapped, sink

# The format's records without their variable parts, named as in PKWARE's APPNOTE.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")

# A field of 32 or 16 bits that holds only ones stands in a 64-bit field elsewhere.
_FULL32 = 0xFFFFFFFF
_FULL16 = 0xFFFF
_ENCRYPTED, _SIZES_BEHIND, _UTF8 = 0x1, 0x8, 0x800
_FOLDER_ATTRIBUTE = 0x10
_LONGEST_DESCRIPTOR = 24

_MAX_MEMBERS = 100_000
_MAX_DIRECTORY = 32 << 20
_KNOWN = re.compile(r"data\.pkl|version|byteorder|data/\d{1,20}|\.[A-Za-z0-9_./]{1,60}")
_CHUNK = 1 << 20

FOLDER = "archive"
ALIGNMENT = 64
"""Storages begin at multiples of this, as `torch.save` has them, so that they can be mapped."""
_FIRST_OF_1980 = 0x21
_WIDE_FROM, _MANY_FROM = _FULL32, _FULL16


class Member(NamedTuple):
    """One file of an archive: where its bytes begin, how many they are, and their checksum."""

    begin: int
    size: int
    crc: int


class Archive:
    """An open PyTorch archive.

    Attributes:
      members: by name inside the one folder: "data.pkl", "data/0" …
    """

    def __init__(self, path: str | Path):
        """Opens the file and checks its table of contents.

        Raises:
          ValueError: it is no zip, or not exactly what `torch.save` would write; the sentence says what is odd.
        """
        self.path = Path(path)
        self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._sound: set[str] = set()
        self._file: mapped.File | None = None
        try:
            self.members = _members(self._stream.fileno())
        except ValueError as error:
            self.close()
            raise ValueError(f"{path} is no sound PyTorch file: {error}") from None
        except BaseException:
            self.close()
            raise

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """A small member, whole."""
        member = self.members[name]
        if member.size > max_bytes:
            raise ValueError(f"{self.path}: {name} has {member.size:,} bytes, more than the {max_bytes:,} allowed")
        content = np.empty(member.size, np.uint8)
        self.read_into(name, 0, content)
        return content.tobytes()

    def read_into(self, name: str, begin: int, target: np.ndarray) -> None:
        """Fills `target` (bytes, contiguous) from a member, from its byte `begin` on.

        The member's checksum is verified first, once; when it is read whole, while it is read.

        Raises:
          ValueError: the bytes do not have their checksum, or the file has become shorter.
        """
        member = self.members[name]
        whole = target.size == member.size
        if not whole:
            self.verify(name)
        crc = 0
        for chunk in self._chunks(member.begin + begin, target):
            crc = zlib.crc32(chunk, crc) if whole else 0
        if whole:
            self._hold(name, crc)

    def map(self, name: str) -> np.ndarray:
        """A member's bytes, mapped and verified."""
        self.verify(name)
        member = self.members[name]
        self._require(member.begin + member.size)
        return self._mapped().window(member.begin, member.begin + member.size)

    def once(self, name: str) -> np.ndarray | None:
        """A member's bytes, read past the page cache and verified; None where that does not pay, see `mapped.File.once`."""
        member = self.members[name]
        self._require(member.begin + member.size)
        found = self._mapped().once(member.begin, member.begin + member.size)
        if found is not None:
            self._hold(name, zlib.crc32(found.data))
        return found

    def verify(self, name: str) -> None:
        """Reads a member through, the first time, and holds it against its checksum."""
        if name in self._sound:
            return
        member = self.members[name]
        buffer = np.empty(min(member.size, _CHUNK), np.uint8)
        crc = 0
        for begin in range(0, member.size, _CHUNK):
            for chunk in self._chunks(member.begin + begin, buffer[: member.size - begin]):
                crc = zlib.crc32(chunk, crc)
        self._hold(name, crc)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _chunks(self, begin: int, target: np.ndarray) -> Iterator[memoryview]:
        """Fills `target` piece by piece, and yields each piece while it is still in the processor's cache."""
        for at in range(0, target.size, _CHUNK):
            chunk = target[at : at + _CHUNK]
            done = 0
            while done < chunk.size:
                count = os.preadv(self._stream.fileno(), [chunk[done:].data], begin + at + done)
                if not count:
                    raise ValueError(f"{self.path} ends before byte {begin + target.size:,}: it was cut short while it was being read")
                done += count
            yield chunk.data

    def _hold(self, name: str, crc: int) -> None:
        if crc != self.members[name].crc:
            raise ValueError(
                f"{self.path}: {name} does not have its checksum: the file is damaged (or was saved without checksums, by "
                "torch.serialization.set_crc32_options(False)); fetch it again, or load and save it once with PyTorch"
            )
        self._sound.add(name)

    def _mapped(self) -> mapped.File:
        """The file, mapped when it is first needed: one that is refused never is."""
        self._file = self._file or mapped.File(self.path, self._stream.fileno())
        return self._file

    def _require(self, size: int) -> None:
        # Touching a mapped page behind the end of a file kills the process.
        if os.fstat(self._stream.fileno()).st_size < size:
            raise ValueError(f"{self.path} was cut short while it was being read")


def _members(descriptor: int) -> dict[str, Member]:
    size = os.fstat(descriptor).st_size
    begin, end, count = _directory(descriptor, size)
    directory = os.pread(descriptor, end - begin, begin)
    found: list[tuple[int, int, str, Member]] = []
    at = 0
    for _ in range(count):
        at = _central(directory, at, descriptor, found)
    if at != len(directory):
        raise ValueError("its table of contents has bytes that belong to no member")
    position = slack = 0
    for offset, flags, name, member in sorted(found):
        if not position <= offset <= position + slack:
            raise ValueError(f"{name} begins at byte {offset:,}, not where the member before it ends ({position:,})")
        position, slack = member.begin + member.size, _LONGEST_DESCRIPTOR if flags & _SIZES_BEHIND else 0
    if not position <= begin <= position + slack:
        raise ValueError(f"its members end at byte {position:,}, its table of contents begins at {begin:,}")
    return _inside(found)


def _directory(descriptor: int, size: int) -> tuple[int, int, int]:
    """(first byte, byte behind the last, number of members) of the table of contents, as the records at the end of the file say."""
    if size < _END.size:
        raise ValueError(f"it has {size:,} bytes")
    tail = os.pread(descriptor, _END.size, size - _END.size)
    signature, *disks, here, count, length, begin, comment = _END.unpack(tail)
    if signature != b"PK\5\6" or comment or any(disks) or here != count:
        raise ValueError("it does not end like a zip: cut short, or not fully downloaded")
    end = size - _END.size
    if end >= _LOCATOR.size + _END64.size:
        signature, disk, place, total = _LOCATOR.unpack(os.pread(descriptor, _LOCATOR.size, end - _LOCATOR.size))
        if signature == b"PK\6\7":
            end -= _LOCATOR.size + _END64.size
            signature, rest, _, _, *disks, here64, count64, length64, begin64 = _END64.unpack(os.pread(descriptor, _END64.size, end))
            short = ((count, count64, _FULL16), (length, length64, _FULL32), (begin, begin64, _FULL32))
            if (signature, rest, place, disk, total) != (b"PK\6\6", _END64.size - 12, end, 0, 1) or any(disks) or here64 != count64:
                raise ValueError("its 64-bit end record is damaged")
            if any(narrow not in (wide, full) for narrow, wide, full in short):
                raise ValueError("its two end records contradict each other")
            count, length, begin = count64, length64, begin64
    if begin + length != end or not count * _CENTRAL.size <= length <= _MAX_DIRECTORY or not 0 < count <= _MAX_MEMBERS:
        raise ValueError(f"its table of contents would have {count:,} members in {length:,} bytes at byte {begin:,} of {size:,}")
    return begin, end, count


def _central(directory: bytes, at: int, descriptor: int, found: list[tuple[int, int, str, Member]]) -> int:
    """Takes one record of the table of contents, held against the member's own header; returns where the next begins."""
    if len(directory) - at < _CENTRAL.size:
        raise ValueError("its table of contents is cut short")
    record = _CENTRAL.unpack_from(directory, at)
    signature, flags, method, crc, packed, size = record[0], *record[3:5], *record[7:10]
    name_length, extra_length, comment_length, disk, offset = *record[10:14], record[16]
    body = directory[at + _CENTRAL.size :][: name_length + extra_length + comment_length]
    if signature != b"PK\1\2" or disk or record[15] & _FOLDER_ATTRIBUTE or len(body) < name_length + extra_length + comment_length:
        raise ValueError("its table of contents is damaged")
    raw, extra = body[:name_length], body[name_length : name_length + extra_length]
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"a member's name is not UTF-8: {raw[:40]!r}") from None
    if method or flags & ~(_SIZES_BEHIND | _UTF8):
        raise ValueError(f"{name[:80]!r} is {'encrypted' if flags & _ENCRYPTED else 'compressed'}; PyTorch stores its tensors plainly")
    size, packed, offset = _wide(extra, size, packed, offset)
    if packed != size:
        raise ValueError(f"{name[:80]!r} takes {packed:,} bytes for {size:,}")
    header = os.pread(descriptor, _LOCAL.size + len(raw), offset) if offset < 1 << 62 else b""
    if len(header) < _LOCAL.size + len(raw) or header[_LOCAL.size :] != raw:
        raise ValueError(f"{name[:80]!r} is not where its table of contents says")
    local = _LOCAL.unpack_from(header)
    behind = flags & _SIZES_BEHIND and local[6:9] == (0, 0, 0)
    agrees = local[6] == crc and all(value in (size, _FULL32) for value in local[7:9])
    if (local[0], *local[2:4], local[9]) != (b"PK\3\4", flags, method, len(raw)) or not (behind or agrees):
        raise ValueError(f"{name[:80]!r} and the table of contents contradict each other")
    found.append((offset, flags, name, Member(offset + _LOCAL.size + len(raw) + local[10], size, crc)))
    return at + _CENTRAL.size + len(body)


def _wide(extra: bytes, *fields: int) -> tuple[int, ...]:
    """`fields` with those that are full taken from the 64-bit part of a record's extra bytes."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    numbers = iter(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
    return tuple(next(numbers, field) if field == _FULL32 else field for field in fields)


def _inside(found: list[tuple[int, int, str, Member]]) -> dict[str, Member]:
    """The members by their names inside the one folder that holds them all."""
    folders = {name.partition("/")[0] for _, _, name, _ in found}
    if len(folders) != 1 or folders & {"", ".", ".."}:
        raise ValueError(f"it must hold one folder, and holds {', '.join(sorted(map(repr, folders))[:4])}")
    members: dict[str, Member] = {}
    for _, _, full, member in found:
        name = full.partition("/")[2]
        if name == "constants.pkl" or name.startswith("code/"):
            raise ValueError("it is a TorchScript program, not a dictionary of tensors: save the model's state_dict() instead")
        if not _KNOWN.fullmatch(name) or ".." in name:
            raise ValueError(f"it holds {full[:80]!r}, which no file of torch.save has")
        if name in members:
            raise ValueError(f"{name} stands in it twice")
        members[name] = member
    if "data.pkl" not in members:
        raise ValueError("it has no data.pkl, so nothing says what is in it")
    return members


class Writer:
    """Writes an archive member by member, each at a multiple of `ALIGNMENT`; the digest grows with the file."""

    def __init__(self, path: str | Path):
        self._sink = sink.Sink(path)
        self._central: list[bytes] = []

    def add(self, name: str, content: bytes | memoryview) -> None:
        """Appends one member."""
        raw, size, crc, offset = f"{FOLDER}/{name}".encode(), len(content), zlib.crc32(content), self._sink.position
        large = struct.pack("<2H2Q", 1, 16, size, size) if size >= _WIDE_FROM else b""
        padding = -(offset + _LOCAL.size + len(raw) + len(large) + 4) % ALIGNMENT
        extra = large + struct.pack("<2s H", b"FB", padding) + b"Z" * padding
        narrow = _FULL32 if large else size
        facts = (45 if large else 20, 0, 0, 0, _FIRST_OF_1980, crc, narrow, narrow, len(raw))
        self._sink.write(_LOCAL.pack(b"PK\3\4", *facts, len(extra)) + raw + extra)
        self._sink.write(content)
        far = offset >= _WIDE_FROM
        wide = (large[4:] if large else b"") + (struct.pack("<Q", offset) if far else b"")
        wide = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        record = _CENTRAL.pack(b"PK\1\2", 45 if wide else 20, *facts, len(wide), 0, 0, 0, 0, _FULL32 if far else offset)
        self._central.append(record + raw + wide)

    def finish(self) -> dict[str, str | int]:
        """Writes the table of contents and closes the file; returns the file's `sha256` and `bytes`."""
        begin, directory, count = self._sink.position, b"".join(self._central), len(self._central)
        self._sink.write(directory)
        end = self._sink.position
        if wide := begin >= _WIDE_FROM or count >= _MANY_FROM:
            self._sink.write(_END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, len(directory), begin))
            self._sink.write(_LOCATOR.pack(b"PK\6\7", 0, end, 1))
        few, near = (_FULL16, _FULL32) if wide else (count, begin)
        self._sink.write(_END.pack(b"PK\5\6", 0, 0, few, few, len(directory), near, 0))
        return self._sink.finish()

    def close(self) -> None:
        """Closes the file, finished or not."""
        self._sink.close()
