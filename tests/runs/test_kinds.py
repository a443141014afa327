"""What the stage kinds add around the packages' own functions."""

import json

import pytest

from vlforge.data.detect import read_samples
from vlforge.data.roots import set_moved
from vlforge.engine.config import ProcessConfig
from vlforge.runs.job import Job
from vlforge.runs.kinds.process import make_relative, run
from vlforge.types import RecipeError


def test_pictures_of_other_stages_move_with_the_store(tmp_path):
    store, outside = tmp_path / "runs" / ".store", tmp_path / "photos" / "b.png"
    stage = store / "key.partial"
    stage.mkdir(parents=True)
    rows = [
        {"id": "1", "text": "<__dj__image> a", "images": [f"{store}/world/images/a.png"]},
        {"id": "2", "text": "<__dj__image> b", "images": [str(outside)]},
    ]
    (stage / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_relative(stage / "data.jsonl", store)
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / ".store" / "key.partial" / "data.jsonl"
    first, second = read_samples(moved)
    assert first.images == (f"{tmp_path}/moved/.store/world/images/a.png",)
    assert second.images == (str(outside),)


def test_a_mapped_folder_is_found_where_a_data_file_names_the_old_one(tmp_path):
    row = {"id": "1", "text": "<__dj__image> a", "images": ["/old/photos/a.png"]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    set_moved({"/old": str(tmp_path)})
    try:
        (sample,) = read_samples(tmp_path / "data.jsonl")
    finally:
        set_moved({})
    assert sample.images == (f"{tmp_path}/photos/a.png",)


@pytest.mark.parametrize(
    "keys", [{"export_type": "parquet"}, {"export_shard_size": 9}, {"keep_hashes_in_res_ds": True}]
)
def test_a_stage_refuses_what_is_about_an_export(tmp_path, keys):
    config = ProcessConfig("rows.jsonl", **keys)
    with pytest.raises(RecipeError, match=f"{next(iter(keys))} is .* a stage leaves data.jsonl"):
        run(config, Job("clean", tmp_path / "out", tmp_path))
    assert not (tmp_path / "out").exists()
