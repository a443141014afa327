"""Mixing datasets: which row of which dataset comes next, as a pure function of a seed.

`ExactMix` shows a fixed number of rows of each dataset in shuffled order.
`DrawnMix` never ends: a dataset is drawn by weight for each row or each batch.
Both take the rows of a dataset in passes: all of them once, in a new order each
time. An `Order` walks a mix, and what it saves continues it to the row.
"""

from __future__ import annotations

import json
import math
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from vlforge.types import DataError

_PART = re.compile(r"(?P<path>.+)#(?P<number>\d[\d_,]*(?:\.\d+)?|\.\d+)(?P<unit>[ew]?)", re.S)


class Pick(NamedTuple):
    """The number of a dataset and of a row in it, both from 0."""

    dataset: int
    row: int


@dataclass(frozen=True)
class Share:
    """How much of a dataset is wanted: some rows, some epochs, a weight, or all of it."""

    path: str
    count: int | None = None
    epochs: float | None = None
    weight: float | None = None


def parse_share(text: str) -> Share:
    """`PATH` (all of it), `PATH#1000` (rows), `PATH#2.5e` (epochs) or `PATH#0.7w` (a weight).

    A path that exists under the whole text is that path, whatever its name ends in.

    Raises:
        DataError: the number is none, or asks for nothing.
    """
    found = _PART.fullmatch(text)
    if found is None or Path(text).exists():
        return Share(text)
    path, unit = found["path"], found["unit"]
    number = float(found["number"].replace(",", "").replace("_", ""))
    if number == 0:
        raise DataError(f"{text} asks for nothing of {path}: leave it out")
    if unit == "e":
        return Share(path, epochs=number)
    if unit == "w":
        return Share(path, weight=number)
    if not number.is_integer():
        raise DataError(f"{text}: {number:g} is no number of rows; epochs are written {number:g}e")
    return Share(path, count=int(number))


def wanted_rows(
    shares: Sequence[Share],
    rows: Sequence[int],
    total: int | None = None,
    temperature: float = 1.0,
) -> list[int]:
    """Rows to show of each dataset.

    Without weights a dataset counts n rows: those wanted of it, its epochs, or
    all. They are shown as they are; with `total` or a temperature T the total
    is shared out in proportion to n^(1/T). Weights share out the total, too. The
    total is the sum of the n where none is given, and is met to the row.

    Args:
        shares: what is wanted.
        rows: rows that each dataset has.
        total: rows to show in all.
        temperature: 1 keeps the proportions, more evens them out.

    Raises:
        DataError: a dataset is empty or would get no row, or the wishes contradict each other.
    """
    _check_rows([share.path for share in shares], rows)
    if not (temperature > 0):
        raise DataError(f"temperature is {temperature:g}: it must be above 0")
    weighed = [share.path for share in shares if share.weight is not None]
    if weighed:
        return _by_weight(shares, rows, total, temperature)
    counts = [_own_count(share, size) for share, size in zip(shares, rows, strict=True)]
    if total is None and temperature == 1:
        return counts
    portions = [count ** (1 / temperature) for count in counts]
    return _shared_out(portions, sum(counts) if total is None else total, shares)


def _own_count(share: Share, rows: int) -> int:
    if share.count is not None:
        return share.count
    if share.epochs is None:
        return rows
    count = math.floor(share.epochs * rows + 0.5)
    if count == 0:
        raise DataError(
            f"{share.path}: {share.epochs:g} epochs of {rows:,} rows are none; ask for more"
        )
    return count


def _by_weight(
    shares: Sequence[Share], rows: Sequence[int], total: int | None, temperature: float
) -> list[int]:
    bare = next((share.path for share in shares if share.weight is None), None)
    if bare is not None:
        raise DataError(f"{bare} has no weight while others do: give all datasets one, or none")
    if temperature != 1:
        raise DataError("weights and a temperature are both given: take one of the two")
    weights = [float(share.weight or 0) for share in shares]
    return _shared_out(weights, sum(rows) if total is None else total, shares)


def _shared_out(portions: Sequence[float], total: int, shares: Sequence[Share]) -> list[int]:
    counts = apportion(portions, total)
    for share, count in zip(shares, counts, strict=True):
        if count == 0:
            raise DataError(f"{share.path} would get none of {total:,} rows: mix more, or omit it")
    return counts


def apportion(portions: Sequence[float], total: int) -> list[int]:
    """`total` whole things in proportion to `portions`: largest remainders, first ones on a tie."""
    whole = math.fsum(portions)
    exact = [total * portion / whole for portion in portions]
    counts = [math.floor(one) for one in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    # More than one round only where the portions are so large that floats miss the total.
    for i in islice(cycle(by_rest), max(0, total - sum(counts))):
        counts[i] += 1
    return counts


def shuffled(rows: int, key: str) -> array[int]:
    """The numbers below `rows` in an order that the key alone decides."""
    order = array("q", range(rows))
    random.Random(key).shuffle(order)
    return order


def _check_rows(names: Sequence[str], rows: Sequence[int]) -> None:
    if not names:
        raise DataError("no datasets to mix: name at least one")
    for name, size in zip(names, rows, strict=True):
        if size <= 0:
            raise DataError(f"{name} has no rows: mend it or leave it out of the mix")


def _passes(rows: int, used: int, key: str, start: int) -> Iterator[int]:
    """Row numbers without end, from the `start`-th on; a pass shows `used` of the rows."""
    turn, at = divmod(start, used)
    while True:
        yield from shuffled(rows, f"{key}/{turn}")[at:used]
        turn, at = turn + 1, 0


@dataclass(frozen=True)
class ExactMix:
    """So many rows of each dataset, all in one shuffled order.

    A dataset of which fewer are wanted than it has gives that many different
    rows; one of which more are wanted is shown whole before a row comes again.

    Args:
        names: the datasets, for messages.
        rows: rows that each has.
        wanted: rows to show of each.
        seed: decides the order.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    wanted: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        _check_rows(self.names, self.rows)
        for name, count in zip(self.names, self.wanted, strict=True):
            if count < 0:
                raise DataError(f"{name}: {count} rows are wanted; take 0 or more")

    def __len__(self) -> int:
        return sum(self.wanted)

    def picks(self, step: int = 0) -> Iterator[Pick]:
        """The rows from the `step`-th on."""
        turns = array("i" if len(self.wanted) > 127 else "b")
        for dataset, count in enumerate(self.wanted):
            turns.extend(array(turns.typecode, [dataset]) * count)
        random.Random(f"{self.seed}/turns").shuffle(turns)
        before = turns[:step]
        streams = [
            _passes(rows, rows, f"{self.seed}/{dataset}", before.count(dataset))
            for dataset, rows in enumerate(self.rows)
        ]
        for dataset in islice(turns, step, None):
            yield Pick(dataset, next(streams[dataset]))


@dataclass(frozen=True)
class DrawnMix:
    """Rows without end: a dataset is drawn by weight, per row or per batch.

    One draw a step is `random.choices` of Python's generator seeded with `seed`,
    also where there is one dataset only: MiniGPT-4's loader of several loaders.
    In a batch all rows are of one dataset and of one pass over it: the rows that a
    pass has beyond its last whole batch are left out, others each time.

    Args:
        names: the datasets, for messages.
        rows: rows that each has.
        weights: how often each is drawn, in proportion; None draws all alike.
        seed: decides everything.
        batch: rows per draw.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    seed: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        _check_rows(self.names, self.rows)
        if self.batch < 1:
            raise DataError(f"a batch of {self.batch} rows: take 1 or more")
        for name, size in zip(self.names, self.rows, strict=True):
            if size < self.batch:
                raise DataError(
                    f"{name} has {size:,} rows, fewer than a batch of {self.batch:,}: "
                    "take smaller batches, repeat its rows, or leave it out of the mix"
                )
        if self.weights is None:
            return
        for name, weight in zip(self.names, self.weights, strict=True):
            if not (0 <= weight < math.inf):
                raise DataError(f"{name}: weight {weight} is no number from 0 up")
        if not sum(self.weights):
            raise DataError(f"all weights are 0: {', '.join(self.names)}; give one a weight")

    def draws(self) -> Iterator[int]:
        """The dataset of each row or batch."""
        generator = random.Random(self.seed)
        weights = self.weights or [1.0] * len(self.names)
        whole = sum(weights)
        # Divided first, as the reference does: rounding decides draws at the borders.
        shares = [weight / whole for weight in weights]
        datasets = range(len(self.names))
        while True:
            yield generator.choices(datasets, shares, k=1)[0]

    def picks(self, step: int = 0) -> Iterator[Pick]:
        """The rows from the `step`-th on."""
        draws = self.draws()
        full, rest = divmod(step, self.batch)
        taken = [0] * len(self.names)
        for dataset in islice(draws, full):
            taken[dataset] += self.batch
        streams = [
            _passes(rows, rows - rows % self.batch, f"{self.seed}/{dataset}", taken[dataset])
            for dataset, rows in enumerate(self.rows)
        ]
        for dataset in draws:
            picks = (Pick(dataset, row) for row in islice(streams[dataset], self.batch))
            yield from islice(picks, rest, None)
            rest = 0


class Order:
    """Walks a mix; `to_json` says where it stands, and `from_json` goes on from there.

    Going on draws the turns so far again, about a second for a million.
    """

    def __init__(self, mix: ExactMix | DrawnMix, step: int = 0):
        self.mix, self.step = mix, step
        self._picks = mix.picks(step)

    def __iter__(self) -> Order:
        return self

    def __next__(self) -> Pick:
        pick = next(self._picks)
        self.step += 1
        return pick

    def to_json(self) -> str:
        """The mix and the number of rows given so far."""
        kind = "drawn" if isinstance(self.mix, DrawnMix) else "exact"
        return json.dumps({"kind": kind, **asdict(self.mix), "step": self.step})

    @classmethod
    def from_json(cls, text: str, rows: Sequence[int] | None = None) -> Order:
        """Where an order stood.

        Args:
            text: what `to_json` gave.
            rows: rows that the datasets have now; they must be as they were.

        Raises:
            DataError: no state of an order, or a dataset has changed since.
        """
        try:
            saved: dict[str, Any] = json.loads(text)
            kind = {"exact": ExactMix, "drawn": DrawnMix}[saved.pop("kind")]
            step = int(saved.pop("step"))
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
            mix = kind(**given)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"no saved order of a mix: {error}") from None
        if rows is not None and len(rows) != len(mix.rows):
            raise DataError(
                f"the saved order mixes {len(mix.rows)} datasets: {', '.join(mix.names)}"
            )
        for name, then, now in zip(mix.names, mix.rows, rows or mix.rows, strict=True):
            if then != now:
                raise DataError(
                    f"{name} had {then:,} rows and has {now:,} now: the order cannot go on"
                )
        return cls(mix, step)
