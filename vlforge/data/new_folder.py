"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from vlforge.types import DataError, WriteError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSING = _FULL | {errno.EFBIG, errno.EROFS, errno.EIO}


def is_refusal(error: Exception) -> bool:
    """Whether the disk takes nothing more, as against one file that cannot be read or named."""
    return isinstance(error, OSError) and error.errno in _REFUSING


def write_error(path: Path, error: OSError, size: int = 0) -> WriteError:
    """What to say where the disk refuses `path`.

    Args:
        path: what was to be written.
        error: what the disk said.
        size: bytes that were to be written next, where that is known.
    """
    said = f"cannot write {path}: {error.strerror or error}"
    if error.errno not in _FULL:
        return WriteError(said)
    wanted = f"{size:,} bytes more are needed, " if size else ""
    free = f"{_free(path):,} are free" if size else f"{_free(path):,} bytes are free"
    return WriteError(f"{said}: {wanted}{free}; free some or name a target on another disk")


def _free(path: Path) -> int:
    for folder in path.absolute().parents:
        if os.path.isdir(folder):
            return shutil.disk_usage(folder).free
    return 0


class NewFolder:
    """A new folder, filled under a hidden name beside it; gone again after an error."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path:
        """The hidden folder.

        Raises:
            DataError: the name is taken by a file or by a folder that is not empty.
        """
        try:
            if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
                raise DataError(f"{self.path} exists already: remove it or name another target")
            if self.part.is_dir():
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from None
        return self.part

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        try:
            self.part.rename(self.path)
        except OSError as failure:
            shutil.rmtree(self.part, ignore_errors=True)
            raise DataError(f"cannot write {self.path}: {failure.strerror or failure}") from None
