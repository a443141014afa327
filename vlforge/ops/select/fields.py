"""Judging rows by one of their fields."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Bounds, Filter, look_up
from vlforge.ops.batch import Batch, Item
from vlforge.types import Drop

STATS_PREFIX = "__dj__stats__."
SUFFIX_FIELD = "__dj__suffix__"
"""Where a row says the suffix of the file that it came from."""


def field_of(item: Item, dotted: str) -> Any:
    """A field of the row, or a statistic by `__dj__stats__.name`."""
    if dotted.startswith(STATS_PREFIX):
        name = dotted.removeprefix(STATS_PREFIX)
        return item.stats.get(name, item.given.get(name))
    return look_up(item.row, dotted)


def as_number(value: Any) -> float | None:
    """A number (true is 1), also one written as text; None for anything else."""
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
    before, of which, where it is one per image, the lowest counts. Text that
    reads as a number is one.

    Different: Data-Juicer takes the number 0 for no number and drops its row;
    `compat: data_juicer` does so too. Without `field_key` it stops with an error.
    """

    field_key: str = ""
    min_value: float = -sys.maxsize
    max_value: float = sys.maxsize

    @property
    def stats(self) -> tuple[str, ...]:  # type: ignore[override]
        """The statistic is called after the field."""
        return (self.field_key,) if self.field_key else ()

    @property
    def reads_stats(self) -> bool:
        """Whether the field is a statistic."""
        return self.field_key.startswith(STATS_PREFIX)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the number."""
        return ((self.min_value, self.max_value),) if self.field_key else ()

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return ([self._value(item) for item in batch.items],)

    def keep(self, *values: Any) -> bool:
        if not self.field_key:
            return True
        number = as_number(values[0])
        if self.compat == "data_juicer" and values[0] == 0:
            return False
        return number is not None and self.fits(number, self.min_value, self.max_value)

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Says so where the field is no number."""
        number = as_number(values[0])
        if number is None or (self.compat == "data_juicer" and values[0] == 0):
            return Drop(name, f"{self.field_key} is no number", self.field_key, values[0], None)
        return super().fault(name, (number,))

    def _value(self, item: Item) -> Any:
        value = field_of(item, self.field_key) if self.field_key else None
        if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
            return min(value)
        return value


@dataclass(frozen=True, kw_only=True)
class SpecifiedFieldFilter(Filter):
    """Keep rows whose field has one of some values.

    `field_key` may be dotted; `__dj__stats__.name` is a statistic measured
    before. Of a list every value has to be among `target_value`. A row without
    the field has the value None. `reversed_range` keeps the other rows. Every
    row stays where `field_key` or `target_value` is empty; Data-Juicer stops
    with an error where `field_key` is.
    """

    field_key: str = ""
    target_value: tuple[Any, ...] = ()

    @property
    def stats(self) -> tuple[str, ...]:  # type: ignore[override]
        """The statistic is called after the field."""
        return (self.field_key,) if self.field_key else ()

    @property
    def reads_stats(self) -> bool:
        """Whether the field is a statistic."""
        return self.field_key.startswith(STATS_PREFIX)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if not self.field_key:
            return ([None] * len(batch.items),)
        return ([field_of(item, self.field_key) for item in batch.items],)

    def keep(self, *values: Any) -> bool:
        if not self.field_key or not self.target_value:
            return True
        (value,) = values
        several = value if isinstance(value, list | tuple) else [value]
        return all(v in self.target_value for v in several) != self.reversed_range

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Names the value and those that were asked for."""
        wanted = ", ".join(map(str, self.target_value))
        bound = f"none of {wanted}" if self.reversed_range else f"one of {wanted}"
        return Drop(name, f"{self.field_key} is another value", self.field_key, values[0], bound)


@dataclass(frozen=True, kw_only=True)
class SuffixFilter(Filter):
    """Keep rows that came from files with one of some suffixes.

    Suffixes are written with their point and compared letter by letter: `.txt`
    is neither `txt` nor `.TXT`. Without `suffixes` every row stays;
    `reversed_range` keeps the other rows. The row's suffix stands in
    `__dj__suffix__`; nothing is measured.
    """

    suffixes: str | tuple[str, ...] | None = ()

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return ([item.row.get(SUFFIX_FIELD) for item in batch.items],)

    def keep(self, *values: Any) -> bool:
        wanted = self._wanted
        return not wanted or (values[0] in wanted) != self.reversed_range

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Names the suffix and those that were asked for."""
        wanted = ", ".join(self._wanted)
        bound = f"none of {wanted}" if self.reversed_range else f"one of {wanted}"
        return Drop(name, "file has another suffix", SUFFIX_FIELD, values[0], bound)

    @property
    def _wanted(self) -> tuple[str, ...]:
        return (self.suffixes,) if isinstance(self.suffixes, str) else self.suffixes or ()
