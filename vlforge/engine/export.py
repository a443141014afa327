"""Statistics in the shape that Data-Juicer leaves beside an export."""

from __future__ import annotations

from pathlib import Path

from vlforge.data.json_lines import read_values, write_lines
from vlforge.engine.lines import STATS
from vlforge.types import DataError


def export_stats(stats: Path, target: Path) -> int:
    """Write a stage's `stats.jsonl` as `{"__dj__stats__": {...}}` a line; gives their number.

    Raises:
        DataError: `stats` cannot be read or `target` not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_lines(target, (_line(value) for _, value in read_values(stats)))


def _line(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"a line of statistics is {value!r:.80}, not an object")
    return {STATS: value.get("stats", {})}
