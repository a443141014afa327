"""A table of bytes that may outgrow memory: it spills to a temporary file that nobody else sees."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

_AT_ONCE = 500


class DiskTable:
    """Values by key, for one reader or writer."""

    def __init__(self) -> None:
        # An empty name is sqlite's temporary database: in memory as long as it is small.
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("CREATE TABLE kept (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value, in place of an earlier one under that key."""
        self._base.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none."""
        found = self._base.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return bytes(found[0]) if found else None

    def get_all(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of the keys that there are."""
        found: dict[bytes, bytes] = {}
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            marks = ",".join("?" * len(some))
            found.update(
                self._base.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", some)
            )
        return found

    def close(self) -> None:
        """Give the space back."""
        self._base.close()
