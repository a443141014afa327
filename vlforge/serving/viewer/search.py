"""Finding rows: one pass over a dataset in a thread of its own, that can be watched and stopped."""

from __future__ import annotations

import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vlforge.serving.viewer.index import Records
from vlforge.serving.viewer.sources import Item, Source, counts_of
from vlforge.types import DataError

_NUMBER = struct.Struct("<Q")
_BLOCK_ROWS = 512
_SURVEY_ROWS = 5000
_BINS = 24
_NAMES_SHOWN = 60
_WAIT_S = 0.05
_is_escaped = re.compile(r'["\\/<>\ud800-\udfff]').search
State = Literal["", "same", "changed", "missing"]


class Ask(BaseModel):
    """What rows are wanted; fields that are not given ask for nothing.

    `text` is sought without regard to case in what is said and in the id
    (`field` says where). `stat` within `low` and `high`, both included; of a
    list of values one is enough. `state` is what became of a row in the other
    dataset.
    """

    model_config = ConfigDict(extra="forbid")

    text: str = Field("", max_length=500)
    field: Literal["all", "text", "id"] = "all"
    stat: str = Field("", max_length=200)
    low: float | None = None
    high: float | None = None
    op: str = Field("", max_length=200)
    reason: str = Field("", max_length=500)
    state: State = ""


StateOf = Callable[[Item], str]


class Wanted:
    """Whether a row is one of those that are asked for."""

    def __init__(self, ask: Ask, state_of: StateOf | None = None):
        self.ask = ask
        self._text = ask.text.lower()
        self._state_of = state_of
        self._bytes = self._text.encode() if _has_one_spelling(self._text) else b""

    def may_be(self, data: bytes) -> bool:
        """False only where a row's bytes rule it out: letters may be written as escapes."""
        return not self._bytes or self._bytes in data.lower() or b"\\u" in data

    def __call__(self, item: Item) -> bool:
        """Whether the row is wanted."""
        ask = self.ask
        if self._text and not self._says(item):
            return False
        if ask.stat and not self._measures(item):
            return False
        if (ask.reason or ask.op) and not self._was_dropped(item):
            return False
        if not ask.state:
            return True
        return self._state_of is not None and self._state_of(item) == ask.state

    def _says(self, item: Item) -> bool:
        return any(self._text in text.lower() for text in _texts(item, self.ask.field))

    def _measures(self, item: Item) -> bool:
        low = float("-inf") if self.ask.low is None else self.ask.low
        high = float("inf") if self.ask.high is None else self.ask.high
        return any(low <= value <= high for value in numbers_of(item).get(self.ask.stat, ()))

    def _was_dropped(self, item: Item) -> bool:
        op, reason = fate_of(item)
        return (not self.ask.op or op == self.ask.op) and (
            not self.ask.reason or reason == self.ask.reason
        )


def _has_one_spelling(text: str) -> bool:
    """Whether JSON that escapes no letters can write it in one way only, ASCII's case aside."""
    is_caseless = all(char.isascii() or char.lower() == char.upper() for char in text)
    return is_caseless and text.isprintable() and not _is_escaped(text)


def fate_of(item: Item) -> tuple[str, str]:
    """(operator, reason) of a row that was dropped or could not be read; ("", "") of others."""
    if item.fate is not None:
        return item.fate.op, item.fate.reason
    return ("read", item.fault.reason) if item.fault is not None else ("", "")


def _texts(item: Item, field: str) -> Iterator[str]:
    record = item.record
    if field != "text" and record is not None and record.id is not None:
        yield str(record.id)
    if field == "id":
        return
    if record is None:
        yield item.fault.value if item.fault else ""
        return
    yield from (turn.text for turn in record.turns)
    yield from record.chunks
    if item.after is not None:
        yield item.after


def numbers_of(item: Item) -> dict[str, list[float]]:
    """Every statistic of a row that is a number or a list of numbers."""
    found: dict[str, list[float]] = {}
    values: dict[str, Any] = dict(counts_of(item.record)) if item.record is not None else {}
    if item.record is not None:
        values |= item.record.extra
    values |= item.stats
    for name, value in values.items():
        several = value if isinstance(value, list) else [value]
        numbers = [v for v in several if isinstance(v, int | float) and not isinstance(v, bool)]
        if numbers and len(numbers) == len(several):
            found[name] = [float(number) for number in numbers]
    return found


class Scan:
    """One pass over a dataset; the numbers of the rows found go to a temporary file."""

    def __init__(self, source: Source, wanted: Wanted):
        self.source = source
        self.looked_at = 0
        self.is_done = False
        self.is_cancelled = False
        self.fault = ""
        self._wanted = wanted
        self._found = Records(_NUMBER)

    def __len__(self) -> int:
        """Rows found so far."""
        return len(self._found)

    def start(self) -> None:
        """Look in a thread of its own."""
        threading.Thread(target=self.run, daemon=True, name="scan").start()

    def run(self) -> None:
        """Look at all rows, waiting for those that are still being indexed."""
        try:
            while not self.is_cancelled and self._look_on():
                self._found.flush()
        except (DataError, OSError, ValueError) as error:
            self.fault = str(error)
        self.is_done = True

    def _look_on(self) -> bool:
        """Look at some more; False at the end."""
        was_complete = self.source.is_complete
        start = self.looked_at
        looked, items = self.source.sift(start, _BLOCK_ROWS, self._wanted.may_be)
        for item in filter(self._wanted, items):
            self._found.add(item.number)
        self.looked_at += looked
        if self.looked_at > start:
            return True
        if not was_complete:
            time.sleep(_WAIT_S)
        return not was_complete

    def take(self, start: int, count: int) -> list[int]:
        """Numbers of rows that were found."""
        return [number for (number,) in self._found.take(start, count)]

    def cancel(self) -> None:
        """Stop looking; what was found stays."""
        self.is_cancelled = True

    def close(self) -> None:
        """Stop, and forget what was found."""
        self.cancel()
        self._found.close()


def survey(source: Source) -> dict[str, Any]:
    """What can be filtered by: statistics with their ranges and shapes, reasons with counts.

    Of all rows where they are few, else of some thousand from all over the dataset.
    """
    is_complete = source.is_complete  # asked first: a part is not to be taken for the whole
    total = len(source)
    step = max(1, total // _SURVEY_ROWS)
    pieces = [(start, min(16, total - start)) for start in range(0, total, step * 16)]
    values: dict[str, list[float]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    looked = 0
    has_id = False
    for start, count in pieces:
        for item in source.items(start, count):
            looked += 1
            has_id = has_id or (item.record is not None and item.record.id is not None)
            for name, numbers in numbers_of(item).items():
                values.setdefault(name, []).extend(numbers)
            if item.fate is not None or item.fault is not None:
                reasons[fate_of(item)] += 1
    return {
        "rows": total,
        "looked_at": looked,
        "is_complete": is_complete,
        "has_id": has_id,
        "stats": _shapes(values),
        "reasons": [
            {"op": op, "reason": reason, "rows": rows}
            for (op, reason), rows in reasons.most_common(_NAMES_SHOWN)
        ],
    }


def _shapes(values: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    shapes = []
    for name, numbers in values.items():
        finite = [value for value in numbers if abs(value) < float("inf")]
        if finite and len(shapes) < _NAMES_SHOWN:
            shapes.append({"name": name, **_shape(finite)})
    return shapes


def _shape(values: list[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    width = (high - low) / _BINS
    bins = [0] * _BINS
    for value in values:
        place = int((value - low) / width) if 0 < width < float("inf") else 0
        bins[min(place, _BINS - 1)] += 1
    return {"low": low, "high": high, "bins": bins}
