"""Rows to the lines that are written."""

from __future__ import annotations

from typing import Any

from vlforge.data.json_lines import encode
from vlforge.ops.batch import Item
from vlforge.types import Drop

STATS = "__dj__stats__"
"""Data-Juicer's key for a row's statistics."""


def work_line(item: Item) -> bytes:
    """A row between two passes, with all that is known of it."""
    return encode(work_told(item))


def work_told(item: Item) -> list[Any]:
    """What a row's line between two passes says."""
    return [item.uid, item.line, item.row, item.stats, item.given]


def exported(item: Item, stats: Any, keeps_stats: bool) -> dict[str, Any]:
    """A kept row as it is exported."""
    return {**item.row, STATS: stats} if keeps_stats else item.row


def stats_of(item: Item, order: list[str]) -> dict[str, Any]:
    """A row's statistics, those of the recipe in its order."""
    found = item.stats
    if not item.given and list(found) == order:
        return found
    mine = {name: found[name] for name in order if name in found}
    if len(mine) < len(found):
        mine |= {name: value for name, value in found.items() if name not in mine}
    return {**item.given, **mine} if item.given else mine


def stats_told(item: Item, stats: Any) -> dict[str, Any]:
    """What `stats.jsonl` says of a kept row."""
    return {"uid": item.uid, "id": item.row.get("id"), "stats": stats}


def dropped_line(name: tuple[str, Any, int], drop: Drop, row: Any) -> bytes:
    """A dropped row's line in `dropped.jsonl`.

    `name` is its uid, its id and its line in the source; `row` the row as the
    operator saw it.
    """
    uid, number, line = name
    return encode(
        {
            "uid": uid,
            "id": number,
            "line": line,
            "op": drop.op,
            "reason": drop.reason,
            "stat": drop.stat,
            "value": drop.value,
            "bound": drop.bound,
            "row": row,
        }
    )


def changed_line(
    uid: str, number: Any, op: str, before: Any, after: Any, origins: Any = None
) -> bytes:
    """A changed row's line in `changed.jsonl`; `number` is its id, `origins` its provenance."""
    told = {"uid": uid, "id": number, "op": op, "before": before, "after": after}
    return encode(told | ({"provenance": origins} if origins else {}))
