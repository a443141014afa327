"""Choosing rows by how a field of theirs compares with that of all rows."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Selector
from vlforge.ops.batch import Item
from vlforge.ops.select.fields import field_of
from vlforge.types import RecipeError

Tag = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class TopkSpecifiedFieldSelector(Selector):
    """Keep the rows with the highest (or, with `reverse: false`, lowest) values of a field.

    Of `topk` rows and a share `top_ratio` (0 counts as not given) the smaller
    number is kept, in order of the field; equal values keep their order. A field
    at the top of the row is compared as it is, text as text; a dotted one as a
    number: text that reads as one, the mean of a list. Rows without a value come
    last. `__dj__stats__.name` is a statistic measured before.
    """

    field_key: str = ""
    top_ratio: float | None = None
    topk: int | None = None
    reverse: bool = True

    def __post_init__(self) -> None:
        check_share("topk_specified_field_selector.top_ratio", self.top_ratio)
        check_positive("topk_specified_field_selector.topk", self.topk)

    def key(self, item: Item) -> Any:
        value = field_of(item, self.field_key) if self.field_key else None
        return number_or_mark(value) if "." in self.field_key else value

    def rank(self, keys: Sequence[Any]) -> list[int]:
        places = list(range(len(keys)))
        count = smaller_share(len(keys), self.top_ratio, self.topk)
        if not self.field_key or count is None or len(keys) <= 1:
            return places
        check_found("topk_specified_field_selector", self.field_key, keys)
        if "." in self.field_key:
            keys = unmarked(keys)
        try:
            order = _ordered(keys, self.reverse)
        except TypeError:  # values of several kinds
            order = _ordered([mean_of(key) for key in keys], self.reverse)
        return order[:count]


def _ordered(keys: Sequence[Any], reverse: bool) -> list[int]:
    given = [at for at, key in enumerate(keys) if key is not None and key == key]
    missing = [at for at, key in enumerate(keys) if key is None or key != key]
    return sorted(given, key=keys.__getitem__, reverse=reverse) + missing


@dataclass(frozen=True, kw_only=True)
class RangeSpecifiedFieldSelector(Selector):
    """Keep the rows that stand between two ranks when all are ordered by a number in a field.

    Rows are counted from the lowest value: those after the first
    `lower_percentile` (a share of all rows, 0..1) or `lower_rank` (a number of
    rows), the larger of both, up to `upper_percentile` or `upper_rank`, the
    smaller of both. The highest value comes first; equal values keep their
    order. Every row stays unless a lower and an upper end are given. The number
    may be written as text, of a list the mean counts; rows without one stand
    lowest. `__dj__stats__.name` is a statistic measured before.
    """

    field_key: str = ""
    lower_percentile: float | None = None
    upper_percentile: float | None = None
    lower_rank: int | None = None
    upper_rank: int | None = None

    def __post_init__(self) -> None:
        op = "range_specified_field_selector"
        check_share(f"{op}.lower_percentile", self.lower_percentile)
        check_share(f"{op}.upper_percentile", self.upper_percentile)
        check_positive(f"{op}.lower_rank", self.lower_rank)
        check_positive(f"{op}.upper_rank", self.upper_rank)

    def key(self, item: Item) -> Any:
        return number_or_mark(field_of(item, self.field_key)) if self.field_key else None

    def rank(self, keys: Sequence[Any]) -> list[int]:
        has_lower = self.lower_percentile is not None or self.lower_rank is not None
        has_upper = self.upper_percentile is not None or self.upper_rank is not None
        if not self.field_key or len(keys) <= 1 or not has_lower or not has_upper:
            return list(range(len(keys)))
        check_found("range_specified_field_selector", self.field_key, keys)
        low, high = self._ends(len(keys))
        values = [-sys.maxsize if key is None else key for key in unmarked(keys)]
        lowest = sorted(range(len(values)), key=values.__getitem__)[:high]
        return sorted(lowest, key=values.__getitem__, reverse=True)[: high - low]

    def _ends(self, rows: int) -> tuple[int, int]:
        low = int((self.lower_percentile or 0) * rows)
        high = rows if self.upper_percentile is None else int(self.upper_percentile * rows)
        low = max(low, self.lower_rank or 0)
        high = high if self.upper_rank is None else min(high, self.upper_rank)
        return low, max(low, high)


@dataclass(frozen=True, kw_only=True)
class FrequencySpecifiedFieldSelector(Selector):
    """Keep the rows with the most (or, with `reverse: false`, least) frequent values of a field.

    Of `topk` values and a share `top_ratio` of the distinct values (0 counts as
    not given) the smaller number is kept, with all their rows: the most frequent
    value first, equally frequent ones as they first occur. Rows without the field
    share one value. Different: lists and tables are values too, where
    Data-Juicer stops with an error.
    """

    field_key: str = ""
    top_ratio: float | None = None
    topk: int | None = None
    reverse: bool = True

    def __post_init__(self) -> None:
        check_share("frequency_specified_field_selector.top_ratio", self.top_ratio)
        check_positive("frequency_specified_field_selector.topk", self.topk)

    def key(self, item: Item) -> Any:
        return plain_value(field_of(item, self.field_key)) if self.field_key else None

    def rank(self, keys: Sequence[Any]) -> list[int]:
        if not self.field_key or len(keys) <= 1 or not (self.top_ratio or self.topk):
            return list(range(len(keys)))
        check_found("frequency_specified_field_selector", self.field_key, keys)
        rows: dict[Any, list[int]] = {}
        for at, key in enumerate(keys):
            rows.setdefault(key, []).append(at)
        count = smaller_share(len(rows), self.top_ratio, self.topk)
        chosen = sorted(rows.values(), key=len, reverse=self.reverse)[:count]
        return [at for places in chosen for at in places]


@dataclass(frozen=True, kw_only=True)
class TagsSpecifiedFieldSelector(Selector):
    """Keep the rows whose field is one of `target_tags`, in their order.

    Text is compared letter by letter. Every row stays where `field_key` is empty
    or there is only one row, as in Data-Juicer.
    """

    field_key: str = ""
    target_tags: tuple[Tag, ...] | None = None

    def __post_init__(self) -> None:
        if self.target_tags is None:
            raise RecipeError("tags_specified_field_selector needs target_tags: a list of values")

    def key(self, item: Item) -> Any:
        return plain_value(field_of(item, self.field_key)) if self.field_key else None

    def rank(self, keys: Sequence[Any]) -> list[int]:
        if not self.field_key or len(keys) <= 1:
            return list(range(len(keys)))
        check_found("tags_specified_field_selector", self.field_key, keys)
        wanted = set(self.target_tags or ())
        return [at for at, key in enumerate(keys) if key in wanted]


def mean_of(value: Any) -> float | None:
    """A number, the number that a text reads as, or the mean of a list; None for all else."""
    try:
        if isinstance(value, str | int | float):
            number = float(value)
        elif isinstance(value, list) and value:
            import numpy as np

            number = float(np.asarray(value).mean())
        else:
            return None
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


NO_NUMBER = "no number"
"""Key of a row that has the field, but no number in it."""


def number_or_mark(value: Any) -> float | str | None:
    """`mean_of` the value, told apart from a missing one where it is none."""
    if value is None:
        return None
    number = mean_of(value)
    return NO_NUMBER if number is None else number


def unmarked(keys: Sequence[Any]) -> list[float | None]:
    """The numbers of keys that `number_or_mark` made; None for all else."""
    return [None if isinstance(key, str) else key for key in keys]


def plain_value(value: Any) -> Any:
    """A value that can be compared and hashed: text, numbers and None as they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    return "\0" + json.dumps(value, sort_keys=True, default=repr)


def smaller_share(rows: int, ratio: float | None, number: int | None) -> int | None:
    """How many of `rows` a share and a number ask for, the smaller of both; None: neither.

    0 counts as not given, as in Data-Juicer.
    """
    by_ratio = math.floor(ratio * rows) if ratio else None
    counts = [count for count in (by_ratio, number or None) if count is not None]
    return min(counts) if counts else None


def check_share(name: str, share: float | None) -> None:
    """Refuse a share outside 0..1."""
    if share is not None and not 0 <= share <= 1:
        raise RecipeError(f"{name} is {share}, not a share between 0 and 1")


def check_positive(name: str, number: int | None) -> None:
    """Refuse a number of rows below 1."""
    if number is not None and number < 1:
        raise RecipeError(f"{name} is {number}, not a number of at least 1")


def check_found(op: str, field_key: str, keys: Sequence[Any]) -> None:
    """Refuse a field that no row has."""
    if all(key is None for key in keys):
        raise RecipeError(f"{op}.field_key is {field_key!r}, a field without a value in every row")
