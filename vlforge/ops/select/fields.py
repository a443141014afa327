"""Judging rows by a number in one of their fields."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Bounds, Filter, Selector, look_up
from vlforge.ops.batch import Batch, Item
from vlforge.types import Drop, RecipeError

STATS_PREFIX = "__dj__stats__."


def field_of(item: Item, dotted: str) -> Any:
    """A field of the row, or a statistic by `__dj__stats__.name`."""
    if dotted.startswith(STATS_PREFIX):
        name = dotted.removeprefix(STATS_PREFIX)
        return item.stats.get(name, item.given.get(name))
    return look_up(item.row, dotted)


def as_number(value: Any) -> float | None:
    """A number, also one written as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


@dataclass(frozen=True, kw_only=True)
class SpecifiedNumericFieldFilter(Filter):
    """Keep rows whose field is a number within bounds; without `field_key` every row stays.

    `field_key` may be dotted; `__dj__stats__.name` is a statistic measured
    before, of which, where it is one per image, the lowest counts.
    """

    field_key: str = ""
    min_value: float = -sys.maxsize
    max_value: float = sys.maxsize

    @property
    def stats(self) -> tuple[str, ...]:  # type: ignore[override]
        """The statistic is called after the field."""
        return (self.field_key or "field_value",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the number."""
        return ((self.min_value, self.max_value),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return ([self._value(item) for item in batch.items],)

    def keep(self, *values: Any) -> bool:
        number = as_number(values[0])
        if not self.field_key:
            return True
        return number is not None and self.fits(number, self.min_value, self.max_value)

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Says so where the field is no number."""
        number = as_number(values[0])
        if number is None:
            return Drop(name, f"{self.field_key} is no number", self.field_key, values[0], None)
        return super().fault(name, (number,))

    def _value(self, item: Item) -> Any:
        value = field_of(item, self.field_key) if self.field_key else None
        if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
            return min(value)
        return value


@dataclass(frozen=True, kw_only=True)
class TopkSpecifiedFieldSelector(Selector):
    """Keep the rows with the highest (or, with `reverse: false`, lowest) values of a field.

    Of `topk` rows and a share `top_ratio` the smaller number is kept, in order
    of the field; equal values keep their order. Rows without the field come last.
    """

    field_key: str = ""
    top_ratio: float | None = None
    topk: int | None = None
    reverse: bool = True

    def __post_init__(self) -> None:
        check_share("topk_specified_field_selector.top_ratio", self.top_ratio)

    def key(self, item: Item) -> Any:
        value = field_of(item, self.field_key) if self.field_key else None
        if isinstance(value, list) and value:
            return min(value)
        return value

    def rank(self, keys: Sequence[Any]) -> list[int]:
        places = list(range(len(keys)))
        count = smaller_share(len(keys), self.top_ratio, self.topk)
        if not self.field_key or count is None or len(keys) <= 1:
            return places
        given = [at for at in places if keys[at] is not None]
        missing = [at for at in places if keys[at] is None]
        numeric = all(as_number(keys[at]) is not None for at in given)
        value = (lambda at: as_number(keys[at])) if numeric else (lambda at: str(keys[at]))
        return (sorted(given, key=value, reverse=self.reverse) + missing)[:count]  # type: ignore[arg-type,return-value]


def smaller_share(rows: int, ratio: float | None, number: int | None) -> int | None:
    """How many of `rows` a share and a number ask for, the smaller of both; None: neither."""
    by_ratio = None if ratio is None else math.floor(ratio * rows)
    counts = [count for count in (by_ratio, number) if count is not None]
    return min(counts) if counts else None


def check_share(name: str, share: float | None) -> None:
    """Refuse a share outside 0..1."""
    if share is not None and not 0 <= share <= 1:
        raise RecipeError(f"{name} is {share}, not a share between 0 and 1")
