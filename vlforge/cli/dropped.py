"""The dropped rows of a processed dataset, as a short table: who, why, how many, which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.cli.show import table

SHOWN_IDS = 5
_LOOKED_AT = 5000
"""Rows that are looked through for examples; the counts are of all."""


def say_dropped(funnel: Mapping[str, Any], dropped: Path) -> None:
    """Print a line per operator and reason, with some ids; nothing where all rows stay."""
    counts = {("read", reason): rows for reason, rows in (funnel.get("bad_reasons") or {}).items()}
    for op in funnel["ops"]:
        for reason, rows in op["reasons"].items():
            counts[op["op"], reason] = counts.get((op["op"], reason), 0) + rows
    if not counts:
        return
    names = _examples(dropped)
    lines = []
    for key, rows in counts.items():
        some = names.get(key, [])
        more = " …" if rows > len(some) else ""
        lines.append((*key, f"{rows:,}", ", ".join(some) + more))
    table(("dropped by", "why", "rows", "which"), lines, right=(2,))


def _examples(dropped: Path) -> dict[tuple[str, str], list[str]]:
    """The first ids per operator and reason; the line's number where a row has no id."""
    from vlforge.data.json_lines import read_values

    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for _, row in islice(read_values(dropped), _LOOKED_AT):
        if not isinstance(row, dict):
            continue
        some = found[row["op"], row["reason"]]
        if len(some) < SHOWN_IDS:
            name = f"line {row['line']}" if row["id"] is None else str(row["id"])
            # Half a character, which JSON may hold, cannot be printed as it is.
            some.append(name.encode("utf-8", "backslashreplace").decode("utf-8"))
    return found
