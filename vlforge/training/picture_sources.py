"""Where a run's pictures are read from: files, places in shards, or a file set aside.

A picture that a shard holds is not copied: its bytes are looked for in the shard, from
where the last one stood, and read again from there. What is packed (gzip, most of a
compressed table) cannot be read so, and is set aside.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import msgspec

from vlforge.data.detect import files_of_pattern
from vlforge.data.disk_table import DiskTable
from vlforge.data.set_aside import Aside
from vlforge.models.parts.anyres import BLANK, Size
from vlforge.training.disk_lists import DiskWords, DiskWordsWriter, cannot_write
from vlforge.types import DataError

WINDOW = 32 << 20
"""Bytes of a shard that are looked through for one picture."""
PIECE = 1 << 20
"""Bytes of it that are held at once, beside the picture's own length."""
MISSES = 8
"""Pictures in a row that a dataset's files do not show as they are, before looking ends."""
SHARDS = (".tar", ".parquet", ".arrow", ".tsv")
"""Ends of names of files that pictures are looked for in, of a folder's."""
IN_BASE64 = (".tsv", ".json", ".jsonl")
"""Ends of names of files that hold pictures as base64."""


@dataclass(frozen=True)
class Placed:
    """A picture in a file of others: from where, how many bytes, in base64 or as they are."""

    path: str
    start: int
    length: int
    is_base64: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"{Path(self.path).name} at byte {self.start}"

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            DataError: the file is gone, or shorter than it was.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), self.length, self.start)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None
        if len(data) < self.length:
            raise DataError(f"{self.name}: the file was cut after its rows were read")
        try:
            return binascii.a2b_base64(data) if self.is_base64 else data
        except ValueError:
            raise DataError(f"{self.name}: the file was changed after its rows were read") from None


@dataclass(frozen=True)
class Stored:
    """A picture that came with the data, set aside in a file without a name."""

    aside: Aside
    number: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"picture {self.number + 1} of those in the data"

    def read(self) -> bytes:
        """The encoded picture."""
        return self.aside.read(self.number)


Source = str | Placed | Stored


def name_of(source: Source) -> str:
    """The picture's file name, or what stands for it."""
    return Path(source).name if isinstance(source, str) else source.name


def content_of(source: Source) -> str | bytes:
    """The path, or the encoded picture of one that is in no file of its own."""
    return source if isinstance(source, str) else source.read()


class Found:
    """The different pictures of a dataset, numbered as they are met.

    Pictures that the data hold themselves are kept in a file of `scratch` that
    has no name, so that memory does not grow with them.
    """

    def __init__(self, scratch: Path | None = None):
        self.sources: list[Source] = []
        self._numbers: dict[bytes, int] = {}
        self._scratch = scratch
        self._aside: Aside | None = None

    def number(self, image: str | bytes) -> int:
        """The number of a path or of an encoded picture; equal ones have the same."""
        number = self._numbers.setdefault(key_of(image), len(self.sources))
        if number == len(self.sources):
            self.sources.append(image if isinstance(image, str) else self._stored(image))
        return number

    def _stored(self, image: bytes) -> Stored:
        if self._aside is None:
            self._aside = Aside(self._scratch)
        return Stored(self._aside, self._aside.add(image))


def key_of(image: str | bytes) -> bytes:
    """Equal for equal paths and for equal pictures."""
    data = b"p" + os.fsencode(image) if isinstance(image, str) else b"b" + image
    return hashlib.blake2b(data, digest_size=16).digest()


class SourceWriter:
    """The different pictures of a dataset, numbered as they are met and written down.

    As `Found`, but memory holds eight bytes a picture, and what was written is found
    again by a later process.
    """

    PLACES, HELD = "pictures.words", "pictures.bin"

    def __init__(self, folder: Path):
        self._folder = folder
        self._places = DiskWordsWriter(folder / self.PLACES)
        self._numbers = DiskTable()
        self._held_path = folder / self.HELD
        self._held = self._held_path.open("wb")
        self._end = 0
        self._sizes = array("i")
        self._digest = hashlib.sha256()
        self._shards = Shards("")

    def begin(self, dataset: str) -> None:
        """Pictures that come now are of this dataset."""
        self._shards = Shards(dataset)

    def number(self, image: str | bytes, size: Size = BLANK) -> int:
        """The number of a path or of an encoded picture; equal ones have the same."""
        key = key_of(image)
        known = self._numbers.get(key)
        if known is not None:
            return int.from_bytes(known, "little")
        number = self._places.add(self._told(image))
        self._numbers.put(key, number.to_bytes(8, "little"))
        self._sizes.extend(size)
        # Not the folder: the same pictures may stand elsewhere tomorrow.
        named = os.fsencode(os.path.basename(image)) if isinstance(image, str) else key
        self._digest.update(len(named).to_bytes(4, "little") + named)
        return number

    def _told(self, image: str | bytes) -> str:
        if isinstance(image, str):
            return image
        place = self._shards.place(image) or self._set_aside(image)
        told = (place.path, place.start, place.length, place.is_base64)
        return "\0" + msgspec.json.encode(told).decode()

    def _set_aside(self, image: bytes) -> Placed:
        start, self._end = self._end, self._end + len(image)
        try:
            self._held.write(image)
        except OSError as error:
            raise cannot_write(self._held_path, error) from None
        # Its folder is renamed when it is whole, so that the reader knows it, not the writer.
        return Placed("", start, len(image))

    def close(self) -> tuple[array[int], str]:
        """Width and height of each picture, one after the other, and a digest of all.

        Raises:
            WriteError: the disk is full.
        """
        self._places.close()
        self._numbers.close()
        try:
            self._held.close()
        except OSError as error:
            raise cannot_write(self._held_path, error) from None
        return self._sizes, self._digest.hexdigest()


class WrittenSources(Sequence[Source]):
    """The pictures that a `SourceWriter` wrote, by their numbers."""

    def __init__(self, folder: Path):
        self._places = DiskWords(folder / SourceWriter.PLACES)
        self._held = str(folder / SourceWriter.HELD)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Source: ...
    @overload
    def __getitem__(self, at: slice) -> list[Source]: ...

    def __getitem__(self, at: int | slice) -> Source | list[Source]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        told = self._places[at]
        if not told.startswith("\0"):
            return told
        path, start, length, is_base64 = msgspec.json.decode(told[1:])
        return Placed(path or self._held, start, length, is_base64)


class Shards:
    """The files of a dataset, looked through for the pictures that were read from them.

    Pictures come in the order in which they stand, so that each is looked for behind the
    last one and in the file after it.
    """

    def __init__(self, dataset: str):
        self._files = _shards_of(dataset) if dataset else []
        self._at = self._from = self._missed = 0

    def place(self, image: bytes) -> Placed | None:
        """Where the picture stands; None where it is not found as it is."""
        if self._missed >= MISSES or not image:
            return None
        for at, start in ((self._at, self._from), (self._at + 1, 0)):
            found = self._look(at, start, image) if at < len(self._files) else None
            if found is not None:
                self._at, self._from, self._missed = at, found.start + found.length, 0
                return found
        self._missed += 1
        return None

    def _look(self, at: int, start: int, image: bytes) -> Placed | None:
        path = self._files[at]
        is_base64 = path.suffix in IN_BASE64
        wanted = base64.b64encode(image) if is_base64 else image
        try:
            with path.open("rb", buffering=0) as file:
                found = _find(file.fileno(), wanted, start)
        except OSError:
            return None
        return None if found < 0 else Placed(str(path), found, len(wanted), is_base64)


def _find(file: int, wanted: bytes, start: int) -> int:
    """Where the bytes begin, at most `WINDOW` behind `start`; -1 where they do not."""
    # Most stand right behind the last ones: a small piece first.
    size = len(wanted) + 8192
    for at in (start, *range(start, start + WINDOW, PIECE)):
        data = os.pread(file, size, at)
        if (found := data.find(wanted)) >= 0:
            return at + found
        if len(data) < size:
            return -1
        size = len(wanted) + PIECE
    return -1


def _shards_of(dataset: str) -> list[Path]:
    path = Path(dataset).absolute()
    if path.is_dir():
        inside = (one for one in path.rglob("*") if one.suffix in SHARDS and one.is_file())
        return sorted(inside)
    return [path] if path.is_file() else files_of_pattern(str(path))
