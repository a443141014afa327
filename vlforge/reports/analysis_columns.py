"""Numbers, labels and digests that arrive row by row, and what can be said of them all.

Nothing is kept per row in memory: numbers go to sorted runs and digests to buckets on disk,
so that quantiles, histograms and counts of repeats are exact, whatever their number.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RUN = 1 << 16
"""Numbers that are sorted together, and digests that wait in memory."""
MOST_LABELS = 10_000
_BUCKETS = 64
_EXAMPLES = 8


class Column:
    """Collects the numbers of one statistic; those that are not finite are left out."""

    def __init__(self, file: Path):
        self._file = file
        self._waiting = array("d")
        self._moments = (0, 0.0, 0.0)
        self._on_disk = 0

    def add(self, values: Any) -> None:
        """Take some more, an array of float64."""
        self._waiting.frombytes(values[np.isfinite(values)].tobytes())
        while len(self._waiting) >= RUN:
            with self._file.open("ab") as file:
                file.write(self._sorted(self._waiting[:RUN]).tobytes())
            self._waiting = self._waiting[RUN:]
            self._on_disk += 1

    def finish(self) -> Numbers:
        """All numbers; the last of them stay in memory."""
        runs: list[Any] = []
        if self._waiting:
            runs.append(self._sorted(self._waiting))
        if self._on_disk:
            runs += list(np.memmap(self._file, np.float64, "r", shape=(self._on_disk, RUN)))
        count, mean, squares = self._moments
        std = math.sqrt(squares / (count - 1)) if count > 1 else None
        return Numbers(count, mean, std, tuple(runs))

    def _sorted(self, values: array[float]) -> Any:
        """The values in order; their mean and squared deviations are merged into those before.

        Source: Chan, Golub and LeVeque 1979.
        """
        run = np.sort(np.array(values))
        count, mean, squares = self._moments
        n, own = len(run), float(run.mean())
        with np.errstate(over="ignore"):
            own_squares = float(((run - own) ** 2).sum())
        total, apart = count + n, own - mean
        squares += own_squares + apart * apart * count * n / total
        self._moments = (total, mean + apart * n / total, squares)
        return run


@dataclass(frozen=True)
class Numbers:
    """The numbers of one statistic, as sorted runs.

    `std` divides by n - 1, as describe tables do; it is None for fewer than two.
    """

    count: int
    mean: float
    std: float | None
    runs: tuple[Any, ...]

    @property
    def low(self) -> float:
        """The smallest."""
        return min(float(run[0]) for run in self.runs)

    @property
    def high(self) -> float:
        """The largest."""
        return max(float(run[-1]) for run in self.runs)

    def at(self, rank: int) -> float:
        """The number at a place of their order, from 0."""
        if len(self.runs) == 1:
            return float(self.runs[0][rank])
        low, high = _order_of(self.low), _order_of(self.high)
        while low < high:
            middle = (low + high) // 2
            if self.below(_float_at(middle), inclusive=True) > rank:
                high = middle
            else:
                low = middle + 1
        return _float_at(low)

    def quantile(self, share: float) -> float:
        """The quantile; between two numbers in proportion to where it falls."""
        place = share * (self.count - 1)
        rank = math.floor(place)
        under = self.at(rank)
        rest = place - rank
        return under + (self.at(rank + 1) - under) * rest if rest else under

    def below(self, value: float, *, inclusive: bool) -> int:
        """How many lie below a value; inclusive: or on it."""
        side: Any = "right" if inclusive else "left"
        return sum(int(run.searchsorted(value, side)) for run in self.runs)


class Labels:
    """Counts words such as languages; beyond `MOST_LABELS` of them new ones count as one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, labels: Iterable[str]) -> None:
        """Take some more."""
        for label in labels:
            is_known = label in self.counts or len(self.counts) < MOST_LABELS
            self.counts[label if is_known else "others"] += 1


class Correlation:
    """Pearson's correlation of statistics, of each pair over the rows that have both."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._sums: Any = None
        self._shift: Any = None

    def add(self, table: Any) -> None:
        """Take some rows, [rows, statistics] float64; NaN where a row has no value.

        What is kept are sums over pairs: number, x, x squared, x times y.
        """
        table = np.where(np.isfinite(table), table, np.nan)
        if self._shift is None:
            with np.errstate(all="ignore"):
                self._shift = np.nan_to_num(np.nanmin(table, axis=0, initial=np.inf), posinf=0.0)
        table -= self._shift
        there = (~np.isnan(table)).astype(np.float64)
        table = np.nan_to_num(table)
        found = np.stack([there.T @ there, table.T @ there, (table**2).T @ there, table.T @ table])
        self._sums = found if self._sums is None else self._sums + found

    def finish(self) -> list[list[float | None]]:
        """The matrix; None where a statistic does not vary."""
        if self._sums is None:
            return []
        n, x, xx, xy = self._sums
        with np.errstate(all="ignore"):
            apart = xy - x * x.T / n
            spread = xx - x * x / n
            found = apart / np.sqrt(spread * spread.T)
            # What is left of a constant by rounding is no spread.
            is_flat = (spread <= 1e-12 * xx) | (spread.T <= 1e-12 * xx.T)
        bad = is_flat | ~np.isfinite(found) | (n < 2)
        return [
            [None if bad[i, j] else float(np.clip(found[i, j], -1, 1)) for j in range(len(found))]
            for i in range(len(found))
        ]


@dataclass(frozen=True)
class Repeated:
    """What occurs more than once: rows that repeat an earlier one, and the largest groups.

    A group is (how many, the first row's place, the last one's).
    """

    rows: int = 0
    groups: int = 0
    largest: tuple[tuple[int, int, int], ...] = ()


class Repeats:
    """Finds equal digests among any number; `add` takes 16 hexadecimal digits and a place."""

    def __init__(self, folder: Path, name: str):
        self._files = [folder / f"{name}-{k:02}" for k in range(_BUCKETS)]
        self._buckets = [array("Q") for _ in range(_BUCKETS)]

    def add(self, digest: str, place: int) -> None:
        """Take the digest of a row."""
        value = int(digest, 16)
        bucket = self._buckets[value % _BUCKETS]
        bucket.extend((value, place))
        if len(bucket) >= RUN // 4:
            self._spill(value % _BUCKETS)

    def finish(self) -> Repeated:
        """Count bucket by bucket."""
        rows = groups = 0
        largest: list[tuple[int, int, int]] = []
        for k, bucket in enumerate(self._buckets):
            pairs = np.array(bucket, np.uint64)
            if self._files[k].exists():
                pairs = np.concatenate([np.fromfile(self._files[k], np.uint64), pairs])
            found = _groups(pairs.reshape(-1, 2))
            groups += len(found)
            rows += sum(count - 1 for count, _, _ in found)
            largest = sorted([*largest, *found], key=lambda g: (-g[0], g[1]))[:_EXAMPLES]
        return Repeated(rows, groups, tuple(largest))

    def _spill(self, k: int) -> None:
        with self._files[k].open("ab") as file:
            self._buckets[k].tofile(file)
        self._buckets[k] = array("Q")


def _groups(pairs: Any) -> list[tuple[int, int, int]]:
    """(how many, first place, last place) of every digest that occurs more than once."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    digests, places = pairs[order, 0], pairs[order, 1]
    starts = np.flatnonzero(np.concatenate([[True], digests[1:] != digests[:-1]]))
    ends = np.concatenate([starts[1:], [len(digests)]])
    return [
        (int(b - a), int(places[a]), int(places[b - 1]))
        for a, b in zip(starts, ends, strict=True)
        if b - a > 1
    ]


def _order_of(value: float) -> int:
    """Whole numbers in the order of the floats."""
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return (1 << 64) - 1 - bits if bits >> 63 else bits | 1 << 63


def _float_at(order: int) -> float:
    bits = order ^ (1 << 63) if order >> 63 else (1 << 64) - 1 - order
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value
