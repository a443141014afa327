"""Tells one row's story from what the `process` stages wrote down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vlforge.types import DataError


def tell(folder: Path, row: str) -> list[str]:
    """What each processed dataset under `folder` did with the row, a line each.

    Args:
        folder: a run, or one folder that `process` wrote.
        row: the row's `id`, or its uid.

    Raises:
        DataError: no processed dataset here, or none that saw the row.
    """
    stages = sorted(
        {p.parent for p in [*folder.glob("funnel.json"), *folder.glob("*/funnel.json")]}
    )
    if not stages:
        raise DataError(f"{folder}: no processed dataset here; give a run or a `process` folder")
    story = [line for stage in stages for line in _in_stage(stage, row)]
    if not story:
        names = ", ".join(stage.name for stage in stages)
        raise DataError(f"{row}: no such row in {folder} ({names}); give the id as the data has it")
    return story


def _in_stage(stage: Path, row: str) -> Iterator[str]:
    for record in _records(stage / "changed.jsonl", row):
        yield f"{stage.name}: changed by {record['op']}"
        yield f"  before: {_short(record.get('before'))}"
        yield f"  after:  {_short(record.get('after'))}"
    for record in _records(stage / "dropped.jsonl", row):
        yield f"{stage.name}: dropped by {record['op']}: {record['reason']}"
        if record.get("stat"):
            yield f"  {record['stat']} = {_short(record.get('value'))}, bound {record.get('bound')}"
    for record in _records(stage / "stats.jsonl", row):
        yield f"{stage.name}: kept ({record['uid']})"
        for name, value in (record.get("stats") or {}).items():
            yield f"  {name} = {_short(value)}"


def _records(path: Path, row: str) -> Iterator[Mapping[str, Any]]:
    """Lines of the file about the row; derived rows (`uid/k`) are about their source too."""
    if not path.is_file():
        return
    needle = row.encode()
    with path.open("rb") as lines:
        for line in lines:
            # Most lines are about others: look before parsing.
            if needle not in line:
                continue
            record = msgspec.json.decode(line)
            uid = str(record.get("uid", ""))
            if row in (str(record.get("id")), uid) or uid.startswith(f"{row}/"):
                yield record


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"
