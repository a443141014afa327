"""Tar files as streams of named members, read and written without the `tarfile` module.

Nothing is unpacked to disk and no member's name is used as a path. Only regular
files have content; links, devices and names that leave their folder are told
as what they are and passed over. The reader holds one member at a time.

Source: POSIX.1-2017 pax, "ustar interchange format"; GNU tar's long names.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast
from zlib import adler32

import msgspec

from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.json_lines import open_data
from vlforge.types import DataError

BLOCK = 512
MAX_MEMBER = 256 << 20
"""Largest member that is read, in bytes."""
_MAX_NAME = 1 << 16
_SKIP = 1 << 20
_END = bytes(BLOCK)
_BLANKS = b" " * 8
_ADLER = 65521
_is_safe = re.compile(r"[\w+=@-]+(?:[./][\w+=@-]+)*").fullmatch
_KINDS = {
    b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device",
    b"5": "folder", b"6": "pipe", b"S": "sparse file",
}  # fmt: skip


class Cut(DataError):
    """A tar that breaks off or is damaged; `at_border` if that is between two members."""

    def __init__(self, reason: str, *, at_border: bool = False):
        super().__init__(reason)
        self.at_border = at_border


class Member(msgspec.Struct, gc=False):
    """A member of a tar: a file, or something refused for the reason `refused`."""

    name: str
    size: int
    refused: str = ""
    is_folder: bool = False


class TarReader:
    """The members of a tar in order; `content` reads the one that was given last."""

    def __init__(self, file: BinaryIO, max_member: int = MAX_MEMBER):
        self._file, self._max_member = file, max_member
        self._left = 0
        """Bytes of the present member, with its padding, that were not read."""
        self._size = 0

    def __iter__(self) -> Iterator[Member]:
        """The members.

        Raises:
            Cut: the tar breaks off, or a header is damaged.
        """
        long_name = ""
        long_size = -1
        while True:
            header = self._header()
            if header == _END:
                return
            if len(header) < BLOCK:
                raise Cut("the tar breaks off", at_border=True)
            kind, size = self._start(header)
            if kind in (b"L", b"K", b"x", b"g"):
                found = self._long(size)
                if kind == b"L":
                    long_name = _text(found.rstrip(b"\0"))
                elif kind == b"x":
                    long_name, long_size = _pax(found, long_name)
                continue
            if long_size >= 0 and kind in (b"0", b"\0", b"7"):
                self._expect(long_size)
                size = long_size
            name = long_name or _name(header)
            long_name, long_size = "", -1
            yield Member(name, size, _refusal(name, kind, size, self._max_member), kind == b"5")

    def _header(self) -> bytes:
        """The next header, or what there is of it."""
        padding = self._left
        if padding >= BLOCK:
            self._pass_over()
            padding = 0
        data = self._read(padding + BLOCK)
        if len(data) < padding:
            raise Cut("the tar breaks off")
        self._left = 0
        return data[padding:] if padding else data

    def content(self) -> bytes:
        """The bytes of the present member.

        Raises:
            Cut: the tar ends before they do.
        """
        data = self._read(self._size)
        self._left -= len(data)
        if len(data) < self._size:
            raise Cut("the tar breaks off")
        return data

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the present member, a part at a time.

        Raises:
            Cut: the tar ends before they do.
        """
        left = self._size
        while left:
            data = self._read(min(left, _SKIP))
            if not data:
                raise Cut("the tar breaks off")
            left -= len(data)
            self._left -= len(data)
            yield data

    def _start(self, header: bytes) -> tuple[bytes, int]:
        """A member's kind and size, its content made ready to be read."""
        if not _is_header(header):
            raise Cut("the tar is damaged: a header's checksum is wrong", at_border=True)
        kind = header[156:157]
        size = _number(header[124:136])
        if size < 0:
            raise Cut("the tar is damaged: a member has no size")
        self._expect(0 if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else size)
        return kind, size

    def _expect(self, size: int) -> None:
        self._size = size
        self._left = size + -size % BLOCK

    def _long(self, size: int) -> bytes:
        if size > _MAX_NAME:
            raise Cut("the tar is damaged: a name is too long")
        return self.content()

    def _pass_over(self) -> None:
        if self._left > _SKIP and self._file.seekable():
            here = self._file.tell()
            end = self._file.seek(0, os.SEEK_END)
            self._file.seek(min(here + self._left, end))
            if here + self._left > end:
                raise Cut("the tar breaks off")
            self._left = 0
        while self._left > 0:
            data = self._read(min(self._left, _SKIP))
            if not data:
                raise Cut("the tar breaks off")
            self._left -= len(data)

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except READ_FAULTS as error:
            raise Cut(f"the tar cannot be read on: {error}") from None


def open_tar(path: Path) -> BinaryIO:
    """Open a tar for reading, packed ones (`.tar.gz`, `.tgz`, `.tar.zst`) too.

    Raises:
        DataError: it is not there or cannot be read.
    """
    if path.suffix == ".tgz" and path.is_file():
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    file = open_data(path)
    is_plain = isinstance(file, io.BufferedReader) and path.suffix not in (".gz", ".zst")
    return path.open("rb", buffering=1 << 20) if is_plain and not file.close() else file


def is_tar(path: Path) -> bool:
    """Whether the file begins with a tar's header."""
    try:
        with open_tar(path) as file:
            head = file.read(BLOCK)
    except DataError:
        return False
    except READ_FAULTS:
        return False
    if len(head) < BLOCK or head == _END:
        return False
    return _is_header(head)


class TarFile:
    """A new tar: members with fixed times and owners, so that equal content gives equal files."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def add(self, name: str, content: bytes) -> None:
        """Add a file; `name` has at most 100 bytes."""
        size = len(content)
        self._file.write(header_of(name, size))
        self._file.write(content)
        if size % BLOCK:
            self._file.write(_END[size % BLOCK :])

    def close(self) -> None:
        """Write the end mark; the file itself stays open."""
        self._file.write(bytes(20 * BLOCK))


def header_of(name: str, size: int) -> bytes:
    """The header of a regular file.

    Raises:
        DataError: a name longer than 100 bytes, or a file above 8 GiB.
    """
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8 << 30:
        raise DataError(f"{name[:60]!r} of {size} bytes does not fit in a tar")
    head = (
        encoded.ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" * 2
        + b"%011o\0" % size + b"00000000000\0"
        + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000"
    ).ljust(BLOCK, b"\0")  # fmt: skip
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _refusal(name: str, kind: bytes, size: int, most: int) -> str:
    if kind not in (b"0", b"\0", b"7"):
        return f"a {_KINDS.get(kind, 'member of an unknown kind')} in a tar is not followed"
    if leaves_folder(name):
        return "a member's name leaves its folder"
    if size > most:
        return f"a member is larger than {most >> 20} MiB"
    return ""


def leaves_folder(name: str) -> bool:
    """Whether a member's name, used as a path, could lead out of the folder it is put into."""
    if _is_safe(name):
        return False
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":" or "\0" in name


def _is_header(block: bytes) -> bool:
    """Whether a block's checksum, the sum of its bytes with blanks for itself, is right."""
    # The low half of Adler's sum is 1 and the sum of the bytes: 50 times faster than `sum`.
    found = adler32(block[:148] + _BLANKS + block[156:]) & 0xFFFF
    return found == (1 + _number(block[148:156])) % _ADLER


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _text(name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary one; -1 for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return -1


def _pax(data: bytes, name: str) -> tuple[str, int]:
    """A member's name and size (-1: not told) from extended headers."""
    size = -1
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise Cut("the tar is damaged: an extended header is odd")
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit():
            size = int(value)
        data = data[int(length) :]
    return name, size
