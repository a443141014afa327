"""Splitting a dataset: how large each part is, which rows belong together, who goes where.

Rows that are linked go to one part. Beyond that the parts are as large as asked
for, to the row where the groups allow it, and every stratum is spread over them
in proportion. All of it depends on the arguments alone.
"""

from __future__ import annotations

import math
import random
import re
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlforge.data.mixing import apportion
from vlforge.types import DataError

_PART = re.compile(r"([\w.-]+)=(\d[\d_,]*|\d*\.\d+|\d+(?:\.\d*)?%)")
_RAKINGS = 12
_EXCHANGES = 1000
_SEARCHED = 5000

Held = list[defaultdict[int, list[int]]]
"""Per part, its groups by their size."""


@dataclass(frozen=True)
class PartSize:
    """A part by its name and a number of rows, or a share of them."""

    name: str
    count: int | None = None
    share: float | None = None


def parse_part(text: str) -> PartSize:
    """`test=500` (rows), `val=0.05` or `val=5%` (a share).

    Raises:
        DataError: of no such form.
    """
    found = _PART.fullmatch(text)
    if found is None:
        raise DataError(f"{text}: write NAME=0.9 (a share of the rows) or NAME=500 (so many)")
    name, number = found[1], found[2]
    if name.startswith("."):
        raise DataError(f"{text}: a part's name begins with a letter or digit")
    if number.endswith("%"):
        return PartSize(name, share=float(number[:-1]) / 100)
    if "." in number:
        return PartSize(name, share=float(number))
    return PartSize(name, count=int(number.replace(",", "").replace("_", "")))


def part_sizes(parts: Sequence[PartSize], rows: int) -> list[int]:
    """Rows of each part, and at the end the rows that are in none.

    Counts come first. Shares are of all rows; beside counts, or where they make
    1, they divide what the counts leave among themselves, so that no row is left.

    Raises:
        DataError: more is asked for than there is, or a name comes twice.
    """
    if not parts:
        raise DataError("no parts: name some, e.g. train=0.9 val=0.1")
    twice = [name for name, times in Counter(part.name for part in parts).items() if times > 1]
    if twice:
        raise DataError(f"part {twice[0]} is named twice")
    counted = sum(part.count or 0 for part in parts)
    if counted > rows:
        raise DataError(f"the parts ask for {counted:,} rows and the dataset has {rows:,}")
    shares = [part.share or 0.0 for part in parts]
    whole = math.fsum(shares)
    if whole > 1 + 1e-9:
        raise DataError(f"the parts' shares add up to {whole:g}: they may make 1 at most")
    takes_all = whole > 0 and (whole > 1 - 1e-9 or any(part.count is not None for part in parts))
    portions = [*shares, 0.0 if takes_all else max(0.0, 1 - whole)]
    divided = apportion(portions, rows - counted) if sum(portions) else [0] * len(portions)
    return [
        *(
            size if part.count is None else part.count
            for part, size in zip(parts, divided, strict=False)
        ),
        divided[-1],
    ]


def linked(rows: int, keys: array[int], owners: array[int]) -> array[int]:
    """The group of each row: the first row that shares a key with it, directly or through others.

    Args:
        rows: number of rows.
        keys: 64-bit keys, in any order.
        owners: the row of each key.
    """
    import numpy as np

    groups = array("q", range(rows))
    if not keys:
        return groups
    values, places = np.frombuffer(keys, "u8"), np.frombuffer(owners, "i8")
    order = np.argsort(values, kind="stable")
    same = values[order[1:]] == values[order[:-1]]
    firsts, others = places[order[:-1]][same].tolist(), places[order[1:]][same].tolist()
    for one, other in zip(firsts, others, strict=True):
        a, b = _root(groups, one), _root(groups, other)
        groups[max(a, b)] = min(a, b)
    for row in range(rows):
        groups[row] = groups[groups[row]]
    return groups


def _root(groups: array[int], row: int) -> int:
    while groups[row] != row:
        groups[row] = groups[groups[row]]
        row = groups[row]
    return row


def divide(
    groups: Sequence[int], strata: Sequence[int], sizes: Sequence[int], seed: int = 0
) -> array[int]:
    """The part of each row.

    Groups of several rows are dealt out first, the largest first, each to the part
    that has least of its stratum for its size; single rows then fill the parts up.
    Where that misses a size, groups are exchanged between parts.

    Args:
        groups: the group of each row, named by its first row.
        strata: the stratum of each row, from 0; a group is of that of most of its rows.
        sizes: rows wanted of each part; their sum is the number of rows.
        seed: decides among equals.
    """
    return _Deal(groups, strata, sizes, seed).parts()


class _Deal:
    """Rows, groups and strata while they are dealt out to parts."""

    def __init__(
        self, groups: Sequence[int], strata: Sequence[int], sizes: Sequence[int], seed: int
    ):
        self.groups, self.strata, self.sizes = groups, strata, sizes
        self.random = random.Random(f"{seed}/split")
        self.free = list(sizes)
        self.part_of: dict[int, int] = {}
        counts = Counter(groups)
        self.several = {group: size for group, size in counts.items() if size > 1}
        self.single = [group for group, size in counts.items() if size == 1]
        self.label = self._labels()
        rows = max(1, len(groups))
        in_stratum: Counter[int] = Counter()
        for group, size in counts.items():
            in_stratum[self.label.get(group, strata[group])] += size
        self.strata_names = sorted(in_stratum)
        self.want = {s: [size * in_stratum[s] / rows for size in sizes] for s in in_stratum}
        self.taken = {s: [0] * len(sizes) for s in in_stratum}

    def parts(self) -> array[int]:
        """The part of each row."""
        self._deal_several()
        self._deal_single()
        self._even_out()
        return array("q", (self.part_of[group] for group in self.groups))

    def _labels(self) -> dict[int, int]:
        """The stratum of each group of several rows."""
        seen: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for row, group in enumerate(self.groups):
            if group in self.several:
                seen[group][self.strata[row]] += 1
        return {group: found.most_common(1)[0][0] for group, found in seen.items()}

    def _put(self, group: int, part: int, size: int, stratum: int) -> None:
        self.part_of[group] = part
        self.free[part] -= size
        self.taken[stratum][part] += size

    def _deal_several(self) -> None:
        order = list(self.several)
        self.random.shuffle(order)
        order.sort(key=lambda group: -self.several[group])
        for group in order:
            size, stratum = self.several[group], self.label[group]
            want, taken = self.want[stratum], self.taken[stratum]
            fitting = [part for part, free in enumerate(self.free) if free >= size]
            if fitting:
                part = min(fitting, key=lambda p: ((taken[p] + size) / max(want[p], 1e-9), p))
            else:
                part = max(range(len(self.free)), key=lambda p: self.free[p])
            self._put(group, part, size, stratum)

    def _deal_single(self) -> None:
        if not self.single:
            return
        by_stratum: defaultdict[int, list[int]] = defaultdict(list)
        for group in self.single:
            by_stratum[self.strata[group]].append(group)
        columns = [max(0, free) for free in self.free]
        if sum(columns) > len(self.single):
            columns = apportion(columns, len(self.single))
        names = [s for s in self.strata_names if s in by_stratum]
        wishes = [
            [max(w - t, 0.0) for w, t in zip(self.want[s], self.taken[s], strict=True)]
            for s in names
        ]
        counts = round_table(wishes, [len(by_stratum[s]) for s in names], columns)
        for stratum, row in zip(names, counts, strict=True):
            groups = by_stratum[stratum]
            self.random.shuffle(groups)
            dealt = (part for part, count in enumerate(row) for _ in range(count))
            for group, part in zip(groups, dealt, strict=True):
                self._put(group, part, 1, stratum)

    def _even_out(self) -> None:
        """Exchange groups between parts until all are as large as wanted, or none gets nearer."""
        if not any(self.free):
            return
        held: Held = [defaultdict(list) for _ in self.sizes]
        for group, part in self.part_of.items():
            held[part][self.several.get(group, 1)].append(group)
        for _ in range(_EXCHANGES):
            parts = range(len(self.free))
            pairs = [(o, u) for o in parts for u in parts if self.free[o] < 0 < self.free[u]]
            if not any(self._brought_nearer(held, over, under) for over, under in pairs):
                return

    def _brought_nearer(self, held: Held, over: int, under: int) -> bool:
        """Whether rows went from a part that is too large to one that is too small."""
        gap = min(-self.free[over], self.free[under])
        steps = exchanges(_counts(held[over]), _counts(held[under]), gap)
        if steps:
            self._exchange(held, over, under, steps[max(steps)])
            return True
        between = (part for part in range(len(self.free)) if part not in (over, under))
        return any(self._went_through(held, over, part, under, gap) for part in between)

    def _went_through(self, held: Held, over: int, part: int, under: int, gap: int) -> bool:
        """The same by way of a third part, which gives what it gets."""
        first = exchanges(_counts(held[over]), _counts(held[part]), gap)
        for rows in sorted(first, reverse=True):
            self._exchange(held, over, part, first[rows])
            second = exchanges(_counts(held[part]), _counts(held[under]), rows)
            if rows in second:
                self._exchange(held, part, under, second[rows])
                return True
            self._exchange(held, over, part, [-size for size in first[rows]])
        return False

    def _exchange(self, held: Held, one: int, other: int, sizes: Sequence[int]) -> None:
        """Groups of some sizes go from one part to another; a negative size comes back."""
        for signed in sizes:
            source, target = (one, other) if signed > 0 else (other, one)
            size = abs(signed)
            group = held[source][size].pop()
            held[target][size].append(group)
            self.free[source] += size
            self.free[target] -= size
            self.part_of[group] = target


def _counts(groups: Mapping[int, Sequence[int]]) -> dict[int, int]:
    return {size: len(found) for size, found in groups.items() if found}


def exchanges(there: Mapping[int, int], back: Mapping[int, int], gap: int) -> dict[int, list[int]]:
    """Exchanges of groups by which 1 to `gap` rows change sides, the fewest groups for each.

    Args:
        there: how many groups of each size can go.
        back: how many of each size can come back, as negative sizes in the result.
        gap: rows that should go; the search ends where it finds them.
    """
    limit = max([gap, *there, *back])
    reached: dict[int, list[int]] = {0: []}
    waiting = deque([0])
    while waiting and gap not in reached and len(reached) < _SEARCHED:
        net = waiting.popleft()
        path = reached[net]
        moves = [s for s, n in there.items() if path.count(s) < n] if net <= gap else []
        moves += [-s for s, n in back.items() if path.count(-s) < n] if net >= 0 else []
        for move in sorted(moves, key=abs):
            if abs(net + move) <= limit + gap and net + move not in reached:
                reached[net + move] = [*path, move]
                waiting.append(net + move)
    return {net: path for net, path in reached.items() if 0 < net <= gap}


def round_table(
    wishes: Sequence[Sequence[float]], rows: Sequence[int], columns: Sequence[int]
) -> list[list[int]]:
    """Whole numbers near `wishes` that add up to `rows` and to `columns`, whose sums are equal."""
    table = _raked([[wish + 1e-12 for wish in line] for line in wishes], rows, columns)
    row_free, column_free = list(rows), list(columns)
    counts = [[0] * len(columns) for _ in rows]
    cells = [(i, j) for i in range(len(rows)) for j in range(len(columns))]

    def add(i: int, j: int, wanted: int) -> None:
        more = min(wanted, row_free[i], column_free[j])
        counts[i][j] += more
        row_free[i] -= more
        column_free[j] -= more

    for i, j in cells:
        add(i, j, math.floor(table[i][j] + 1e-9))
    cells.sort(key=lambda cell: counts[cell[0]][cell[1]] - table[cell[0]][cell[1]])
    for i, j in cells:
        add(i, j, 1)
    for i, j in cells:
        add(i, j, row_free[i])
    return counts


def _raked(
    table: list[list[float]], rows: Sequence[int], columns: Sequence[int]
) -> list[list[float]]:
    """The table scaled in turn until its sums are about those wanted, the rows' exactly."""
    for _ in range(_RAKINGS):
        sums = [math.fsum(column) for column in zip(*table, strict=True)]
        factors = [want / got if got else 0.0 for want, got in zip(columns, sums, strict=True)]
        table = [[v * f for v, f in zip(line, factors, strict=True)] for line in table]
        scaled = []
        for line, want in zip(table, rows, strict=True):
            got = math.fsum(line)
            scaled.append([v * want / got for v in line] if got else line)
        table = scaled
    return table
