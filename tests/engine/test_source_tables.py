"""Text tables and parquet files as rows, and parquet written again."""

from __future__ import annotations

import base64
import datetime
import decimal
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.engine.made import config
from tests.engine.test_source import tracks_of
from vlforge.engine.config import ProcessConfig
from vlforge.engine.export import export
from vlforge.engine.local import run_process
from vlforge.types import DataError


def rows_of(path, **keys):
    return [track.item.row for track in tracks_of(ProcessConfig(str(path), **keys))]


def test_columns_of_a_text_table_are_what_all_their_cells_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "text,whole,real,truth,zip,word,big,images\n"
        "12,1,1,true,007,NA,123456789012345678901,a.jpg\n"
        '"two\nlines, ""quoted""",-2,.5,FALSE,12,None,1,"[""a.jpg"", ""b.jpg""]"\n'
        "x,,1e3,,,null,2,\n"
    )
    rows = rows_of(path)
    assert rows[0] == {"text": "12", "whole": 1, "real": 1.0, "truth": True, "zip": "007",
                       "word": "NA", "big": 123456789012345678901.0,
                       "images": [str(tmp_path / "a.jpg")]}  # fmt: skip
    assert rows[1]["text"] == 'two\nlines, "quoted"'
    assert rows[1]["images"] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert rows[2] == {"text": "x", "whole": None, "real": 1000.0, "truth": None, "zip": None,
                       "word": "null", "big": 2.0, "images": None}  # fmt: skip


def test_by_compat_a_text_table_is_what_pandas_makes_of_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,zip,n,word\nNA,007,1,null\nsome text,012,,x\n")
    tracks = tracks_of(ProcessConfig(str(path), compat="data_juicer"))
    assert [track.drop is None for track in tracks] == [False, True]
    assert tracks[1].item.row == {"text": "some text", "zip": 12, "n": None, "word": "x"}
    assert tracks[0].item.row["n"] == 1.0
    assert isinstance(tracks[0].item.row["n"], float)


def test_a_cell_that_no_longer_fits_its_column_stays_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "x,1\n" * 10_000 + "x,many\n")
    assert rows_of(path)[-1] == {"text": "x", "n": "many"}


def test_a_record_of_a_wrong_length_or_no_utf8_costs_its_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\na,1,2,3\nb,1\nc\xff,1\nd\n")
    tracks = tracks_of(ProcessConfig(str(path)))
    assert [track.item.row.get("text") for track in tracks] == [None, "b", None, "d"]
    assert [t.drop.value for t in tracks if t.drop] == ["4 cells where the head has 2", "not UTF-8"]


def test_names_of_columns_are_told_apart(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\ta\t\ta\nx\t1\t2\t3\n")
    assert rows_of(path) == [{"text": "x", "a": 1, "Unnamed: 2": 2, "a.1": 3}]


def test_another_delimiter_may_be_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;n\nx;1\n")
    assert rows_of(path, load_dataset_kwargs={"delimiter": ";"}) == [{"text": "x", "n": 1}]


SPECIAL = pa.table(
    {
        "text": pa.array(["a", "b"]),
        "when": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, 6), None], pa.timestamp("ns")),
        "there": pa.array([datetime.datetime(2020, 1, 2)] * 2, pa.timestamp("ms", "UTC")),
        "day": pa.array([datetime.date(2020, 1, 2), None]),
        "clock": pa.array([datetime.time(1, 2, 3)] * 2),
        "span": pa.array([datetime.timedelta(seconds=1.5)] * 2),
        "cost": pa.array([decimal.Decimal("1.10")] * 2),
        "image_bytes": pa.array([[b"\x00\xff"], []], pa.list_(pa.binary())),
        "nest": pa.array([{"at": [datetime.date(2020, 1, 2)], "n": 1}, None]),
        "small": pa.array([1, 2], pa.int8()),
        "word": pa.array(["x", "y"]).dictionary_encode(),
        "pairs": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    }
)


def test_what_json_cannot_hold_comes_as_text(tmp_path):
    parquet.write_table(SPECIAL, tmp_path / "a.parquet")
    row = rows_of(tmp_path / "a.parquet")[0]
    assert row["when"] == "2020-01-02T03:04:05.000006"
    assert row["day"] == "2020-01-02"
    assert row["image_bytes"] == [base64.b64encode(b"\x00\xff").decode()]
    assert row["nest"] == {"at": ["2020-01-02"], "n": 1}
    assert json.dumps(row)


def exported(tmp_path, keys, rows):
    """The parquet file that rows of a run become."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "stats.jsonl").write_text('{"uid": "x-0", "stats": {}}\n' * len(rows))
    target = tmp_path / "out.parquet"
    export(work, target, keys, [])
    return parquet.read_table(target)


def test_columns_of_a_parquet_input_keep_their_types_when_written_again(tmp_path):
    parquet.write_table(SPECIAL, tmp_path / "a.parquet")
    keys = ProcessConfig(str(tmp_path / "a.parquet"), export_path="out.parquet")
    table = exported(tmp_path, keys, rows_of(tmp_path / "a.parquet"))
    assert table.schema.types == SPECIAL.schema.types
    assert table.equals(SPECIAL)


def test_a_column_that_was_rewritten_gets_the_type_that_fits(tmp_path):
    parquet.write_table(SPECIAL.select(["text", "day", "small"]), tmp_path / "a.parquet")
    keys = ProcessConfig(str(tmp_path / "a.parquet"), export_path="out.parquet")
    rows = [
        {"text": "a", "day": "2020-01-02", "small": 1, "n": 1},
        {"text": "b", "day": "yesterday", "small": 1000, "n": 1.5},
    ]
    table = exported(tmp_path, keys, rows)
    assert table.to_pylist() == rows
    assert table.schema.field("day").type == pa.string()


def test_nested_fields_grow_with_the_rows(tmp_path):
    rows = [{"text": "a", "meta": {"x": 1}}] * 1500 + [{"text": "b", "meta": {"y": ["z"]}}]
    (tmp_path / "a.jsonl").write_text("")
    keys = ProcessConfig(str(tmp_path / "a.jsonl"), export_path="out.parquet")
    table = exported(tmp_path, keys, rows)
    assert table.to_pylist()[-1] == {"text": "b", "meta": {"x": None, "y": ["z"]}}
    assert len(table) == 1501


def test_a_field_of_several_kinds_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    keys = ProcessConfig(str(tmp_path / "a.jsonl"), export_path="out.parquet")
    with pytest.raises(DataError, match="field 'n' holds values of several kinds"):
        exported(tmp_path, keys, [{"text": "a", "n": 1}, {"text": "b", "n": "one"}])
    assert not list(tmp_path.glob(".*.part"))


def test_pictures_that_a_row_carries_are_seen_in_every_pass(tmp_path):
    from PIL import Image

    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    columns = {"text": ["x", "y"], "images": [["gone.png"]] * 2, "image_bytes": [[content]] * 2}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    recipe = config(
        tmp_path / "a.parquet",
        {"image_shape_filter": {"max_width": 30}},
        {"random_selector": {"select_num": 1}},
        {"image_shape_filter": {"min_width": 30}},
        {"image_detail_filter": {"min_contrast": 0}},
    )
    assert run_process(recipe, tmp_path / "out")["rows_out"] == 1


def test_an_empty_result_keeps_the_columns_of_the_input(tmp_path):
    parquet.write_table(SPECIAL, tmp_path / "a.parquet")
    keys = ProcessConfig(str(tmp_path / "a.parquet"), export_path="out.parquet")
    assert exported(tmp_path, keys, []).schema.types == SPECIAL.schema.types


def test_columns_may_be_chosen_and_a_wrong_one_is_named(tmp_path):
    parquet.write_table(SPECIAL, tmp_path / "a.parquet")
    options = {"columns": ["text", "small"]}
    rows = rows_of(tmp_path / "a.parquet", load_dataset_kwargs=options)
    assert rows == [{"text": "a", "small": 1}, {"text": "b", "small": 2}]
    with pytest.raises(DataError, match="has no column 'gone'"):
        rows_of(tmp_path / "a.parquet", load_dataset_kwargs={"columns": ["gone"]})


def test_a_file_that_only_claims_to_be_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_text("nothing of the kind, whatever its name says")
    with pytest.raises(DataError, match=r"a\.parquet is no readable parquet file") as raised:
        rows_of(tmp_path / "a.parquet")
    assert "\n" not in str(raised.value)
