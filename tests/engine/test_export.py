"""The files that a run's kept rows become."""

from __future__ import annotations

import errno
import json

import pytest

from tests.engine.made import lines
from vlforge.data.json_lines import encode
from vlforge.engine.config import ProcessConfig
from vlforge.engine.export import export, stats_alone, stats_path
from vlforge.types import DataError, RecipeError

ROWS = [{"id": n, "text": f"row {n} é", "images": [f"/data/p/{n}.jpg"]} for n in range(7)]


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()

    def write(rows):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "data.jsonl").write_text(text, encoding="utf-8")
        stats = [{"uid": f"f-{n}", "stats": {"text_len": n}} for n in range(len(rows))]
        (folder / "stats.jsonl").write_text("".join(json.dumps(s) + "\n" for s in stats))
        return folder

    return write


def config(**keys):
    return ProcessConfig("rows.jsonl", export_path="out.jsonl", **keys)


def test_jsonl_is_a_row_a_line_and_statistics_stand_beside(work, tmp_path):
    target = tmp_path / "new" / "out.jsonl"
    assert export(work(ROWS), target, config(), []) == [target]
    assert lines(target) == ROWS
    assert stats_path(target).name == "out_stats.jsonl"
    assert lines(stats_path(target))[3] == {"__dj__stats__": {"text_len": 3}}


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_json_is_one_array_of_any_length(work, tmp_path, rows):
    target = tmp_path / "out.json"
    export(work(rows), target, config(export_type="json"), [])
    assert json.loads(target.read_text()) == rows


def test_shards_have_data_juicers_names_and_equal_numbers_of_rows(work, tmp_path):
    folder = work(ROWS)
    size = (folder / "data.jsonl").stat().st_size
    files = export(folder, tmp_path / "a.b.jsonl", config(export_shard_size=size // 3), [])
    assert [path.name for path in files] == [f"a-0{n}-of-04.jsonl" for n in range(4)]
    assert [len(lines(path)) for path in files] == [2, 2, 2, 1]
    assert [row for path in files for row in lines(path)] == ROWS
    assert not (tmp_path / "a.b.jsonl").exists()
    assert stats_path(tmp_path / "a.b.jsonl").exists()


def test_there_are_no_more_shards_than_rows_and_never_none(work, tmp_path):
    folder = work(ROWS)
    assert len(export(folder, tmp_path / "a.jsonl", config(export_shard_size=1), [])) == 7
    (only,) = export(work([]), tmp_path / "b.jsonl", config(export_shard_size=1), [])
    assert (only.name, only.read_bytes()) == ("b-00-of-01.jsonl", b"")


def test_shards_may_be_parquet(work, tmp_path):
    from pyarrow import parquet

    folder = work(ROWS)
    size = (folder / "data.jsonl").stat().st_size
    keys = config(export_type="parquet", export_shard_size=size // 2)
    files = export(folder, tmp_path / "a.jsonl", keys, [])
    assert [path.name for path in files] == [f"a-0{n}-of-03.parquet" for n in range(3)]
    assert [row for path in files for row in parquet.read_table(path).to_pylist()] == ROWS


@pytest.mark.parametrize("keeps", [False, True])
def test_tags_go_with_the_statistics_and_stand_beside_them(work, tmp_path, keeps):
    rows = [{"id": 1, "__dj__meta__": {"tags": ["a"]}}, {"id": 2}]
    target = tmp_path / "out.jsonl"
    export(work(rows), target, config(keep_stats_in_res_ds=keeps), [])
    assert lines(target) == (rows if keeps else [{"id": 1}, {"id": 2}])
    assert [line["__dj__meta__"] for line in lines(stats_path(target))] == [{"tags": ["a"]}, None]


def test_paths_are_as_the_dataset_has_them_on_demand(work, tmp_path):
    rows = [{"images": ["/data/p/1.jpg", "/elsewhere/2.jpg", "/data/sub/3.jpg"], "videos": None}]
    target = tmp_path / "out.jsonl"
    export(work(rows), target, config(absolute_paths=False), ["/data", "/data/sub"])
    assert lines(target)[0]["images"] == ["p/1.jpg", "/elsewhere/2.jpg", "3.jpg"]


def test_hashes_of_deduplicators_are_fields_on_demand(work, tmp_path):
    keys = config(keep_hashes_in_res_ds=True, process=({"document_deduplicator": {}},))
    target = tmp_path / "out.jsonl"
    export(work([{"text": "row 28 text with some words"}]), target, keys, [])
    # As Data-Juicer 1.6.1 has it.
    assert lines(target)[0]["__dj__hash"] == "fd4819b42baa4b451fd73e6760235cf7"


@pytest.mark.parametrize("name", ["out.txt", "out", "out.csv"])
def test_a_path_that_says_no_kind_is_refused(work, tmp_path, name):
    with pytest.raises(RecipeError, match=r"end it in \.jsonl, \.json or \.parquet"):
        export(work(ROWS), tmp_path / name, ProcessConfig("x", export_path=name), [])


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(work, tmp_path, kind, monkeypatch):
    target = tmp_path / f"out.{kind}"
    target.write_text("from before")

    def no_space(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("shutil.copyfile", "vlforge.engine.export._write_one"):
        monkeypatch.setattr(f"{place}", no_space)
    with pytest.raises(DataError, match="No space left on device; free some space") as raised:
        export(work(ROWS), target, config(export_type=kind), [])
    assert "\n" not in str(raised.value)
    assert target.read_text() == "from before"
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    "row_id", [None, 7, "a", ',"stats":', '","stats":{', {"a": 1, "stats": 2}, ["é\u2028", 1.5]]
)
@pytest.mark.parametrize("stats", [{}, {"text_len": 3}, {"a": [0.1, None], "b": ',"stats":{"'}])
def test_statistics_are_cut_out_as_they_would_be_read(row_id, stats):
    line = encode({"uid": "f-1", "id": row_id, "stats": stats}) + b"\n"
    assert stats_alone(line) == encode({"__dj__stats__": stats}) + b"\n"
