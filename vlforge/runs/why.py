"""Tells one row's story: what the `process` stages wrote down of it, and what they saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlforge.runs.replay import Told, config_of, replay
from vlforge.types import DataError, VLForgeError

_MARKS = {"dropped": "✕", "changed": "~", "unknown": "?", "": " "}


def tell(folder: Path, row: str) -> list[str]:
    """What each processed dataset under `folder` did with the row, operator by operator.

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
    dropped = list(_records(stage / "dropped.jsonl", row))
    kept = list(_records(stage / "stats.jsonl", row))
    changed = list(_records(stage / "changed.jsonl", row))
    config = config_of(stage) if dropped or kept else None
    final = _kept_rows(stage, config, row) if kept else {}
    for record in (*dropped, *kept):
        is_dropped = "reason" in record
        steps: list[Told] = []
        if config is not None and record.get("op") != "read":
            steps = _steps(config, record, final.get(str(record["uid"]), record.get("row")))
        if steps:
            yield from _told(stage, record, steps)
        else:
            mine = [c for c in changed if c.get("uid") == record.get("uid")]
            yield from _from_records(stage, record, mine, is_dropped)
        yield from _ending(stage, record, is_dropped)
    seen = {record.get("uid") for record in (*dropped, *kept)}
    for record in changed:
        # A row that others followed from has no line of its own elsewhere.
        if record.get("uid") not in seen:
            yield from _change(stage, record)


def _steps(config: Any, record: Mapping[str, Any], row: Any) -> list[Told]:
    try:
        return replay(config, str(record["uid"]), record, row if isinstance(row, dict) else None)
    except (VLForgeError, OSError):
        return []


def _told(stage: Path, record: Mapping[str, Any], steps: Sequence[Told]) -> Iterator[str]:
    where = f", line {record['line']}" if record.get("line") else ""
    yield f"{stage.name}: row {_name(record)}{where}, operator by operator"
    width = max(len(step.op) for step in steps)
    for step in steps:
        yield f"  {_MARKS[step.mark]} {step.op:<{width}}  {step.words}"
        if step.mark == "changed" and step.before is not None:
            yield f"      before: {_short(step.before)}"
        if step.mark == "changed" and step.after is not None:
            yield f"      after:  {_short(step.after)}"
    last = steps[-1]
    dropped_by = last.op if last.mark == "dropped" else None
    if last.mark != "unknown" and dropped_by != record.get("op"):
        yield "  the data, its pictures or an operator have changed since: the run saw otherwise"


def _from_records(
    stage: Path, record: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], is_dropped: bool
) -> Iterator[str]:
    """What is on record, where the row cannot be taken through again."""
    for change in changed:
        yield from _change(stage, change)
    if not is_dropped:
        for name, value in (record.get("stats") or {}).items():
            yield f"  {name} = {_short(value)}"


def _change(stage: Path, record: Mapping[str, Any]) -> Iterator[str]:
    yield f"{stage.name}: changed by {record['op']}"
    yield f"  before: {_short(record.get('before'))}"
    yield f"  after:  {_short(record.get('after'))}"


def _ending(stage: Path, record: Mapping[str, Any], is_dropped: bool) -> Iterator[str]:
    if not is_dropped:
        yield f"{stage.name}: kept ({record['uid']})"
        return
    yield f"{stage.name}: dropped by {record['op']}: {record['reason']}"
    if record.get("stat"):
        bound = f", bound {record['bound']}" if record.get("bound") else ""
        yield f"  {record['stat']} = {_short(record.get('value'))}{bound}"
    elif record.get("value"):
        yield f"  {_short(record['value'])}"


def _name(record: Mapping[str, Any]) -> str:
    name, uid = record.get("id"), record["uid"]
    return f"{uid}" if name is None else f"{name} ({uid})"


def _kept_rows(stage: Path, config: Any, row: str) -> dict[str, Any]:
    """The row, and those made of it, as they were kept, by uid; nothing where they moved.

    `stats.jsonl` has a line for each line of the data.
    """
    data = stage / "data.jsonl"
    if not data.is_file() and config is not None and config.export_path:
        data = Path(config.export_path)
    wanted = {number: str(one["uid"]) for number, one in _numbered(stage / "stats.jsonl", row)}
    if not data.is_file() or data.suffix != ".jsonl":
        return {}
    found = {}
    with data.open("rb") as lines:
        for number, line in enumerate(lines):
            if number in wanted:
                found[wanted[number]] = msgspec.json.decode(line)
            if len(found) == len(wanted):
                break
    return found


def _records(path: Path, row: str) -> Iterator[Mapping[str, Any]]:
    """Lines of the file about the row; derived rows (`uid/k`) are about their source too."""
    return (record for _, record in _numbered(path, row))


def _numbered(path: Path, row: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """`_records` with the number of each line, from 0."""
    if not path.is_file():
        return
    needle = row.encode()
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            # Most lines are about others: look before parsing.
            if needle not in line:
                continue
            record = msgspec.json.decode(line)
            uid = str(record.get("uid", ""))
            if row in (str(record.get("id")), uid) or uid.startswith(f"{row}/"):
                yield number, record


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"
