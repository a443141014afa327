"""The `evaluate` stage shares its questions among as many processes as may train a stage."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.evaluation.little_world import rows_of, write_world
from vlforge.runs.job import Job
from vlforge.runs.kinds import evaluate


def test_one_process_asks_unless_more_may(tmp_path):
    config = write_world(tmp_path, count=3)
    job = Job("score", tmp_path, tmp_path)
    assert evaluate._processes(config, job) == 1
    assert evaluate._processes(config, replace(job, processes=3)) == 3
    assert evaluate._processes(replace(config, device_map="auto"), replace(job, processes=3)) == 1
    assert evaluate._processes(config, replace(job, processes=3, device="cuda")) >= 1


@pytest.mark.slow
def test_the_stage_leaves_the_same_files_with_two(tmp_path):
    config = write_world(tmp_path, count=9)
    lines: list[dict] = []
    for count in (1, 2):
        out = tmp_path / str(count)
        job = Job("score", out, tmp_path, device="cpu", processes=count, log=lines.append)
        evaluate.run(config, job)
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")
    assert [line["new"] for line in lines if line["event"] == "asked"] == [9, 9]
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("1", "2")]
    assert names[0] == names[1]
    assert json.loads((tmp_path / "2" / "metrics.json").read_text())["custom"]["n"] == 9
