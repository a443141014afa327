"""What an operator is: a filter, mapper, dedup or selector; the keys all of them take.

An operator is a frozen dataclass without state. Its fields are the keys of the
recipe, so names and defaults are Data-Juicer's where the operator is. Kinds of
operators that add no field are left as they are: making each of them a dataclass
anew would take longer than ten rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from vlforge.types import Drop, Need, RecipeError, Row

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.data.images import ImageFile
    from vlforge.ops.batch import Batch, Context, Item

Bounds = tuple[float | None, float | None]
"""Lowest and highest value that is kept; None: open."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Keys of every operator: the fields it reads, and whose behaviour it has.

    `compat: data_juicer` brings back what Data-Juicer 1.6.1 does where that is
    wrong; each operator's documentation says what this changes.
    """

    text_key: str = "text"
    image_key: str = "images"
    image_bytes_key: str = "image_bytes"
    compat: Literal["", "data_juicer"] = ""

    kind: ClassVar[str] = "operator"
    needs: ClassVar[Need] = Need.TEXT


@dataclass(frozen=True, kw_only=True)
class Filter(Operator):
    """Measures statistics of rows and keeps the rows within bounds.

    Bounds are inclusive unless `min_closed_interval` or `max_closed_interval`
    is false; `reversed_range` keeps what lies outside (and, inclusive, on them).
    """

    min_closed_interval: bool = True
    max_closed_interval: bool = True
    reversed_range: bool = False

    kind: ClassVar[str] = "filter"
    stats: ClassVar[tuple[str, ...]] = ()

    @property
    def reads_stats(self) -> bool:
        """Whether it judges statistics of earlier filters, and so must not run before them."""
        return False

    def bounds(self) -> tuple[Bounds, ...]:
        """One pair per statistic."""
        return ()

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """One list per statistic with one value per row; a `Drop` for a row that has none.

        Without statistics one list of what `keep` has to know of each row.
        """
        raise NotImplementedError

    def keep(self, *values: Any) -> bool:
        """Whether a row with these values (one per statistic) stays."""
        return all(
            self.fits(value, low, high)
            for value, (low, high) in zip(values, self.bounds(), strict=True)
        )

    def keep_all(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
        """`keep` for many rows at once; `columns` holds one list per statistic."""
        if type(self).keep is Filter.keep:
            return self.within(columns)
        return [self.keep(*values) for values in zip(*columns, strict=True)]

    def within(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
        """Which rows have all of their single values within the bounds."""
        stays = [True] * len(columns[0])
        is_simple = self.min_closed_interval and self.max_closed_interval
        for column, (low, high) in zip(columns, self.bounds(), strict=True):
            if is_simple and not self.reversed_range:
                lowest = -math.inf if low is None else low
                highest = math.inf if high is None else high
                fits = [lowest <= value <= highest for value in column]
            else:
                fits = [self.fits(value, low, high) for value in column]
            stays = list(map(operator.and_, stays, fits))
        return stays

    def fits(self, value: Any, low: float | None, high: float | None) -> bool:
        """Whether one value lies within the bounds, as the interval keys say.

        Reversed, the bounds themselves stay when their interval is closed.
        """
        closed_low = self.min_closed_interval != self.reversed_range
        closed_high = self.max_closed_interval != self.reversed_range
        within = True
        if low is not None:
            within = value >= low if closed_low else value > low
        if within and high is not None:
            within = value <= high if closed_high else value < high
        return within != self.reversed_range

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """The drop record of a row that `keep` refused: statistic, value and broken bound."""
        for stat, value, (low, high) in zip(self.stats, values, self.bounds(), strict=True):
            for single in value if isinstance(value, list) else [value]:
                if not self.fits(single, low, high):
                    reason, bound = self._broken(stat, single, low, high)
                    return Drop(name, reason, stat, value, bound)
        return Drop(name, f"{self.stats[0]} out of bounds", self.stats[0], values[0], None)

    def _broken(
        self, stat: str, value: Any, low: float | None, high: float | None
    ) -> tuple[str, str]:
        if self.reversed_range:
            return f"{stat} inside the range", f"outside {low}..{high}"
        too_low = low is not None and not (
            value >= low if self.min_closed_interval else value > low
        )
        if too_low:
            return f"{stat} too low", f"{'>=' if self.min_closed_interval else '>'} {low}"
        return f"{stat} too high", f"{'<=' if self.max_closed_interval else '<'} {high}"


@dataclass(frozen=True, kw_only=True)
class TextFilter(Filter):
    """A filter on one field of text.

    Special tokens (`<__dj__image>`, the end of a chunk) count as text, as in
    Data-Juicer, unless `ignore_special_tokens` is set.
    """

    ignore_special_tokens: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageFilter(Filter):
    """A filter on each image of a row.

    A row stays if `any` or `all` of its images fit; a row without images stays.
    """

    any_or_all: Literal["any", "all"] = "any"

    needs: ClassVar[Need] = Need.HEADER

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """One value per statistic of one image; raises `ImageError` where it has none."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """One list of values (one per image) per statistic and row."""
        return batch.per_image(self, self.look, len(self.stats))

    def keep(self, *values: Any) -> bool:
        """Whether any or all images fit all bounds."""
        return self.fit_any_or_all(list(zip(*values, strict=True)))

    def keep_all(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
        """`keep` for many rows at once: the pictures of all rows are judged together."""
        if type(self).keep is not ImageFilter.keep:
            return [self.keep(*values) for values in zip(*columns, strict=True)]
        counts = list(map(len, columns[0]))
        fits = self.within([list(chain.from_iterable(column)) for column in columns])
        if counts.count(1) == len(counts):
            return fits
        join = any if self.any_or_all == "any" else all
        ends = list(accumulate(counts))
        return [
            not count or join(fits[end - count : end])
            for count, end in zip(counts, ends, strict=True)
        ]

    def fit_any_or_all(self, images: Sequence[Sequence[Any]]) -> bool:
        """`images` holds the values of each image; True where there are none."""
        pairs = self.bounds()
        fits = [
            all(self.fits(v, low, high) for v, (low, high) in zip(image, pairs, strict=True))
            for image in images
        ]
        return not fits or (any(fits) if self.any_or_all == "any" else all(fits))


class Mapper(Operator):
    """Rewrites rows."""

    kind: ClassVar[str] = "mapper"


class TextMapper(Mapper):
    """Rewrites one field of text, row by row."""

    def rewrite(self, text: str) -> str:
        """The new text."""
        raise NotImplementedError


@dataclass(frozen=True)
class Grown:
    """What a mapper makes of one row: does the row itself stay, and what new rows follow it."""

    keeps_original: bool
    rows: tuple[Row, ...] = ()
    stats: tuple[Mapping[str, Any], ...] = field(default=())


class RowMapper(Mapper):
    """Turns one row into another, or into any number of rows."""

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """One result per row: the row rewritten (a new dict, or the old one if unchanged), `Grown`
        or a `Drop`."""
        raise NotImplementedError


class CorpusMapper(Mapper):
    """Rewrites rows by what all rows together say: first keys of all, then the rewriting.

    Keys, and what is learned from them, are made of numbers, strings, lists and dicts.
    """

    def keys(self, batch: Batch) -> list[Any]:
        """What `learn` has to know of each row."""
        raise NotImplementedError

    def learn(self, keys: Iterable[Any]) -> Any:
        """What `apply` has to know of all rows; `keys` streams in the order of the rows."""
        raise NotImplementedError

    def apply(self, batch: Batch, learned: Any) -> list[Row | Drop]:
        """The rewritten rows, the same dict where nothing changed."""
        raise NotImplementedError


class Dedup(Operator):
    """Gives each row a key and keeps the first row of each key."""

    kind: ClassVar[str] = "dedup"

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        """One key per row; None for a row with nothing to compare, which stays."""
        raise NotImplementedError

    def matcher(self) -> Matcher:
        """A memory of the keys that were kept."""
        return ExactMatcher()


class Matcher(Protocol):
    """Remembers keys and finds the earlier row that a key repeats."""

    def find(self, key: bytes) -> str | None:
        """The uid of the first kept row that `key` repeats."""
        ...

    def add(self, key: bytes, uid: str) -> None:
        """Remember the key of a row that stays."""
        ...


class ExactMatcher:
    """Keys repeat each other when they are equal."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}

    def find(self, key: bytes) -> str | None:
        """The uid of the first row with this key."""
        return self._first.get(key)

    def add(self, key: bytes, uid: str) -> None:
        """Remember `key` as the row's."""
        self._first[key] = uid


class NearDedup(Operator):
    """Keeps the first row of each cluster of near repeats; it must see every row."""

    kind: ClassVar[str] = "dedup"

    @property
    def key_bytes(self) -> int:
        """Bytes of each key; 0 where the keys themselves say it, all of them as long."""
        raise NotImplementedError

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        """One key of `key_bytes` per row; None for a row with nothing to compare, which stays."""
        raise NotImplementedError

    def firsts(self, keys: Any) -> Any:
        """The place of the row that each row repeats, its own where it stays.

        Args:
            keys: [N, key_bytes] uint8, possibly mapped from a file; rows in order.

        Returns:
            [N] int64; a row that is pointed to points to itself.
        """
        raise NotImplementedError


class Grouper(Operator):
    """Joins rows to batch rows, whose fields are lists."""

    kind: ClassVar[str] = "grouper"

    def key(self, item: Item) -> Any:
        """What `groups` has to know of one row."""
        return None

    def groups(self, keys: Sequence[Any]) -> list[list[int]]:
        """The places of the rows of each batch row, in order."""
        raise NotImplementedError

    def join(self, rows: Sequence[Row]) -> Row:
        """One row of some rows; fields in order of appearance, None where a row has none."""
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True, kw_only=True)
class Choice(Operator):
    """What all that choose among rows share.

    With `mark` all rows stay, in their order, and the statistic of that name says whether
    a row was chosen; `specified_field_filter` can ask for several such marks at once.
    """

    mark: str = ""

    kind: ClassVar[str] = "selector"


class Selector(Choice):
    """Looks at all rows at once and says which stay, and in which order."""

    def key(self, item: Item) -> Any:
        """What `rank` has to know of one row: a number, a string or None."""
        return None

    def rank(self, keys: Sequence[Any]) -> list[int]:
        """The places of the rows that stay, in their new order."""
        raise NotImplementedError


class Chooser(Choice):
    """A selector that sees rows together and knows each by bytes, such as an embedding."""

    def keys(self, batch: Batch) -> list[bytes | Drop]:
        """What `choose` has to know of each row, all of one length."""
        raise NotImplementedError

    def choose(self, keys: Any, context: Context) -> Sequence[int]:
        """The places of the rows that stay, in their new order.

        Args:
            keys: [N, bytes] uint8, possibly mapped from a file; rows in order.
        """
        raise NotImplementedError


class PixelOperator(Protocol):
    """An operator that looks at decoded pictures, one at a time."""

    def view(self, image: Image, is_truncated: bool) -> Any:
        """A small value worked out of one upright picture; raises `ImageError` to refuse it."""
        ...


def look_up(row: Mapping[str, Any], dotted: str) -> Any:
    """The field `a.b.c` of a row, None where a step is missing; a literal `a.b.c` key wins."""
    if dotted in row:
        return row[dotted]
    value: Any = row
    for step in dotted.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def replaced(row: Row, dotted: str, value: Any) -> Row:
    """A copy of the row with the field `a.b.c` set; nothing that the old row holds is changed."""
    if dotted in row or "." not in dotted:
        return {**row, dotted: value}
    head, rest = dotted.split(".", 1)
    inner = row.get(head)
    return {**row, head: replaced(inner if isinstance(inner, dict) else {}, rest, value)}


def check_ratio(name: str, low: float, high: float) -> None:
    """Refuse bounds that keep nothing."""
    if low > high:
        raise RecipeError(f"{name}: the lower bound {low} is above the upper bound {high}")
