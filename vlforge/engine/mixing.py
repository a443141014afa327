"""Shares of several datasets: which rows of each, in which order.

The draws are Data-Juicer's: a dataset of which a share is wanted is shuffled with
seed 42 and cut; one of which more is wanted than it has is repeated. A dataset
that is wanted whole keeps its order.
"""

from __future__ import annotations

import math
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from vlforge.engine.files import Chunk, Origin, Reader
from vlforge.engine.inputs import Part

SEED = 42
_ALL_AT_ONCE = 1000


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
    return sum(_rows(chunk) for part in parts for chunk in _chunks(part.reader))


def _chunks(reader: Reader) -> Iterator[Chunk]:
    return reader.chunks(_ALL_AT_ONCE, 1, 0)


def _rows(chunk: Chunk) -> int:
    return sum(not line.isspace() for line in chunk.lines)


class Shuffled:
    """`wanted` rows of some files in shuffled order, over and over where they are too few.

    The chosen lines wait in a temporary file; memory holds their places.
    """

    def __init__(self, parts: Sequence[Part], rows: int, wanted: int):
        self.parts, self.rows, self.wanted = parts, rows, wanted

    def row_count(self) -> int | None:
        """Number of rows wanted."""
        return self.wanted

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of shuffled lines; `line` counts them."""
        slots, spool = self._slots, self._spool
        for first in range(line - 1, self.wanted, rows):
            places = range(first, min(first + rows, self.wanted))
            found = [spool.read(int(slots[place % self.rows])) for place in places]
            lines, numbers, origins = map(list, zip(*found, strict=True))
            copies = [place // self.rows for place in places]
            yield Chunk(lines, numbers, places.stop + 1, 0, copies, origins)

    @cached_property
    def _order(self) -> Any:
        """The row of each place of the shuffled rows, as far as they are wanted."""
        import numpy as np

        return np.random.default_rng(SEED).permutation(self.rows)[: self.wanted]

    @cached_property
    def _slots(self) -> Any:
        """Where the spool has the row of each place."""
        order = self._order
        slots = order.argsort()
        slots[slots.copy()] = range(len(order))
        return slots

    @cached_property
    def _spool(self) -> _Spool:
        wanted = iter(sorted(self._order.tolist()))
        spool, following, row = _Spool(), next(wanted, -1), 0
        for part in self.parts:
            for chunk in _chunks(part.reader):
                for at, line in enumerate(chunk.lines):
                    if line.isspace():
                        continue
                    if row == following:
                        origin = chunk.origins[at] if chunk.origins else part.origin
                        spool.add(line, chunk.numbers[at], origin)
                        following = next(wanted, -1)
                    row += 1
        return spool


class _Spool:
    """Lines in a temporary file, found again by their place."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._starts, self._numbers, self._owners = array("q", [0]), array("q"), array("l")
        self._origins: list[Origin] = []

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
