"""The files of a run while they grow, and the journal that lets a killed run go on.

Every file grows under a hidden name. After some blocks the lengths of all of
them and the counts are written to the journal in one atomic step; a run that
finds a journal cuts the files back to those lengths and goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from vlforge.data.json_lines import decode, encode
from vlforge.types import DataError

JOURNAL = ".journal.json"
COMMIT_EVERY_S = 0.5


class Outputs:
    """Append-only files of one folder with a common journal."""

    def __init__(self, folder: Path, key: str):
        self.folder = folder
        self.key = key
        self._files: dict[str, IO[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._committed = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None

    def resume(self) -> dict[str, Any] | None:
        """The state at the last commit of the same work, files cut back to it; None: start."""
        try:
            state = decode((self.folder / JOURNAL).read_bytes())
        except (OSError, DataError):
            return self._forget()
        if not isinstance(state, dict) or state.get("key") != self.key:
            return self._forget()
        for name, size in state["sizes"].items():
            part = self._part(name)
            if not part.exists() or part.stat().st_size < size:
                return self._forget()
        for part in self.folder.glob(".*.part"):
            size = state["sizes"].get(part.name[1 : -len(".part")])
            part.unlink() if size is None else os.truncate(part, size)
        self._sizes = dict(state["sizes"])
        found: dict[str, Any] = state["state"]
        return found

    def _forget(self) -> None:
        for stale in self.folder.glob(".*.part"):
            stale.unlink()
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def append(self, name: str, lines: Iterable[bytes]) -> None:
        """Add lines to a file.

        Raises:
            DataError: no space, no permission; names the file and what helps.
        """
        self.append_raw(name, b"".join([line + b"\n" for line in lines]))

    def append_raw(self, name: str, data: bytes) -> None:
        """Add bytes to a file; raises as `append`."""
        try:
            if name not in self._files:
                self._files[name] = self._part(name).open("ab")
            if data:
                self._files[name].write(data)
        except OSError as error:
            raise cannot_write(self.folder / name, error) from None

    def due(self) -> bool:
        """Whether the last commit is some time ago."""
        return time.monotonic() - self._committed >= COMMIT_EVERY_S

    def commit(self, state: Callable[[], Any]) -> None:
        """Make everything written so far count, together with `state()`."""
        name = JOURNAL
        try:
            for name, file in self._files.items():  # noqa: B007
                file.flush()
            name = JOURNAL
            self._sizes |= {name: file.tell() for name, file in self._files.items()}
            data = encode({"key": self.key, "sizes": self._sizes, "state": state()})
            write_whole(self.folder / JOURNAL, data)
        except OSError as error:
            raise cannot_write(self.folder / name, error) from None
        self._committed = time.monotonic()

    def path(self, name: str) -> Path:
        """Where a growing file lies, flushed."""
        if name in self._files:
            self._files[name].flush()
        return self._part(name)

    def close(self) -> None:
        """Close all files; what is not committed will be cut off by the next run."""
        for file in self._files.values():
            try:
                file.close()
            except OSError:
                continue
        self._files = {}

    def finish(self, names: Iterable[str]) -> None:
        """Give the files their names and forget the rest and the journal."""
        try:
            for name in names:
                self.append(name, ())
                self._files[name].flush()
        except OSError as error:
            raise cannot_write(self.folder, error) from None
        self.close()
        for name in names:
            self._part(name).replace(self.folder / name)
        self._forget()

    def _part(self, name: str) -> Path:
        return self.folder / f".{name}.part"


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    part = path.with_name(f".{path.name.lstrip('.')}.new")
    part.write_bytes(data)
    part.replace(path)


def cannot_write(path: Path, error: OSError) -> DataError:
    """One line that names the file, the reason and the remedy."""
    import errno

    remedy = {
        errno.ENOSPC: "free some space and run again: it continues where it stopped",
        errno.EDQUOT: "free some of the quota and run again: it continues where it stopped",
        errno.EFBIG: "raise the limit on file sizes and run again: it continues",
        errno.EACCES: "give write permission or choose another place",
        errno.EPERM: "give write permission or choose another place",
        errno.EROFS: "the place is read-only: choose another",
    }.get(error.errno or 0, "choose another place")
    return DataError(f"cannot write {path}: {error.strerror or error}; {remedy}")
