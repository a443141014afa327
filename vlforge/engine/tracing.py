"""Data-Juicer's trace files, from what a run wrote down.

One file per operator in `trace/`: `sample_trace-OP.jsonl` holds texts before and
after for a mapper, dropped rows for a filter; `duplicate-OP.jsonl` pairs of
repeats for a deduplicator. An operator that changed nothing has no file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import decode, read_values, write_lines
from vlforge.engine.config import ProcessConfig
from vlforge.engine.lines import STATS
from vlforge.engine.rows import reading_of
from vlforge.engine.source import open_source
from vlforge.types import Row


def write_traces(work: Path, funnel: Mapping[str, Any], config: ProcessConfig) -> list[Path]:
    """Write the trace files of a run into its folder; gives those that hold something.

    Raises:
        DataError: no way to write.
    """
    wanted = set(config.op_list_to_trace)
    kinds = {op["op"]: op["kind"] for op in funnel["ops"] if not wanted or op["op"] in wanted}
    folder = work / "trace"
    for stale in folder.glob("*.jsonl"):
        stale.unlink()
    files = {
        **_mapper_files(work, config, {op for op, kind in kinds.items() if kind == "mapper"}),
        **_filter_files(work, config, {op for op, kind in kinds.items() if kind == "filter"}),
        **_dedup_files(work, config, {op for op, kind in kinds.items() if kind == "dedup"}),
    }
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_lines(folder / name, rows)
    return [folder / name for name in files]


def _mapper_files(work: Path, config: ProcessConfig, ops: set[str]) -> dict[str, list[Row]]:
    records = _first_of(work / "changed.jsonl", ops, config.trace_num)
    others = [key for key in config.trace_keys if key != "id"]
    rows = _source_rows(config, {r["uid"] for r in records}) if others else {}
    files: dict[str, list[Row]] = {}
    for record in records:
        original = rows.get(_source_uid(record["uid"]), {})
        told = {
            key: record["id"] if key == "id" else original.get(key) for key in config.trace_keys
        }
        told |= {"original_text": record["before"], "processed_text": record["after"]}
        files.setdefault(f"sample_trace-{record['op']}.jsonl", []).append(told)
    return files


def _filter_files(work: Path, config: ProcessConfig, ops: set[str]) -> dict[str, list[Row]]:
    files: dict[str, list[Row]] = {}
    for record in _first_of(work / "dropped.jsonl", ops, config.trace_num):
        stats = {record["stat"]: record["value"]} if record["stat"] else {}
        row = {**(record["row"] or {}), STATS: stats}
        files.setdefault(f"sample_trace-{record['op']}.jsonl", []).append(row)
    return files


def _dedup_files(work: Path, config: ProcessConfig, ops: set[str]) -> dict[str, list[Row]]:
    records = _first_of(work / "dropped.jsonl", ops, config.trace_num, distinct=True)
    firsts = _kept_rows(work, {str(r["value"]) for r in records})
    missing = {str(r["value"]) for r in records} - set(firsts)
    firsts |= _source_rows(config, missing) if missing else {}
    files: dict[str, list[Row]] = {}
    for record in records:
        first = firsts.get(str(record["value"])) or firsts.get(_source_uid(str(record["value"])))
        pair = {"dup1": first, "dup2": record["row"]}
        files.setdefault(f"duplicate-{record['op']}.jsonl", []).append(pair)
    return files


def _first_of(
    path: Path, ops: Collection[str], number: int, *, distinct: bool = False
) -> list[dict[str, Any]]:
    """The first `number` records of each operator; `distinct` takes each value once."""
    left = dict.fromkeys(ops, number)
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for record in _records(path):
        if not any(left.values()):
            break
        op, key = record["op"], (record["op"], str(record.get("value")))
        if left.get(op, 0) > 0 and not (distinct and key in seen):
            seen.add(key)
            left[op] -= 1
            found.append(record)
    return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open("rb") as lines:
            yield from map(decode, lines)


def _kept_rows(work: Path, uids: Collection[str]) -> dict[str, Row]:
    """Rows of the result by uid."""
    if not uids:
        return {}
    found: dict[str, Row] = {}
    stats = read_values(work / "stats.jsonl")
    for (_, told), (_, row) in zip(stats, read_values(work / "data.jsonl"), strict=False):
        if told["uid"] in uids:
            found[told["uid"]] = row
    return found


def _source_rows(config: ProcessConfig, uids: Collection[str]) -> dict[str, Row]:
    """Rows of the input by uid; reading stops when all are found."""
    wanted = {_source_uid(uid) for uid in uids}
    found: dict[str, Row] = {}
    reading = reading_of(config)
    for block in open_source(config).blocks(1000):
        if len(found) == len(wanted):
            break
        for track in reading.tracks(block):
            if track.item.uid in wanted:
                found[track.item.uid] = track.item.row
    return found


def _source_uid(uid: str) -> str:
    """The name of the input's row that a derived row (`uid/1`) comes from."""
    return uid.partition("/")[0]
