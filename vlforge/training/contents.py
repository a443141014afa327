"""What pictures hold, as a key of 16 bytes, without reading again what did not change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vlforge.training.disk_lists import cannot_write
from vlforge.training.picture_sources import Placed, Source, content_of
from vlforge.types import DataError

KEY = 16
AT_ONCE = 256
"""Pictures that are under way at once."""


class Contents:
    """Keys of pictures by what they hold; those of files are remembered in `home`.

    A file is known by its path, size and time of change. What was remembered is a row of
    two keys each, written one behind the other: what a kill leaves half is not read.
    """

    NAME = "contents.keys"

    def __init__(self, home: Path, threads: int = 4):
        self._path = home / self.NAME
        self._threads = threads
        self._known: dict[bytes, bytes] = {}
        if self._path.is_file():
            content = np.fromfile(self._path, dtype=np.uint8)
            rows = content[: len(content) // (2 * KEY) * 2 * KEY].reshape(-1, 2 * KEY)
            self._known = {row[:KEY].tobytes(): row[KEY:].tobytes() for row in rows}

    def keys(self, sources: Sequence[Source]) -> list[bytes]:
        """One for each, in order; a picture that cannot be read has that of its place.

        Raises:
            WriteError: the disk is full.
        """
        found: list[bytes] = []
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(sources), AT_ONCE):
                told = list(pool.map(self._key, sources[start : start + AT_ONCE]))
                found += [key for _, key in told]
                self._remember({name: key for name, key in told if name not in self._known})
        return found

    def _remember(self, learned: dict[bytes, bytes]) -> None:
        learned.pop(b"", None)  # of what is in no file
        if not learned:
            return
        self._known |= learned
        rows = b"".join(name + key for name, key in learned.items())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # A row that was cut short before would put all others out of step.
                file.write(b"\0" * (-file.tell() % (2 * KEY)) + rows)
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def _key(self, source: Source) -> tuple[bytes, bytes]:
        """What a file is known by, empty where nothing is, and its content's key."""
        told = fingerprint(source)
        if told in self._known:
            return told, self._known[told]
        try:
            content = content_of(source)
            data = Path(content).read_bytes() if isinstance(content, str) else content
        except (OSError, DataError):
            return b"", _digest(repr(source).encode())
        return told, _digest(data)


def fingerprint(source: Source) -> bytes:
    """Changes when a file does; empty of a picture that is in none that stays."""
    if not isinstance(source, str | Placed):
        return b""
    path, inside = (source, "") if isinstance(source, str) else (source.path, repr(source))
    try:
        told = os.stat(path)
    except OSError:
        return b""
    place = f"{os.path.abspath(path)}\0{inside}\0{told.st_size}\0{told.st_mtime_ns}"
    return _digest(place.encode(errors="surrogateescape"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY).digest()
