"""Holds a folder, so that two commands do not write into it at once."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from vlforge.types import DataError


@contextlib.contextmanager
def alone(folder: Path, name: str, who: str) -> Iterator[None]:
    """Holds the folder by its file `name` while the block runs; gone with the process.

    Raises:
        DataError: the folder cannot be written, or `who` holds it already.
    """
    try:
        file = (folder / name).open("w")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: {who} writes there; wait for its end") from None
        except OSError:  # Some network file systems know no locks.
            pass
        yield
