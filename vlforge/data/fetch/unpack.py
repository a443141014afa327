"""Archives, unpacked so that they can do no harm.

Every file is written anew, with plain rights, below a folder of ours that holds no
links; names that lead out of it, links, devices and encrypted members are left out and
named. Nothing is run or loaded. An archive that grows beyond all proportion is refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.tars import BLOCK, Cut, TarReader, leaves_folder
from vlforge.types import DataError

_PIECE = 1 << 20
_ENDLESS = 1 << 62
_LINKS_OUT = "a member's name leaves its folder"
_FAULTS: tuple[type[Exception], ...] = (
    *READ_FAULTS, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError
)  # fmt: skip
RUNNABLE = frozenset(
    ".pkl .pickle .p .pt .pth .ckpt .bin .joblib .dill .pdparams .pdopt .npy".split()
)
"""Ends of names of files that may hold pickles: loading one runs what it says."""
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Limits:
    """What an archive may come to.

    `ratio`: bytes unpacked for each packed one, once more than `free_bytes` came out.
    `reserve`: bytes of the disk that stay free.
    """

    members: int = 20_000_000
    ratio: float = 300.0
    free_bytes: int = 256 << 20
    reserve: int = 256 << 20


class Short(DataError):
    """The disk has not enough room; `missing` bytes."""

    def __init__(self, place: Path, needed: int, free: int, reserve: int):
        self.missing = needed + reserve - free
        super().__init__(
            f"{place}: {amount(needed)} are needed and {amount(reserve)} are to stay free, "
            f"{amount(free)} are free: {amount(self.missing)} are missing"
        )


class Damaged(DataError):
    """An archive that is none, breaks off or contradicts itself."""


class Bloated(DataError):
    """An archive that would come to more than its limits."""


@dataclass
class Unpacked:
    """What came out of an archive: files with their sizes, and what was left out, with why."""

    files: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def runnable(self) -> list[str]:
        """Files that may run code when they are loaded."""
        return [name for name, _ in self.files if Path(name).suffix.lower() in RUNNABLE]


@dataclass(slots=True)
class _Member:
    name: str
    size: int
    refused: str
    is_folder: bool
    pieces: Callable[[], Iterable[bytes]]


def amount(count: float) -> str:
    """Bytes in the unit that a reader would use: 812 bytes, 3.4 MB, 16.8 GB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    return f"{count:.0f} {unit}" if count >= 99.5 else f"{count:.1f} {unit}"


def unpack(
    packed: Path,
    into: Path,
    progress: Progress,
    *,
    flat: bool = False,
    limits: Limits | None = None,
) -> Unpacked:
    """Unpack a zip or a tar (also .gz, .bz2, .xz) into a folder that is new and ours.

    `flat` drops the folders of the members' names.

    Raises:
        Damaged: it is no archive, or a damaged one.
        Short: the disk has not enough room.
        Bloated: it grows beyond its limits.
    """
    return _Unpacking(packed, into, progress, flat, limits or Limits()).all()


class _Unpacking:
    def __init__(self, packed: Path, into: Path, progress: Progress, flat: bool, limits: Limits):
        self.packed, self.into, self.progress = packed, into, progress
        self.flat, self.limits = flat, limits
        self.size = packed.stat().st_size
        self.out = Unpacked()
        self._written = self._looked = 0
        self._folders = {into}

    def all(self) -> Unpacked:
        """Every member in turn."""
        try:
            with self.packed.open("rb") as raw:
                self._take_all(raw)
        except Cut as error:
            raise Damaged(f"{self.packed.name}: {error}") from None
        except _FAULTS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise Damaged(f"{self.packed.name}: damaged: {error}") from None
        if not self.out.files:
            raise Damaged(f"{self.packed.name}: no file in it can be taken")
        return self.out

    def _take_all(self, raw: BinaryIO) -> None:
        for count, member in enumerate(self._members(raw)):
            if count >= self.limits.members:
                raise Bloated(f"{self.packed.name}: more than {count:,} members")
            self._take(member)
            self.progress(min(raw.tell(), self.size), self.size)

    def _members(self, raw: BinaryIO) -> Iterator[_Member]:
        head = raw.read(BLOCK)
        raw.seek(0)
        if head[:2] == b"PK":
            return self._zip_members(raw)
        return _tar_members(_opened(raw, head))

    def _zip_members(self, raw: BinaryIO) -> Iterator[_Member]:
        with zipfile.ZipFile(raw) as archive:
            infos = archive.infolist()
            told = sum(info.file_size for info in infos)
            self._proportion(told)
            self._room(told)
            for info in infos:
                pieces = partial(_zip_pieces, archive, info)
                refused = _zip_refusal(info)
                yield _Member(info.filename, info.file_size, refused, info.is_dir(), pieces)

    def _take(self, member: _Member) -> None:
        if member.is_folder or (member.name.endswith("/") and not member.size):
            return
        parts = [p for p in member.name.replace("\\", "/").split("/") if p not in ("", ".")]
        why = member.refused or (_LINKS_OUT if leaves_folder(member.name) or not parts else "")
        if parts and not why and ("__MACOSX" in parts[:1] or parts[-1][:2] == "._"):
            why = "a side file of macOS"
        if why:
            self.out.left_out.append((member.name, why))
            return
        parts = parts[-1:] if self.flat else parts
        name = "/".join(parts)
        try:
            self._write(self.into.joinpath(*parts), member)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            self.out.left_out.append((member.name, "its name is taken by an earlier member"))
        except ValueError as error:
            self.out.left_out.append((member.name, str(error)))
        except OSError as error:
            if error.errno not in _NAME_FAULTS:
                raise
            self.out.left_out.append((member.name, f"name: {error.strerror}"))
        else:
            self.out.files.append((name, member.size))

    def _write(self, path: Path, member: _Member) -> None:
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
            written = 0
            for piece in member.pieces():
                file.write(piece)
                written += len(piece)
                self._account(len(piece))
        if written != member.size:
            raise Damaged(
                f"{self.packed.name}: {member.name[:80]} has {written} bytes, "
                f"{member.size} were told"
            )

    def _account(self, count: int) -> None:
        self._written += count
        if self._written - self._looked >= 64 << 20:
            self._looked = self._written
            self._proportion(self._written)
            self._room(0)

    def _proportion(self, unpacked: int) -> None:
        if unpacked > self.limits.free_bytes and unpacked > self.limits.ratio * self.size:
            raise Bloated(
                f"{self.packed.name}: {amount(self.size)} would unpack into at least "
                f"{amount(unpacked)}, more than {self.limits.ratio:.0f} times as much: refused"
            )

    def _room(self, needed: int) -> None:
        free = shutil.disk_usage(self.into).free
        if needed + self.limits.reserve > free:
            raise Short(self.into.parent, needed, free, self.limits.reserve)


_NAME_FAULTS = {36, 22, 84}
"""ENAMETOOLONG, EINVAL, EILSEQ: names that a file system does not take."""


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link is not followed"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device or pipe is not made"
    if info.flag_bits & 1:
        return "it is encrypted"
    return ""


def _zip_pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as file:
        while piece := file.read(_PIECE):
            yield piece


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    reader = TarReader(file, max_member=_ENDLESS)
    for member in reader:
        yield _Member(member.name, member.size, member.refused, member.is_folder, reader.pieces)


def _opened(raw: BinaryIO, head: bytes) -> BinaryIO:
    """The tar inside, by its first bytes.

    Raises:
        Cut: they are no archive's.
    """
    opened: Any = raw
    if head[:2] == b"\x1f\x8b":
        opened = gzip.GzipFile(fileobj=raw)
    elif head[:3] == b"BZh":
        opened = bz2.BZ2File(raw)
    elif head[:6] == b"\xfd7zXZ\0":
        opened = lzma.LZMAFile(raw)  # noqa: SIM115
    elif head[:1] == b"<" or b"<html" in head.lower():
        raise Cut("a web page, no archive")
    elif len(head) < BLOCK or head[257:262] != b"ustar":
        raise Cut("neither a zip nor a tar")
    return cast(BinaryIO, opened)


def root_of(hidden: Path, to: Path) -> Path:
    """The folder in `hidden` that will be `to`: the only one if it is called so, else all."""
    entries = list(hidden.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name == to.name:
        return entries[0]
    return hidden


def settle(hidden: Path, to: Path) -> None:
    """Put what was unpacked into `hidden` into its place, by renaming.

    What is in the place already stays; a file that is there with other content is never replaced.

    Raises:
        DataError: such a file is there; nothing was moved.
    """
    root = root_of(hidden, to)
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        root.rename(to)
    else:
        clash = next(_clashes(root, to), None)
        if clash is not None:
            raise DataError(f"{clash} is there already and holds something else: move it away")
        _merge(root, to)
    shutil.rmtree(hidden, ignore_errors=True)


def _clashes(ours: Path, theirs: Path) -> Iterator[Path]:
    for entry in ours.iterdir():
        place = theirs / entry.name
        if not os.path.lexists(place):
            continue
        if entry.is_dir() and place.is_dir():
            yield from _clashes(entry, place)
        elif entry.is_dir() or not place.is_file() or not _same(entry, place):
            yield place


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while piece := a.read(_PIECE):
            if piece != b.read(_PIECE):
                return False
    return True


def _merge(ours: Path, theirs: Path) -> None:
    for entry in list(ours.iterdir()):
        place = theirs / entry.name
        if not os.path.lexists(place):
            entry.rename(place)
        elif entry.is_dir():
            _merge(entry, place)
        else:
            entry.unlink()
