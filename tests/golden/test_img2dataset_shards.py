"""img2dataset's own shards, read as records and written again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from vlforge.data.formats.img2dataset import META
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Record

GOLDEN = {"shards": "minigpt4_qwenvl/img2dataset/out"}


def rows_of(shards: Path) -> list[dict]:
    files = sorted(shards.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def successes(shards: Path) -> dict[str, dict]:
    return {row["key"]: row for row in rows_of(shards) if row["status"] == "success"}


def read(shards: Path) -> list[Record]:
    return [one for one in find("img2dataset").read(shards) if isinstance(one, Record)]


def told(record: Record) -> dict:
    caption = record.chunks[0].removeprefix("<image>\n")
    return {**record.extra, "caption": caption, "key": record.id}


def test_every_download_that_succeeded_is_a_record(shards: Path):
    assert detect(shards).name == "img2dataset"
    found = read(shards)
    assert {record.id: told(record) for record in found} == successes(shards)
    assert all(record.pictures[0].content[:3] == b"\xff\xd8\xff" for record in found)
    assert len(found) == len(successes(shards))


def test_every_download_that_failed_is_told(shards: Path):
    failed = [row for row in rows_of(shards) if row["status"] != "success"]
    faults = [one for one in find("img2dataset").read(shards) if isinstance(one, Fault)]
    assert [one.reason for one in faults] == [f"not downloaded, {row['status']}" for row in failed]
    assert all(row["url"] in one.value for row, one in zip(failed, faults, strict=True))
    assert faults


def test_written_again_nothing_but_keys_changes(shards: Path, tmp_path: Path):
    records = read(shards)
    with find("img2dataset").writer(tmp_path / "out") as out:
        for record in records:
            out.write(record)
    again = read(tmp_path / "out")
    for before, after in zip(records, again, strict=True):
        assert after.id == before.id
        assert after.pictures == before.pictures
        assert told(after) == told(before)
    own = pq.read_schema(tmp_path / "out" / "00000.parquet")
    theirs = pq.read_schema(shards / "00000.parquet")
    assert theirs.names == list(META)
    assert [own.field(name) for name in META] == [theirs.field(name) for name in META]
    keys = [list(json.loads(p.read_text())) for p in (shards, tmp_path / "out") for p in
            p.glob("00000_stats.json")]  # fmt: skip
    assert keys[0] == keys[1]
