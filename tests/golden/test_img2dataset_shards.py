"""img2dataset's own shards, read as records and written again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from vlforge.data.formats.img2dataset import META
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Record

GOLDEN = {"shards": "minigpt4_qwenvl/img2dataset/out"}


def successes(shards: Path) -> dict[str, dict]:
    rows = [row for file in shards.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    return {row["key"]: row for row in rows if row["status"] == "success"}


def told(record: Record) -> dict:
    caption = record.chunks[0].removeprefix("<image>\n")
    return {**record.extra, "caption": caption, "key": record.id}


def test_every_download_that_succeeded_is_a_record(shards: Path):
    assert detect(shards).name == "img2dataset"
    found = list(detect(shards).read(shards))
    assert {record.id: told(record) for record in found} == successes(shards)
    assert all(record.pictures[0].content[:3] == b"\xff\xd8\xff" for record in found)
    assert len(found) == len(successes(shards))


def test_written_again_nothing_but_keys_changes(shards: Path, tmp_path: Path):
    records = list(find("img2dataset").read(shards))
    with find("img2dataset").writer(tmp_path / "out") as out:
        for record in records:
            out.write(record)
    again = list(find("img2dataset").read(tmp_path / "out"))
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
