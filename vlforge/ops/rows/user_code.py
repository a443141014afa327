"""Calling functions that users wrote: copies go in, rows come out, mistakes are named by line.

A function gets a row, or columns (a dict of lists) of several, as Data-Juicer
hands them over: fields that other rows of the batch have are there as None,
statistics stand under `__dj__stats__`. What it gives back is laid over the row:
fields that it leaves out stay. Whatever the function changes in place happens to
a copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Item
from vlforge.types import Drop, Row

STATS = "__dj__stats__"
"""Data-Juicer's key for a row's statistics."""
Function = Callable[[Any], Any]
Result = Grown | Row | Drop
_SCALARS = frozenset((str, int, float, bool, bytes, type(None)))
_HOLDERS = frozenset((dict, list))


class Sample(dict[str, Any]):
    """A row as a user's function sees it: `sample["meta.caption"]` finds the inner field."""

    def __missing__(self, key: str) -> Any:
        if isinstance(self.get(key.partition(".")[0]), Mapping):
            return look_up(self, key)
        raise KeyError(key)


class Columns(dict[str, list[Any]]):
    """Some rows as a user's function sees them: a list per field."""

    def __missing__(self, key: str) -> list[Any]:
        head, dot, rest = key.partition(".")
        if not dot or head not in self:
            raise KeyError(key)
        return [look_up(v, rest) if isinstance(v, Mapping) else None for v in self[head]]


class UneditableError(Exception):
    """What a function gave back cannot stand in a row; the message says why."""


@dataclass(frozen=True)
class UserCode:
    """Where a function came from (`file` is what tracebacks call it) and how it is to be called.

    `extra` are fields that a row gets before the call where it has none, such as
    the tags. `refuses_own` refuses a function that gives its own argument back.
    """

    file: str
    extra: tuple[str, ...] = ()
    refuses_own: bool = False

    def sample(self, item: Item, names: Mapping[str, None]) -> Sample:
        """A copy of the row with all of the fields `names`."""
        sample = Sample(names)
        for name, value in item.row.items():
            sample[name] = copied(value) if type(value) in _HOLDERS else value
        for name in self.extra:
            if sample.get(name) is None:
                sample[name] = {}
        if STATS in names:
            sample[STATS] = copied({**item.given, **item.stats})
        return sample

    def call_each(self, function: Function, items: Sequence[Item]) -> list[Result]:
        """The function on each row."""
        names = names_of(items)
        return [self._one(function, item, names) for item in items]

    def _one(self, function: Function, item: Item, names: Mapping[str, None]) -> Result:
        try:
            sample = self.sample(item, names)
            lent = [name for name in sample if name not in item.row]
            given = function(sample)
            if not isinstance(given, Mapping):
                return Drop("", f"gave {_kind(given)}, not a dict")
            return laid_over(item, given, lent)
        except Exception as error:  # a user's function may raise anything
            return self.fault(error)

    def call_batched(self, function: Function, items: Sequence[Item], size: int) -> list[Result]:
        """The function on columns of at most `size` rows.

        Where that fails, or gives another number of rows, it is called again row
        by row, so that a bad row costs itself alone and new rows have a parent.
        """
        results: list[Result] = []
        for at in range(0, len(items), size):
            some = items[at : at + size]
            try:
                results += self._batch(function, some)
            except Exception as error:
                again = [self.fault(error)] if len(some) == 1 else None
                results += again or [self._alone(function, item) for item in some]
        return results

    def _alone(self, function: Function, item: Item) -> Result:
        try:
            return self._batch(function, [item])[0]
        except Exception as error:
            return self.fault(error)

    def _batch(self, function: Function, items: Sequence[Item]) -> list[Result]:
        shared = names_of(items)
        columns = columns_of([self.sample(item, shared) for item in items])
        names = list(columns)
        given = function(columns)
        if not isinstance(given, Mapping):
            raise UneditableError(f"gave {_kind(given)}, not a dict")
        if self.refuses_own and given is columns:
            raise UneditableError("gave its own argument back, which Data-Juicer refuses")
        rows = rows_of(given) if given else [{}] * len(items)
        if len(rows) == len(items):
            pairs = zip(items, rows, strict=True)
            return [
                laid_over(item, r, [n for n in names if n not in item.row]) for item, r in pairs
            ]
        missing = [name for name in names if name not in given]
        if missing:
            raise UneditableError(f"gave {len(rows)} rows of {len(items)}, but not {missing[0]!r}")
        if len(items) > 1:
            raise UneditableError("gave another number of rows")
        if not rows:
            return [Drop("", "gave no row")]
        return [Grown(False, tuple(new_row(items[0], row) for row in rows))]

    def fault(self, error: Exception) -> Drop:
        """The drop record of a row over which the function stumbled: what, and in which line."""
        if isinstance(error, UneditableError):
            return Drop("", str(error))
        line = line_of(error, self.file)
        where = f" in {os.path.basename(self.file)}" + (f", line {line}" if line else "")
        return Drop("", type(error).__name__ + where, None, str(error))


def names_of(items: Sequence[Item]) -> dict[str, None]:
    """All fields of some rows; statistics are one where any row has some."""
    first = items[0].row.keys() if items else ()
    names = dict.fromkeys(first)
    for item in items:
        if item.row.keys() != first:
            names |= dict.fromkeys(item.row)
    if any(item.stats or item.given for item in items):
        names[STATS] = None
    return names


def columns_of(samples: Sequence[Sample]) -> Columns:
    """Rows with the same fields as columns."""
    return Columns({name: [sample[name] for sample in samples] for name in samples[0]})


def rows_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns as rows.

    Raises:
        UneditableError: a column is no list, or their lengths differ.
    """
    lists = {}
    for name, column in columns.items():
        if hasattr(column, "tolist"):
            column = column.tolist()
        if not isinstance(column, list | tuple):
            raise UneditableError(f"gave {_kind(column)} for {name!r}, not a list")
        lists[name] = column
    lengths = {len(column) for column in lists.values()}
    if len(lengths) > 1:
        raise UneditableError("gave columns of different lengths")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def laid_over(item: Item, given: Mapping[str, Any], lent: Collection[str]) -> Row:
    """The row with what a function gave; the old row itself where that changes nothing.

    Fields that were `lent` to the function and came back empty are taken away
    again. Statistics that the function added are noted on the item.

    Raises:
        UneditableError: a value that no row can hold; names the field.
    """
    row = old = item.row
    for name, value in given.items():
        if name == STATS:
            note_stats(item, value)
            continue
        if name in old and is_same(old[name], value):
            continue
        if name not in lent or not (value is None or value == {}):
            row = _with(row if row is not old else dict(old), name, plain(value, name))
    return row if row is not old and not is_same(row, old) else old


def new_row(item: Item, given: Mapping[str, Any]) -> Row:
    """One of several rows that a function made of one."""
    row: Row = {}
    for name, value in given.items():
        is_lent = name not in item.row and (value is None or value == {})
        if name != STATS and not is_lent:
            row = _with(row, name, plain(value, name))
    return row


def _with(row: Row, name: str, value: Any) -> Row:
    if name not in row and isinstance(row.get(name.partition(".")[0]), dict):
        return replaced(row, name, value)
    row[name] = value
    return row


def note_stats(item: Item, found: Any) -> None:
    """Take over the statistics that are new or different."""
    for name, value in found.items() if isinstance(found, Mapping) else ():
        known = item.stats[name] if name in item.stats else item.given.get(name)
        if not is_same(known, value):
            item.stats[name] = plain(value, name)


def copied(value: Any) -> Any:
    """A copy of dicts and lists all the way down; other values are shared."""
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list) else value


def is_same(left: Any, right: Any) -> bool:
    """Equal and of the same types: 1 is neither 1.0 nor True."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    return bool(left == right)


def plain(value: Any, name: str) -> Any:
    """A value as rows hold them: numpy's as Python's, tuples and sets as lists.

    Raises:
        UneditableError: no row can hold it; names the field.
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, name) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name) for inner in value]
    if isinstance(value, set | frozenset):
        return [plain(inner, name) for inner in sorted(value, key=repr)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), name)
    kinds: tuple[Any, ...] = (str, int, float, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value)
    raise UneditableError(f"gave {_kind(value)} for {name!r}, which no row can hold")


def line_of(error: BaseException, file: str) -> int | None:
    """The last line of `file` that the error passed through."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == file:
        line = error.lineno
    return line


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
