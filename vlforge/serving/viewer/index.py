"""Where each row of a file begins: kept on disk, built while the first rows are shown already.

A row costs 16 bytes of a temporary file and none of memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vlforge.data.json_arrays import MAX_ITEM, STOPS, array_items
from vlforge.types import DataError

_PLACE = struct.Struct("<QII")
_FLUSH_ROWS = 4096
_BLOCK_BYTES = 16 << 20
_MAX_BYTES = (1 << 32) - 1


class Place(NamedTuple):
    """Where a row stands in its file; `line` is counted from 1."""

    offset: int
    size: int
    line: int


class Records:
    """Records of one fixed size in a temporary file: one thread adds, others read."""

    def __init__(self, layout: struct.Struct):
        self._layout = layout
        self._file = tempfile.TemporaryFile(prefix="vlforge-view-")  # noqa: SIM115
        self._waiting = bytearray()
        self._count = 0

    def __len__(self) -> int:
        """Those that can be read."""
        return self._count

    @property
    def byte_count(self) -> int:
        """Bytes of the temporary file."""
        return self._count * self._layout.size

    def add(self, *values: int) -> None:
        """One more; it can be read after the next `flush`, or some thousand more."""
        self._waiting += self._layout.pack(*values)
        if len(self._waiting) >= _FLUSH_ROWS * self._layout.size:
            self.flush()

    def flush(self) -> None:
        """Let all that were added be read.

        Raises:
            DataError: the disk of temporary files is full.
        """
        try:
            self._file.write(self._waiting)
            self._file.flush()
        except OSError as error:
            where = tempfile.gettempdir()
            raise DataError(f"cannot write an index in {where}: {error.strerror}") from None
        self._count += len(self._waiting) // self._layout.size
        self._waiting.clear()

    def take(self, start: int, count: int) -> list[tuple[int, ...]]:
        """Up to `count` of them from `start`."""
        count = min(count, self._count - start)
        if start < 0 or count <= 0:
            return []
        size = self._layout.size
        data = os.pread(self._file.fileno(), count * size, start * size)
        return list(self._layout.iter_unpack(data))

    def close(self) -> None:
        """Forget them."""
        self._file.close()


class RowIndex:
    """The rows of one file of JSON lines, or of one JSON array, by number from 0.

    `build` runs to its end in one thread; rows can be read while it does.
    """

    def __init__(self, path: Path):
        self.path = path
        self.places = Records(_PLACE)
        self.is_complete = False
        self.fault = ""
        """Why the file cannot be read on."""
        self.read_bytes = 0
        try:
            self._file = path.open("rb")
            self.total_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise DataError(f"dataset {path} cannot be read: {error.strerror}") from None

    def __len__(self) -> int:
        """Rows found so far."""
        return len(self.places)

    def start(self) -> None:
        """Build in a thread of its own."""
        threading.Thread(target=self.build, daemon=True, name="index").start()

    def build(self) -> None:
        """Find every row; what stops the reading is noted in `fault`."""
        try:
            with self.path.open("rb") as file:
                head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
                file.seek(0)
                self._build_array(file.fileno()) if head[:1] == b"[" else self._build_lines(
                    file.readline
                )
        except (*STOPS, DataError, ValueError) as error:
            self.fault = str(error)
        self.finish()

    def finish(self) -> None:
        """No more rows will come."""
        try:
            self.places.flush()
        except (DataError, ValueError) as error:
            self.fault = self.fault or str(error)
        self.is_complete = True

    def add(self, size: int, line: int) -> None:
        """A row of `size` bytes that stands where the last one ended."""
        self.places.add(self.read_bytes, min(size, _MAX_BYTES), line)
        self.read_bytes += size

    def _build_lines(self, readline: Callable[[int], bytes]) -> None:
        offset = number = 0
        while line := readline(MAX_ITEM):
            number += 1
            size = len(line)
            while not line.endswith(b"\n") and len(line) >= MAX_ITEM:
                line = readline(MAX_ITEM)
                size += len(line)
            if size > len(line) or not line.isspace():
                self.places.add(offset, min(size, _MAX_BYTES), number)
            offset += size
            self.read_bytes = offset

    def _build_array(self, number: int) -> None:
        with (
            mmap.mmap(number, 0, access=mmap.ACCESS_READ) as text,
            self.path.open("rb") as file,
        ):
            end = 0
            for place, item in enumerate(array_items(file), 1):
                offset = text.find(item, end)
                end = offset + len(item)
                self.places.add(offset, len(item), place)
                self.read_bytes = end

    def take(self, start: int, count: int) -> list[tuple[Place, bytes]]:
        """Some rows that follow one another, as they stand in the file."""
        places = [Place(*found) for found in self.places.take(start, count)]
        if not places:
            return []
        first, end = places[0].offset, places[-1].offset + places[-1].size
        if end - first > _BLOCK_BYTES:
            return [(place, self._read(place)) for place in places]
        data = os.pread(self._file.fileno(), end - first, first)
        return [(p, data[p.offset - first : p.offset - first + p.size]) for p in places]

    def _read(self, place: Place) -> bytes:
        if place.size > MAX_ITEM:
            return b""
        return os.pread(self._file.fileno(), place.size, place.offset)

    def close(self) -> None:
        """Let go of the file and the temporary one."""
        self._file.close()
        self.places.close()
