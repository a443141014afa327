"""parquet files and Hugging Face's dataset folders."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.pictures_made import picture
from vlforge.data import tables
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Picture, Record
from vlforge.types import DataError, Turn

JPG, PNG = picture(7), picture(8, "PNG")
TABLES = ("parquet", "hf_dataset")
RECORDS = [
    Record("a", (Picture("x/a.jpg", content=JPG),), (), ("<image>\nred",), {"score": 0.5, "n": 1}),
    Record(
        7, (Picture(content=PNG), Picture(content=JPG)),
        (Turn("system", "s"), Turn("user", "<image><image>\nWhich?"), Turn("assistant", "Both.")),
        (), {"n": "another type", "none": None, "tags": ["a", {"b": 1}], "caption": "kept"},
    ),
    Record("c", (Picture(content=PNG),), (), ("before <image> behind", "more"), {"n": 1 << 70}),
    Record("d", (), (Turn("user", "Hi"), Turn("assistant", "Ho")), (), {"path": "no picture"}),
    Record("e", (Picture(content=JPG),), (), (), {"text": "not a caption", "ok": True}),
    Record(None, (Picture(content=JPG),), (), ("<image>\nhalf \ud800",), {"s": "\udc00"}),
]  # fmt: skip


def write(name: str, path: Path, records: list[Record], **options) -> Path:
    with find(name, **options).writer(path) as out:
        for record in records:
            out.write(record)
    return path


def told(record: Record) -> tuple:
    pictures = [(p.path, p.content) for p in record.pictures]
    return record.id, pictures, record.turns, record.chunks, dict(record.extra)


@pytest.mark.parametrize("name", TABLES)
def test_records_come_back_as_they_were(tmp_path, name):
    path = write(name, tmp_path / "out", RECORDS)
    assert detect(path).name == name
    assert [told(one) for one in detect(path).read(path)] == [told(one) for one in RECORDS]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_columns_that_turn_up_late_are_columns_too(tmp_path, monkeypatch, name, rows):
    monkeypatch.setattr(tables, "ROWS", rows)
    path = write(name, tmp_path / "out", RECORDS * 3)
    assert [told(one) for one in find(name).read(path)] == [told(one) for one in RECORDS * 3]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_after_many_new_columns_the_rest_is_json(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 1)
    records = [Record(str(n), (), (), ("text",), {f"k{n}": n}) for n in range(40)]
    path = write("parquet", tmp_path / "a.parquet", records)
    assert [told(one) for one in find("parquet").read(path)] == [told(one) for one in records]
    assert len(pq.read_schema(path).names) < 30


def test_plain_captions_make_plain_columns(tmp_path):
    path = write("parquet", tmp_path / "a.parquet", RECORDS[:1])
    table = pq.read_table(path)
    assert table.schema.names == ["id", "image", "caption", "score", "n"]
    assert table.to_pylist()[0]["image"] == {"bytes": JPG, "path": "x/a.jpg"}
    told_by_hub = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert told_by_hub["image"] == {"_type": "Image"}


@pytest.mark.parametrize(
    ("columns", "path", "content", "chunk", "extra"),
    [
        ({"image": [JPG], "text": ["red"], "w": [3]}, "", JPG, "red", {"w": 3}),
        ({"jpg": [JPG], "caption": ["red"]}, "", JPG, "red", {}),
        ({"image_path": ["a.jpg"], "caption": ["red"], "x": [None]}, "a.jpg", None, "red", {}),
        ({"URL": ["http://x/a.jpg"], "TEXT": ["red"]}, "http://x/a.jpg", None, "red", {}),
        ({"photo": [{"bytes": JPG, "path": None}], "text": ["red"]}, "", JPG, "red", {}),
        ({"image": [{"bytes": None, "path": "a.jpg"}], "text": ["red"]}, "a.jpg", None, "red", {}),
        ({"images": [["a.jpg"]], "caption": ["red"], "b": [b"\1"]}, "a.jpg", None, "red",
         {"b": "AQ=="}),
    ],
)  # fmt: skip
def test_other_makers_columns_are_found(tmp_path, columns, path, content, chunk, extra):
    if isinstance(columns.get("image", [0])[0], dict):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {**columns, "image": pa.array(columns["image"], kind)}
    if "photo" in columns:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {**columns, "photo": pa.array(columns["photo"], kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (found,) = detect(tmp_path / "a.parquet").read(tmp_path / "a.parquet")
    (one,) = found.pictures
    assert (one.path, one.content) == (path, content)
    assert (found.chunks, found.extra) == ((f"<image>\n{chunk}",), extra)


def test_conversations_of_other_makers_are_read(tmp_path):
    messages = [
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "A"},
    ]
    bad = [{"role": "robot", "content": "x"}]
    table = pa.table({"images": [[JPG], [JPG]], "messages": [messages, bad]})
    pq.write_table(table, tmp_path / "a.parquet")
    good, fault = find("parquet").read(tmp_path / "a.parquet")
    assert good.turns == (Turn("user", "<image>\nWhat?"), Turn("assistant", "A"))
    assert (fault.line, fault.reason) == (2, "a turn has an unknown speaker")


def test_a_hub_folder_is_read_split_by_split(tmp_path):
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000"):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [JPG], "text": [name]}), tmp_path / f"{name}.parquet")
    assert detect(tmp_path).name == "hf_dataset"
    assert len(list(detect(tmp_path).read(tmp_path))) == 3
    assert len(list(find("hf_dataset", split="train").read(tmp_path))) == 2
    with pytest.raises(DataError, match="'dev'"):
        list(find("hf_dataset", split="dev").read(tmp_path))


def test_a_saved_dataset_has_shards_and_splits(tmp_path):
    for split in ("train", "test"):
        write("hf_dataset", tmp_path / split, RECORDS, max_shard_rows=4)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    names = sorted(p.name for p in (tmp_path / "train").iterdir())
    assert names == [
        "data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "dataset_info.json", "state.json"
    ]  # fmt: skip
    assert detect(tmp_path).name == "hf_dataset"
    found = list(detect(tmp_path).read(tmp_path))
    assert [told(one) for one in found] == [told(one) for one in RECORDS * 2]
    assert len(list(find("hf_dataset", split="test").read(tmp_path))) == len(RECORDS)


@pytest.mark.parametrize("name", ["../other.arrow", "/etc/passwd", "a/b.arrow", "..", "", None, 3])
def test_a_description_names_files_beside_it_only(tmp_path, name):
    path = write("hf_dataset", tmp_path / "out", RECORDS)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="not a file beside it"):
        list(find("hf_dataset").read(path))


@pytest.mark.parametrize("name", TABLES)
def test_no_records_make_an_empty_table(tmp_path, name):
    path = write(name, tmp_path / "out", [])
    assert list(find(name).read(path)) == []


@pytest.mark.parametrize("name", TABLES)
def test_an_error_leaves_nothing_behind(tmp_path, name):
    with pytest.raises(AttributeError):
        write(name, tmp_path / "out", [*RECORDS, None])
    assert not list(tmp_path.iterdir())


def test_a_cut_file_is_told_and_others_are_read(tmp_path):
    whole = write("parquet", tmp_path / "a.parquet", RECORDS[:1] * 50)
    cut = tmp_path / "b.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        list(find("parquet").read(cut))
    found = list(find("parquet").read(tmp_path))
    assert len(found) == 51
    assert isinstance(found[-1], Fault)
