"""Lists of texts that stay on disk: written once, then read by place from any thread."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from vlforge.types import DataError, WriteError

_END = 8


class DiskWords(Sequence[str]):
    """Texts of a file and where each ends, both read when asked for.

    Read, not mapped: pages of a map stay in memory as long as there is some, and a map
    of a file that is cut short kills the process.
    """

    def __init__(self, path: Path):
        """
        Args:
            path: as `DiskWordsWriter` wrote it.
        """
        self._path = path
        self._words = os.open(path, os.O_RDONLY)
        self._ends = os.open(_ends_of(path), os.O_RDONLY)
        self._count = os.fstat(self._ends).st_size // _END

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        at = int(at)
        if not 0 <= at < self._count:
            raise IndexError(at)
        first = max(at - 1, 0)
        found = os.pread(self._ends, (at - first + 1) * _END, first * _END)
        ends = array("q", found[: len(found) // _END * _END])
        start = ends[0] if at else 0
        data = os.pread(self._words, ends[-1] - start, start)
        if len(data) < ends[-1] - start:
            raise DataError(f"{self._path} was cut while it is read")
        return data.decode("utf-8", errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[at] for at in range(len(self)))

    def __del__(self) -> None:
        for file in (getattr(self, "_words", None), getattr(self, "_ends", None)):
            if file is not None:
                os.close(file)


class DiskWordsWriter:
    """Writes texts one after the other."""

    def __init__(self, path: Path):
        self._path = path
        self._words, self._ends = path.open("wb"), _ends_of(path).open("wb")
        self._count = self._end = 0

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> int:
        """Keep a text; its number.

        Raises:
            WriteError: the disk is full.
        """
        data = text.encode("utf-8", errors="surrogateescape")
        self._end += len(data)
        try:
            self._words.write(data)
            self._ends.write(self._end.to_bytes(_END, "little"))
        except OSError as error:
            raise cannot_write(self._path, error) from None
        self._count += 1
        return self._count - 1

    def close(self) -> None:
        """Nothing comes any more.

        Raises:
            WriteError: the disk is full.
        """
        try:
            self._words.close()
            self._ends.close()
        except OSError as error:
            raise cannot_write(self._path, error) from None


def cannot_write(path: Path, error: OSError) -> WriteError:
    """What is told of a write that the disk refuses."""
    return WriteError(f"cannot write {path.parent}: {error.strerror or error}; make room there")


def _ends_of(path: Path) -> Path:
    return path.with_suffix(".ends")
