"""img2dataset's folder: tars, parquet and stats in its layout."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.pictures_made import picture
from vlforge.data.formats.img2dataset import META
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Picture, Record, Unfit

JPG = picture(6, size=(30, 20))


def record(number: object, caption: str = "red", **extra: object) -> Record:
    return Record(number, (Picture(content=JPG),), (), (f"<image>\n{caption}",), extra)


def write(path: Path, records: list[Record], **options) -> Path:
    with find("img2dataset", **options).writer(path) as out:
        for one in records:
            out.write(one)
    return path


def test_the_layout_is_img2datasets(tmp_path):
    records = [record(n, f"caption {n}", url=f"http://x/{n}.jpg") for n in range(8)]
    path = write(tmp_path / "out", records, number_sample_per_shard=6)
    names = [f"0000{n}{rest}" for n in (0, 1) for rest in (".parquet", ".tar", "_stats.json")]
    assert sorted(p.name for p in path.iterdir()) == names
    with tarfile.open(path / "00001.tar") as tar:
        assert tar.getnames() == [f"00001{n}.{s}" for n in (0, 1) for s in ("jpg", "json", "txt")]
        text = tar.extractfile("000011.json").read().decode()
    row = json.loads(text)
    assert text == json.dumps(row, indent=4)
    assert list(row) == ["id", *META]
    assert row["sha256"] == hashlib.sha256(JPG).hexdigest()
    assert (row["width"], row["height"], row["exif"], row["url"]) == (
        30,
        20,
        "{}",
        "http://x/7.jpg",
    )
    stats = json.loads((path / "00001_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (2, 2, {"success": 2})
    table = pq.read_table(path / "00001.parquet")
    assert table.schema.names == ["id", *META]
    assert [str(table.schema.field(n).type) for n in ("caption", "width", "id")] == [
        "string", "int32", "int64"
    ]  # fmt: skip
    assert table.to_pylist()[1] == row


def test_records_come_back_with_their_fields(tmp_path):
    extras = [{"score": 1, "tags": ["a"]}, {"width": "own", "key": 5, "url": None}, {"score": "x"}]
    records = [record(str(n), "", **extra) for n, extra in enumerate(extras)]
    path = write(tmp_path / "out", [*records, Record("p", (Picture(content=JPG),))])
    assert detect(path).name == "img2dataset"
    assert detect(path / "00000.tar").name == "img2dataset"
    *found, alone = detect(path).read(path)
    assert [one.id for one in found] == ["0", "1", "2"]
    assert [one.chunks for one in found] == [("<image>\n",)] * 3
    assert found[0].extra["tags"] == ["a"]
    assert [found[1].extra[name] for name in ("width", "key", "url")] == ["own", 5, None]
    assert alone.chunks == ()
    assert found[2].extra["score"] == "x"


def test_a_sample_that_is_written_again_keeps_its_address_and_original_size(tmp_path):
    first = write(tmp_path / "a", [record("x", url="u")])
    (one,) = find("img2dataset").read(first)
    changed = {**one.extra, "original_width": 999, "sha256": "of the original"}
    again = Record(one.id, one.pictures, (), one.chunks, changed)
    (two,) = find("img2dataset").read(write(tmp_path / "b", [again]))
    assert two.id == "x"
    assert two.extra == changed


def test_nothing_but_a_picture_with_a_caption_fits(tmp_path):
    with find("img2dataset").writer(tmp_path / "out") as out:
        with pytest.raises(Unfit, match="2 pictures"):
            out.write(Record("a", (Picture(content=JPG),) * 2))
        with pytest.raises(Unfit, match="no format"):
            out.write(Record("a", (Picture(content=b"<html>"),)))
    assert pq.read_table(tmp_path / "out" / "00000.parquet").num_rows == 0


def test_downloads_that_failed_are_told_with_their_rows_and_cost_nothing_else(tmp_path):
    path = write(tmp_path / "out", [record(n) for n in range(3)], number_sample_per_shard=2)
    rows = pq.read_table(path / "00000.parquet").to_pylist()
    failed = {"status": "failed_to_download", "error_message": "HTTP Error 404", "caption": "lost"}
    rows.insert(1, dict.fromkeys(rows[0]) | failed | {"url": "http://x/9.jpg"})
    rows.append(dict.fromkeys(rows[0]) | {"status": "failed_to_resize"})
    pq.write_table(pa.Table.from_pylist(rows), path / "00000.parquet")
    (path / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 2}))
    (path / "00001_stats.json").unlink()
    found = list(find("img2dataset").read(path))
    assert [one.line for one in found] == [1, 2, 3, 4, 5]
    assert [one.id for one in found if isinstance(one, Record)] == [0, 1, 2]
    faults = [(one.reason, one.value) for one in found if isinstance(one, Fault)]
    assert faults == [
        ("not downloaded, failed_to_download",
         "00000.parquet row 2: http://x/9.jpg: HTTP Error 404"),
        ("not downloaded, failed_to_resize", "00000.parquet row 4"),
    ]  # fmt: skip
    (path / "00001.parquet").write_bytes(b"PAR1 no more")
    assert [one.reason for one in find("img2dataset").read(path) if isinstance(one, Fault)] == [
        "not downloaded, failed_to_download", "not downloaded, failed_to_resize",
        "a table cannot be read",
    ]  # fmt: skip
