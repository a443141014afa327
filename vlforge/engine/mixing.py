"""Shares of several datasets: which rows of each, in which order.

The draws are Data-Juicer's: a dataset of which a share is wanted is shuffled with
seed 42 and cut; one of which more is wanted than it has is repeated. A dataset
that is wanted whole keeps its order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from vlforge.data.json_lines import decode
from vlforge.engine.files import Chunk, Origin
from vlforge.engine.inputs import Part
from vlforge.ops.base import look_up
from vlforge.types import DataError

SEED = 42
_AT_ONCE = 1000


def shares(weights: Sequence[float], budget: int) -> list[int]:
    """Rows of each dataset, `budget` in all: each share rounded up while rows are left."""
    total = sum(weights)
    out: list[int] = []
    for weight in weights:
        wanted = math.ceil(budget * (weight / total))
        out.append(min(wanted, budget - sum(out)))
    return out


def count_rows(parts: Sequence[Part]) -> int:
    """Rows of some files, blank lines not counted; reads them through."""
    return sum(not line.isspace() for line, _, _ in _lines(parts))


def count_usable(parts: Sequence[Part], keys: Sequence[str]) -> int:
    """Rows of some files that have all `keys`."""
    return sum(_is_usable(line, keys) for line, _, _ in _lines(parts) if not line.isspace())


def _lines(parts: Sequence[Part]) -> Iterator[tuple[bytes, int, Origin]]:
    """Every line, its number in its file, and the file."""
    for part in parts:
        for chunk in part.reader.chunks(_AT_ONCE, 1, 0):
            origins = chunk.origins or [part.origin] * len(chunk.lines)
            yield from zip(chunk.lines, chunk.numbers, origins, strict=True)


def _is_usable(line: bytes, keys: Sequence[str]) -> bool:
    try:
        row = decode(line)
    except DataError:
        return False
    return isinstance(row, dict) and all(look_up(row, key) is not None for key in keys)


class Shuffled:
    """`wanted` rows of some files in shuffled order, over and over where they are too few.

    `rows` of them have all `keys`; the others follow at the end, so that they are
    reported and not lost. The chosen lines wait in a temporary file; memory holds
    their places.
    """

    def __init__(self, parts: Sequence[Part], keys: Sequence[str], rows: int, wanted: int):
        self.parts, self.keys = parts, keys
        self.rows, self.wanted = rows, wanted

    def row_count(self) -> int | None:
        """Number of rows wanted."""
        return self.wanted

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of shuffled lines; `line` counts them."""
        slots, spool = self._slots, self._spool
        stop = self.wanted + spool.count - len(slots)
        for first in range(line - 1, stop, rows):
            places = range(first, min(first + rows, stop))
            found = [spool.read(self._slot(place)) for place in places]
            lines, numbers, origins = map(list, zip(*found, strict=True))
            copies = [place // self.rows if place < self.wanted else 0 for place in places]
            yield Chunk(lines, numbers, places.stop + 1, 0, copies, origins)

    def _slot(self, place: int) -> int:
        if place < self.wanted:
            return int(self._slots[place % self.rows])
        return len(self._slots) + place - self.wanted

    @cached_property
    def _order(self) -> Any:
        """The row of each place of the shuffled rows, as far as they are wanted."""
        import numpy as np

        return np.random.default_rng(SEED).permutation(self.rows)[: self.wanted]

    @cached_property
    def _slots(self) -> Any:
        """Where the spool has the row of each place."""
        slots = self._order.argsort()
        slots[slots.copy()] = range(len(slots))
        return slots

    @cached_property
    def _spool(self) -> _Spool:
        """The wanted rows in the order of their files, then those that are no use."""
        wanted = iter(sorted(self._order.tolist()))
        spool, useless, following, row = _Spool(), _Spool(), next(wanted, -1), 0
        for line, number, origin in _lines(self.parts):
            if line.isspace():
                continue
            if not _is_usable(line, self.keys):
                useless.add(line, number, origin)
                continue
            if row == following:
                spool.add(line, number, origin)
                following = next(wanted, -1)
            row += 1
        for place in range(useless.count):
            spool.add(*useless.read(place))
        return spool


class _Spool:
    """Lines in a temporary file, found again by their place."""

    def __init__(self) -> None:
        import tempfile

        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._starts, self._numbers, self._owners = array("q", [0]), array("q"), array("l")
        self._origins: list[Origin] = []

    @property
    def count(self) -> int:
        """Number of lines."""
        return len(self._numbers)

    def add(self, line: bytes, number: int, origin: Origin) -> None:
        """Append a line."""
        if not self._origins or self._origins[-1] is not origin:
            self._origins.append(origin)
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))
        self._numbers.append(number)
        self._owners.append(len(self._origins) - 1)

    def read(self, place: int) -> tuple[bytes, int, Origin]:
        """The line at a place, its number in its file, and the file."""
        start, stop = self._starts[place], self._starts[place + 1]
        self._file.seek(start)
        line = self._file.read(stop - start)
        return line, self._numbers[place], self._origins[self._owners[place]]
