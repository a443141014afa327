"""Holds a folder, so that two commands do not write into it at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vlforge.types import DataError


@contextlib.contextmanager
def alone(folder: Path, name: str, who: str) -> Iterator[None]:
    """Holds the folder while the block runs; gone with the process.

    Args:
        name: the file in it that is locked; "" locks the folder itself and leaves no file.

    Raises:
        DataError: the folder cannot be written, or `who` holds it already.
    """
    flags = os.O_WRONLY | os.O_CREAT if name else os.O_RDONLY
    try:
        held = os.open(folder / name, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: {who} writes there; wait for its end") from None
        except OSError:  # Some network file systems know no locks.
            pass
        yield
    finally:
        os.close(held)
