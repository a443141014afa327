"""Bytes that are set aside on disk while a run needs them, found again by their number."""

from __future__ import annotations

import os
import tempfile
from array import array
from pathlib import Path

from vlforge.types import DataError


class Aside:
    """Pieces of bytes in a temporary file that has no name: gone with the process.

    All pieces are added by one thread; then any thread reads.
    """

    def __init__(self, folder: Path | None = None):
        """
        Args:
            folder: where the disk space is taken; the system's temporary folder by default.

        Raises:
            DataError: nothing can be written there.
        """
        self._where = str(folder or tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise DataError(f"cannot write in {self._where}: {error.strerror or error}") from None
        self._starts = array("q", [0])
        self._is_flushed = True

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, data: bytes) -> int:
        """Keep a piece; its number.

        Raises:
            DataError: the disk is full.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise DataError(f"cannot write in {self._where}: {error.strerror or error}") from None
        self._is_flushed = False
        self._starts.append(self._starts[-1] + len(data))
        return len(self) - 1

    def read(self, number: int) -> bytes:
        """The piece of that number."""
        if not self._is_flushed:
            self._file.flush()
            self._is_flushed = True
        start, stop = self._starts[number], self._starts[number + 1]
        return os.pread(self._file.fileno(), stop - start, start)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
