"""Ray gives the rows of the local run, byte for byte, and goes on after a kill."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.made import config, contents, write_picture, write_rows
from tests.engine.model_ops import NotingModels
from tests.engine.test_barriers import PAIRS, RECIPES, rows_of
from tests.engine.test_model_workers import RECIPES as model_recipes
from tests.engine.test_model_workers import made_rows
from vlforge.engine import cluster
from vlforge.engine.cluster import Stretch, stretch_of
from vlforge.engine.local import run_process
from vlforge.engine.source import open_source
from vlforge.types import DataError, VLForgeError


def test_a_worker_reads_its_own_stretch_of_a_plain_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_rows(tmp_path / "a.jsonl", rows_of(2500))
    for block in open_source(config(Path("a.jsonl"))).blocks(1000):
        stretch = pickle.loads(pickle.dumps(stretch_of(block)))
        assert isinstance(stretch, Stretch)
        assert stretch.block.lines == ()
        monkeypatch.chdir("/")
        assert stretch.read() == block
        monkeypatch.chdir(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="changed while it was read"):
        stretch.read()


def test_lines_of_other_formats_travel_with_the_block(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, {"text": "b"}]')
    (block,) = open_source(config(path)).blocks(1000)
    assert stretch_of(block) is block


@pytest.fixture(scope="module")
def two_processors():
    """A local Ray for all tests of the file."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_ray_gives_the_bytes_of_the_local_run(tmp_path, two_processors, name):
    path = write_rows(tmp_path / "a.jsonl", rows_of(3300))
    settings = config(path, *RECIPES[name])
    run_process(settings, tmp_path / "local", workers=1)
    run_process(replace(settings, executor_type="ray"), tmp_path / "ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("name", model_recipes)
def test_models_in_actors_give_the_bytes_of_the_local_run(tmp_path, two_processors, name):
    settings = config(made_rows(tmp_path, 400), *model_recipes[name])
    here, there = (NotingModels(str(tmp_path / place)) for place in ("here", "there"))
    run_process(settings, tmp_path / "local", models=here, workers=1)
    over_ray = replace(settings, executor_type="ray", model_workers=2)
    run_process(over_ray, tmp_path / "ray", models=there)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert os.getpid() not in there.processes()
    assert len(there.processes()) == 2 or "dedup" in str(model_recipes[name])
    assert sorted(there.asked("")) == sorted(here.asked(""))
    assert not list((tmp_path / "ray").glob(".*"))


@pytest.mark.slow
def test_an_actor_that_fails_or_dies_is_one_line_and_the_run_goes_on(tmp_path, two_processors):
    settings = config(made_rows(tmp_path, 300), *model_recipes["judge, then write"])
    run_process(settings, tmp_path / "local", models=NotingModels(str(tmp_path / "here")))
    over_ray = replace(settings, executor_type="ray")
    for name, how, said in (("a", "dies_at", "memory"), ("b", "fails_at", "had enough")):
        models = NotingModels(str(tmp_path / name), **{how: 150})
        with pytest.raises(VLForgeError, match=said) as raised:
            run_process(over_ray, tmp_path / "ray" / name, models=models)
        assert "\n" not in str(raised.value)
        run_process(over_ray, tmp_path / "ray" / name, models=models)
        assert contents(tmp_path / "ray" / name) == contents(tmp_path / "local")


@pytest.mark.slow
def test_pictures_and_shards_too(tmp_path, two_processors, monkeypatch):
    monkeypatch.setattr(cluster, "INLINE_BYTES", 0)
    for number in range(4):
        write_picture(tmp_path / f"{number}.png", (64 + number, 48), number)
    rows = [{**row, "images": [f"{n % 5}.png"]} for n, row in enumerate(rows_of(700))]
    settings = config(
        write_rows(tmp_path / "a.jsonl", rows),
        {"image_shape_filter": {"min_width": 65}},
        {"image_deduplicator": {"consider_text": True}},
    )
    run_process(settings, tmp_path / "local", workers=1)
    run_process(replace(settings, executor_type="ray"), tmp_path / "ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert not list((tmp_path / "ray").glob(".*"))


class Stop(Exception):
    """A kill."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, two_processors, monkeypatch):
    from vlforge.engine import outputs

    monkeypatch.setattr(outputs, "COMMIT_EVERY_S", 0.0)
    path = write_rows(tmp_path / "a.jsonl", rows_of(5300))
    settings = config(path, *RECIPES["several barriers"], PAIRS, "document_deduplicator")
    run_process(settings, tmp_path / "local", workers=1)
    over_ray = replace(settings, executor_type="ray")
    left = [3]

    def progress(*told):
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    with pytest.raises(Stop):
        run_process(over_ray, tmp_path / "ray", progress=progress)
    events = []
    run_process(over_ray, tmp_path / "ray", log=events.append)
    assert "resumed" in [event["event"] for event in events]
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.slow
def test_a_bad_row_is_one_line_in_strict_mode(tmp_path, two_processors):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "fine"}, "{broken"])
    with pytest.raises(DataError, match="line 2: read: broken line"):
        run_process(config(path, strict=True, executor_type="ray"), tmp_path / "out")
