"""A histogram of numbers that arrive in portions, whose range nobody knows beforehand.

Bins are a power of two wide and start at a multiple of their width; when the
range outgrows them, neighbours merge, which loses nothing. So the result
depends on the numbers alone, not on how they were portioned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain, compress
from typing import Any

MOST_BINS = 64


def histograms(
    names: Sequence[str], columns: Sequence[Sequence[Any]], stays: Sequence[bool]
) -> dict[str, Histogram]:
    """One per statistic whose values are numbers, or lists of numbers; `stays` says of each row
    whether it was kept."""
    found = {}
    for name, column in zip(names, columns, strict=bool(names)):
        marks = stays
        if column and isinstance(column[0], list):
            marks = [stay for values, stay in zip(column, stays, strict=True) for _ in values]
            column = list(chain.from_iterable(column))
        if column and all(issubclass(kind, int | float) for kind in set(map(type, column))):
            found[name] = Histogram()
            found[name].add(column, marks)
    return found


class Histogram:
    """Counts of all values and of those whose row stayed."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.total = 0.0
        self.number = 0
        self.power: int | None = None
        self.counts: dict[int, list[int]] = {}

    def add(self, values: Sequence[float], stays: Sequence[bool]) -> None:
        """Take a portion; values that are no finite numbers are left out."""
        if not all(map(math.isfinite, values)):
            usable = [pair for pair in zip(values, stays, strict=True) if math.isfinite(pair[0])]
            values, stays = [value for value, _ in usable], [stay for _, stay in usable]
        if not values:
            return
        numbers = list(map(float, values))
        power = self._grow(min(numbers), max(numbers), math.fsum(numbers), len(numbers))
        where = list(map(math.floor, map((2.0**-power).__mul__, numbers)))
        kept = Counter(compress(where, stays))
        for place, count in Counter(where).items():
            pair = self.counts.setdefault(place, [0, 0])
            pair[0] += count
            pair[1] += kept[place]

    def merge(self, other: Histogram) -> None:
        """Take what another histogram has taken."""
        if other.power is None:
            return
        shift = self._grow(other.low, other.high, other.total, other.number) - other.power
        for where, (all_of, kept) in other.counts.items():
            pair = self.counts.setdefault(where >> shift, [0, 0])
            pair[0] += all_of
            pair[1] += kept

    def _grow(self, low: float, high: float, total: float, number: int) -> int:
        """Make room for numbers of this range; the power of the bins that they fall into."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += total
        self.number += number
        self._widen()
        assert self.power is not None
        return self.power

    def _widen(self) -> None:
        """Make the bins wide enough for the range; the finest that `MOST_BINS` allow."""
        span = max(self.high - self.low, abs(self.high) * 2.0**-40, 2.0**-40)
        power = math.ceil(math.log2(span / (MOST_BINS - 2)))
        while (
            math.floor(math.ldexp(self.high, -power)) - math.floor(math.ldexp(self.low, -power))
            >= MOST_BINS
        ):
            power += 1
        if self.power is None:
            self.power = power
            return
        power = max(power, self.power)
        merged: dict[int, list[int]] = {}
        shift = power - self.power
        for where, (all_of, kept) in self.counts.items():
            into = merged.setdefault(where >> shift, [0, 0])
            into[0] += all_of
            into[1] += kept
        self.counts, self.power = merged, power

    def summary(self, bounds: Sequence[float | None]) -> dict[str, Any]:
        """Edges, counts, bounds, lowest, highest and mean, ready for JSON."""
        if self.power is None:
            return {"histogram": None, "bounds": list(bounds), "min": None, "max": None,
                    "mean": None}  # fmt: skip
        first, last = min(self.counts), max(self.counts)
        columns = [self.counts.get(where, (0, 0)) for where in range(first, last + 1)]
        edges = [math.ldexp(where, self.power) for where in range(first, last + 2)]
        return {
            "histogram": {
                "edges": edges,
                "counts": [column[0] for column in columns],
                "kept_counts": [column[1] for column in columns],
            },
            "bounds": list(bounds),
            "min": self.low,
            "max": self.high,
            "mean": self.total / self.number,
        }

    def state(self) -> list[Any]:
        """All of it, for a journal."""
        counts = [[where, pair] for where, pair in self.counts.items()]
        return [self.low, self.high, self.total, self.number, self.power, counts]

    @classmethod
    def restored(cls, state: Sequence[Any]) -> Histogram:
        """The histogram that `state` describes."""
        self = cls()
        self.low, self.high, self.total, self.number, self.power, counts = state
        self.counts = {where: list(pair) for where, pair in counts}
        return self
