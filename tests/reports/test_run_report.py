"""The run report holds what the run says, whatever the run lacks and the data contains."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.reports.made_run import HOSTILE, dj, make_run, write_json, write_jsonl
from tests.reports.reading import read_page
from vlforge.reports.run_files import read_run
from vlforge.reports.run_report import write_run_report
from vlforge.reports.truth_view import view_truth
from vlforge.types import DataError


def written(run, name="report.html"):
    """The run's page, read."""
    write_run_report(run, run / name)
    return read_page(run / name)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run of four arms and three seeds, and its page."""
    run = make_run(
        tmp_path_factory.mktemp("runs") / "run",
        arms=("raw", "filtered", "refined", "clean"),
        seeds=(0, 1, 2),
        rows=200,
    )
    return run, written(run)


def test_first_heading_is_the_sentence_the_numbers_carry(full):
    _, page = full
    assert "Refined beats raw: reading (TextVQA rule) 0.01 → 0.8" in page.text
    assert "equal budget: 4,800 samples per arm" in page.text
    assert "3 seeds" in page.text


def test_sections_stand_in_the_order_of_the_loop(full):
    _, page = full
    order = ["scores", "pipeline", "data", "training", "cost", "tables", "answers", "reproduce"]
    assert [i for i in page.ids if i in order] == order


def test_every_link_inside_the_page_leads_somewhere(full):
    _, page = full
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_links_to_files_lead_from_the_run_folder(full):
    run, page = full
    files = [x for x in page.links if not x.startswith(("#", "data:"))]
    assert "02-filter/dropped.jsonl" in files
    assert all((run / link).is_file() for link in files)


def test_page_loads_nothing_and_runs_nothing(full):
    run, page = full
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed"})
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    assert "url(" not in (run / "report.html").read_text()
    assert "http" not in (run / "report.html").read_text()


def test_each_sample_has_a_deep_link(full):
    run, page = full
    drops = map(json.loads, (run / "02-filter" / "dropped.jsonl").read_text().splitlines())
    ids = {f"sample-{d['id']}" for d in drops}
    assert len(ids & set(page.ids)) >= 8


def test_same_run_gives_the_same_bytes(full):
    run, _ = full
    write_run_report(run, run / "again.html")
    assert (run / "again.html").read_bytes() == (run / "report.html").read_bytes()


def test_hostile_words_stay_words(tmp_path):
    run = make_run(tmp_path / "run", rows=200, hostile=True, note=HOSTILE)
    page = written(run)
    assert page.tags.isdisjoint({"script", "iframe"})
    assert not {name for name in page.attributes if name.startswith("on")}
    assert '<script>alert("x")</script>' in page.text
    assert "一个红色的圆形" in page.text


def test_one_seed_is_called_one_seed(tmp_path):
    page = written(make_run(tmp_path / "run", rows=20))
    assert "In one seed, refined is above raw" in page.text
    assert "beats" not in page.text
    assert "95 % interval over questions" in page.text


def test_memorised_answers_are_announced_first(tmp_path):
    page = written(make_run(tmp_path / "run", rows=20, note="asked in training: memorised"))
    assert page.text.index("Memorised: ") < page.text.index("equal budget")
    assert "asked in training: memorised" in page.text


def test_a_run_that_only_processes_data_has_its_page(tmp_path):
    page = written(make_run(tmp_path / "run", rows=50, evaluated=False, arms=("raw",)))
    assert "51 rows in" in page.text
    assert "nothing scored yet" in page.text
    assert "answers" not in page.ids


def test_missing_stage_folders_are_named_not_fatal(tmp_path):
    run = make_run(tmp_path / "run", rows=20)
    shutil.rmtree(run / "02-filter")
    (run / "03-captioner" / "metrics.jsonl").write_text("not json\n[1]\n")
    page = written(run)
    assert "1 step has not run yet: filter" in page.text


def test_a_folder_without_a_graph_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"graph\.json"):
        write_run_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_lost_and_broken_pictures_are_said_to_be_so(tmp_path):
    run = make_run(tmp_path / "run", rows=4, evaluated=False, arms=("raw",))
    stage = run / "02-filter"
    (stage / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    rows = [dj("a", "lost", stage / "none.png"), dj("b", "cut", stage / "cut.png"), {"id": "c"}]
    drop = {"uid": "1-1", "line": 1, "op": "image_shape_filter", "reason": "cannot read image"}
    write_jsonl(stage / "dropped.jsonl", [{**drop, "id": r["id"], "row": r} for r in rows])
    page = written(run)
    for words in ("file missing", "cannot be read", "no picture"):
        assert words in page.text


def test_truth_counts_right_rows_before_and_after_each_filter(tmp_path):
    run = make_run(tmp_path / "run", rows=300)
    read = read_run(run)
    view = view_truth(read, next(n for n in read.nodes if n.stage == "filter"))
    assert view.steps[0].rows == 300
    kept = [json.loads(x)["id"] for x in (run / "02-filter/data.jsonl").read_text().splitlines()]
    truth = [json.loads(x) for x in (run / "01-world/truth.jsonl").read_text().splitlines()]
    right = {t["id"] for t in truth if t["fault"] is None}
    assert (view.steps[-1].rows, view.steps[-1].right) == (len(kept), len(right & set(kept)))
    assert view.steps[-1].share > view.steps[0].share
    assert {f.fault: f.before for f in view.faults}["right"] == len(right)


def test_truth_is_silent_once_captions_were_rewritten(tmp_path):
    read = read_run(make_run(tmp_path / "run", rows=60))
    assert view_truth(read, next(n for n in read.nodes if n.stage == "refine")) is None


def test_truth_of_another_seeds_world_is_not_read(tmp_path):
    run = make_run(tmp_path / "run", rows=60)
    graph = json.loads((run / "graph.json").read_text())
    for node in graph["nodes"]:
        node["needs"] = []
    write_json(run / "graph.json", graph)
    read = read_run(run)
    assert view_truth(read, next(n for n in read.nodes if n.stage == "filter")) is None


def test_no_half_written_page_is_left_behind(tmp_path):
    run = make_run(tmp_path / "run", rows=5, evaluated=False)
    page = run / "sealed"
    page.mkdir()
    with pytest.raises(OSError):
        write_run_report(run, page)
    assert not [name for name in os.listdir(run) if name.startswith(".sealed")]
