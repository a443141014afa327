"""Joining rows to batch rows, whose fields are lists, and taking them apart again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import CorpusMapper, Grouper, Grown
from vlforge.ops.batch import Batch, Item
from vlforge.types import Drop, Row

BATCH_META = "__dj__batch_meta__"
"""What aggregators say of a whole batch row."""
STATS_FIELD = "__dj__stats__"


@dataclass(frozen=True, kw_only=True)
class NaiveGrouper(Grouper):
    """Join all rows to one batch row, whose fields are lists; no rows stay no rows."""

    def groups(self, keys: Sequence[Any]) -> list[list[int]]:
        """All places."""
        return [list(range(len(keys)))] if keys else []


@dataclass(frozen=True, kw_only=True)
class KeyValueGrouper(Grouper):
    """Join the rows that agree in some fields to one batch row each.

    `group_by_keys` are fields, dotted where they lie inside others; a number
    takes an entry of a list (`tags.0`) and `__dj__stats__.name` a statistic
    measured before. By default the text field counts. Rows without a field agree
    in that. Batch rows follow the first row of each; 1 and 1.0 are equal, 1 and
    "1" are not.
    """

    group_by_keys: tuple[str, ...] | None = None

    def key(self, item: Item) -> Any:
        values = [_even(value_at(item, name)) for name in self.group_by_keys or (self.text_key,)]
        return json.dumps(values, sort_keys=True, default=repr)

    def groups(self, keys: Sequence[Any]) -> list[list[int]]:
        """The places of each key, in order of its first."""
        rows: dict[Any, list[int]] = {}
        for at, key in enumerate(keys):
            rows.setdefault(key, []).append(at)
        return list(rows.values())


@dataclass(frozen=True, kw_only=True)
class NaiveReverseGrouper(CorpusMapper):
    """Take batch rows apart: one row per entry of their lists.

    What aggregators noted of the batch row (`__dj__batch_meta__`) is left out;
    with `batch_meta_export_path` it is written there, a line of JSON per batch row
    that has some, in order. A row whose fields are not lists of one length is
    dropped with the reason, where Data-Juicer stops or cuts the longer lists.
    """

    batch_meta_export_path: str | None = None

    kind: ClassVar[str] = "grouper"

    def keys(self, batch: Batch) -> list[Any]:
        if self.batch_meta_export_path is None:
            return [None] * len(batch.items)
        return [[item.row[BATCH_META]] if BATCH_META in item.row else None for item in batch.items]

    def learn(self, keys: Iterable[Any]) -> Any:
        """Nothing; this is where all batch rows are seen in order, so the file is written here."""
        if self.batch_meta_export_path is None:
            return None
        path = Path(self.batch_meta_export_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as out:
            for found in keys:
                if found is not None:
                    out.write(json.dumps(found[0], ensure_ascii=False) + "\n")
        return None

    def apply(self, batch: Batch, learned: Any) -> list[Grown | Row | Drop]:  # type: ignore[override]
        return [_apart(item.row) for item in batch.items]


def _apart(row: Row) -> Grown | Drop:
    columns = {name: values for name, values in row.items() if name != BATCH_META}
    for name, values in columns.items():
        if not isinstance(values, list):
            return Drop("", "no batch row", name, type(values).__name__, "a list")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        return Drop("", "lists of different lengths", None, lengths, "one length")
    if not any(lengths.values()):
        return Drop("", "empty batch row")
    rows = zip(*columns.values(), strict=True)
    return Grown(False, tuple(dict(zip(columns, values, strict=True)) for values in rows))


def value_at(item: Item, dotted: str) -> Any:
    """The field `a.b` of a row, `a.0` for an entry of a list; None where a step is missing."""
    if dotted in item.row:
        return item.row[dotted]
    value: Any = item.row
    for step in dotted.split("."):
        if value is item.row and step == STATS_FIELD:
            value = {**item.given, **item.stats}
        elif isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list | str) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _even(value: Any) -> Any:
    """The value with whole floats as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_even(one) for one in value]
    if isinstance(value, dict):
        return {name: _even(one) for name, one in value.items()}
    return value
