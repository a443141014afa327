"""A table of bytes that may outgrow memory: what is too much goes to a file without a name."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from vlforge.types import WriteError

IN_MEMORY = 32 << 20
_ENTRY = 200
_AT_ONCE = 500


class DiskTable:
    """Values by key, for one reader or writer."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        """
        Args:
            in_memory: bytes that are kept in memory, what a dictionary takes for them included.
        """
        self._near: dict[bytes, bytes] = {}
        self._left = in_memory
        # An empty name is sqlite's temporary database: in memory as long as it is small.
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("CREATE TABLE kept (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, in place of an earlier one under that key.

        Raises:
            WriteError: the disk is full.
        """
        if self._left > 0 or key in self._near:
            self._near[key] = value
            self._left -= len(key) + len(value) + _ENTRY
            return
        try:
            self._base.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))
        except sqlite3.OperationalError as error:
            raise WriteError(f"cannot write in the temporary folder: {error}") from None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none."""
        near = self._near.get(key)
        if near is not None or self._left > 0:
            return near
        found = self._base.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return bytes(found[0]) if found else None

    def get_all(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of the keys that there are."""
        found = {key: self._near[key] for key in keys if key in self._near}
        far = [key for key in keys if key not in found]
        for at in range(0, len(far), _AT_ONCE):
            some = far[at : at + _AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(
                self._base.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some)
            )
        return found

    def close(self) -> None:
        """Give the space back."""
        self._base.close()
