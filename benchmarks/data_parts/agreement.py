"""Do two tools keep the same rows, in the same order, with the same statistics?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

STATS = "__dj__stats__"
TOLERANCE = 1e-9
_SHOWN = 5


def kept(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def compare(ours: Path, other: Path) -> dict[str, Any]:
    """Kept rows and their order, fields, and the widest gap of any statistic.

    Paths are compared as they are: both tools write absolute ones.
    """
    mine, theirs = kept(ours), kept(other)
    my_ids, their_ids = [row["id"] for row in mine], [row["id"] for row in theirs]
    found: dict[str, Any] = {
        "rows": [len(mine), len(theirs)],
        "same_rows_in_order": my_ids == their_ids,
    }
    if my_ids != their_ids:
        first, second = set(my_ids), set(their_ids)
        found["only_ours"] = sorted(first - second)
        found["only_theirs"] = sorted(second - first)
    by_id = {row["id"]: row for row in theirs}
    pairs = [(row, by_id[row["id"]]) for row in mine if row["id"] in by_id]
    changed = [a["id"] for a, b in pairs if _without_stats(a) != _without_stats(b)]
    gaps = [gap for a, b in pairs for gap in _gaps(a["id"], a.get(STATS), b.get(STATS))]
    wide = sorted((gap for gap in gaps if not gap[0] <= TOLERANCE), reverse=True)
    found["fields_differ"] = changed[:_SHOWN]
    found["widest_gap"] = max((gap for gap, _ in gaps), default=0.0)
    found["beyond_1e-9"] = len(wide)
    found["examples"] = [f"{where}: {gap:.3g}" for gap, where in wide[:_SHOWN]]
    return found


def agree(found: Mapping[str, Any]) -> bool:
    """Whether `compare` found no difference that counts."""
    return bool(
        found["same_rows_in_order"] and not found["fields_differ"] and not found["beyond_1e-9"]
    )


def _without_stats(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != STATS}


def _gaps(name: str, mine: Any, theirs: Any) -> list[tuple[float, str]]:
    """(difference, where) of each number; infinite where one side lacks it or it is no number."""
    mine, theirs = mine or {}, theirs or {}
    found = []
    for key in {**mine, **theirs}:
        a, b = mine.get(key), theirs.get(key)
        pairs = zip_longest(_listed(a), _listed(b))
        gap = max((_gap(one, two) for one, two in pairs), default=0.0)
        found.append((gap, f"{name} {key} {a} against {b}"))
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _gap(one: Any, two: Any) -> float:
    if isinstance(one, (int, float)) and isinstance(two, (int, float)):
        return abs(one - two)
    return 0.0 if one == two else math.inf
