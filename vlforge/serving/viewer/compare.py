"""Two datasets side by side: rows found by their ids, and the words that differ."""

from __future__ import annotations

import difflib
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlforge.serving.viewer.sources import Item, Source
from vlforge.types import DataError

_BLOCK_ROWS = 1024
_WAIT_S = 0.05
_MAX_WORDS = 1500
"""Words of a text beyond which it is shown without marks: the comparison is quadratic."""
_words = re.compile(r"\s+|\w+|[^\w\s]").findall


class Ids:
    """Which row of a dataset bears an id, the first of several; kept in a temporary database.

    Where no row has an id, rows are joined by their number.
    """

    def __init__(self, source: Source):
        self.source = source
        self.is_complete = False
        self.fault = ""
        self.done = 0
        self.has_any = False
        self._lock = threading.Lock()
        number, name = tempfile.mkstemp(prefix="vlforge-view-", suffix=".sqlite")
        os.close(number)
        self._base = sqlite3.connect(name, check_same_thread=False)
        self._base.execute("pragma journal_mode=off")
        self._base.execute("pragma synchronous=off")
        self._base.execute("create table ids (id text, row integer)")
        # Open but without a name: it goes with this process, however that ends.
        Path(name).unlink()

    def start(self) -> None:
        """Build in a thread of its own."""
        threading.Thread(target=self.build, daemon=True, name="ids").start()

    def build(self) -> None:
        """Note all ids, waiting for rows that are still being indexed."""
        try:
            while self._note_more():
                pass
            with self._lock:
                self._base.execute("create index by_id on ids (id, row)")
        except (sqlite3.Error, DataError, OSError, ValueError) as error:
            self.fault = f"rows cannot be joined: {error}"
        self.is_complete = True

    def _note_more(self) -> bool:
        was_complete = self.source.index.is_complete
        items = self.source.items(self.done, _BLOCK_ROWS)
        rows = [(_key(item), item.number) for item in items if _key(item)]
        self.has_any = self.has_any or bool(rows)
        with self._lock:
            self._base.executemany("insert into ids values (?, ?)", rows)
        self.done += len(items)
        if not items and not was_complete:
            time.sleep(_WAIT_S)
        return bool(items) or not was_complete

    def find(self, key: str) -> int | None:
        """The number of the row with this id."""
        with self._lock:
            found = self._base.execute("select min(row) from ids where id = ?", (key,)).fetchone()
        return found[0] if found else None

    def close(self) -> None:
        """Remove the database."""
        with self._lock:
            self._base.close()


class Join:
    """The partner, in another dataset, of each row of one."""

    def __init__(self, mine: Ids, other: Ids):
        self.mine, self.other = mine, other

    @property
    def is_ready(self) -> bool:
        """Whether both datasets are read."""
        return self.mine.is_complete and self.other.is_complete

    @property
    def is_by_id(self) -> bool:
        """Whether ids join the rows; else their numbers do."""
        return self.mine.has_any or self.other.has_any

    def partner(self, item: Item) -> Item | None:
        """The row of the other dataset that belongs to this one."""
        number: int | None = item.number
        if self.is_by_id:
            key = _key(item)
            number = self.other.find(key) if key else None
        if number is None:
            return None
        found = self.other.source.items(number, 1)
        return found[0] if found else None

    def state(self, item: Item) -> str:
        """`same`, `changed` or `missing` in the other dataset."""
        while not self.is_ready:
            time.sleep(_WAIT_S)
        partner = self.partner(item)
        if partner is None:
            return "missing"
        return "same" if said(item) == said(partner) else "changed"


def _key(item: Item) -> str:
    if item.record is None or item.record.id is None:
        return ""
    return str(item.record.id)


def said(item: Item) -> list[tuple[str, str]]:
    """(role, text) of all that a row says; a document has no roles."""
    if item.record is None:
        return [("fault", item.fault.reason if item.fault else "")]
    if item.record.turns:
        return [(turn.role, turn.text) for turn in item.record.turns]
    return [("", chunk) for chunk in item.record.chunks]


Marked = list[list[Any]]
"""[words, "" | "gone" | "new"] pieces of a text."""


def differences(before: str, after: str) -> tuple[Marked, Marked]:
    """Both texts in pieces: what only the first has is `gone`, what only the second has `new`."""
    if before == after:
        return [[before, ""]], [[after, ""]]
    old, new = _words(before), _words(after)
    if max(len(old), len(new)) > _MAX_WORDS:
        return [[before, "gone"]], [[after, "new"]]
    left: Marked = []
    right: Marked = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        mark = "" if kind == "equal" else "x"
        _put(left, old[a:b], mark and "gone")
        _put(right, new[c:d], mark and "new")
    return left, right


def _put(pieces: Marked, words: Sequence[str], mark: str) -> None:
    if words:
        pieces.append(["".join(words), mark])
