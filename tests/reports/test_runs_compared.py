"""Whole runs beside each other: what differs is told, what is unfinished or unfair is said."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from tests.reports.made_run import HOSTILE, make_run, make_training, write_json, write_jsonl
from tests.reports.reading import read_page
from tests.reports.watched_run import make_watched
from vlforge.cli import main
from vlforge.reports.recipe_diff import recipe_differences
from vlforge.reports.runs_compared import compare_runs, write_runs_page


def told(*recipes):
    """Differing settings by name."""
    return {one.name: one.values for one in recipe_differences(recipes)}


def steps(*names):
    """A recipe with one list of operators."""
    return {"stages": {"f": {"process": [{name: None} for name in names]}}}


def test_only_what_differs_is_told_whatever_its_place_in_the_file():
    a = {"seeds": [0], "stages": {"x": {"lr": 1e-3, "kind": "train", "n": 1}}}
    b = {"stages": {"x": {"kind": "train", "lr": 2e-3, "n": 1.0}}, "seeds": [0]}
    assert told(a, b) == {"stages.x.lr": ("0.001", "0.002")}
    assert told(a, a) == {}


def test_a_setting_that_one_lacks_and_a_setting_of_none_are_not_the_same():
    assert told({"a": 1, "b": None}, {"a": 1}) == {"b": ("null", None)}
    assert told({"a": True}, {"a": False}) == {"a": ("true", "false")}


def test_operators_are_told_by_name_not_by_place():
    assert told(steps("one", "two"), steps("two", "one")) == {
        "stages.f.process (order)": ("one, two", "two, one")
    }
    found = told(steps("one", "two", "four"), steps("zero", "one", "two"))
    assert found == {"stages.f.process (steps not in all)": ("four", "zero")}
    a = {"process": [{"clean": {"max": 1}}, {"clean": {"max": 2}}]}
    b = {"process": [{"clean": {"max": 1}}, {"clean": {"max": 3}}]}
    assert told(a, b) == {"process[clean 2].max": ("2", "3")}


def test_benchmarks_go_by_their_names():
    a = {"benchmarks": [{"name": "pope", "file": "a"}, {"name": "pope", "file": "b", "label": "p"}]}
    b = {"benchmarks": [{"name": "pope", "file": "a"}, {"name": "pope", "file": "c", "label": "p"}]}
    assert told(a, b) == {"benchmarks[p].file": ("b", "c")}


def test_a_recipe_that_cannot_be_read_differs_in_nothing():
    assert told({}, {"a": 1}, {"a": 2}) == {"a": (None, "1", "2")}
    assert told({}, {"a": 1}) == {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: two of one arm, of which one saw less, and one of two arms."""
    folder = tmp_path_factory.mktemp("compared")
    a = make_run(folder / "a", arms=("refined",), rows=120)
    b = make_run(folder / "b", arms=("refined",), rows=90)
    both = make_run(folder / "both", arms=("raw", "refined"), seeds=(0, 1), rows=60)
    for stage in b.glob("*-instruct*"):
        make_training(stage, random.Random(3), 800, 2.5, 0.9)
    text = (b / "recipe.yaml").read_text()
    (b / "recipe.yaml").write_text(text.replace("name: quickstart", "name: quickstart\njobs: 7"))
    return a, b, both


def test_runs_that_saw_unequal_samples_are_said_to_and_compared_at_equal_ones(runs):
    found = compare_runs(runs[:2])
    assert found["unequal"] == ["instruct: 1,600 with A; 800 with B"]
    assert "not at equal budget" in found["headline"]
    (row,) = [row for row in found["equal"] if row.stage == "instruct"]
    assert (row.samples, row.what) == (800, "loss")
    losses = [float(value) for value in row.values]
    assert losses[0] == pytest.approx(0.4 + 2.1 * 2.718**-3, abs=0.1)
    assert losses[1] == pytest.approx(0.9, abs=0.1)


def test_equal_budgets_are_said_too(runs):
    found = compare_runs([runs[0], runs[2]])
    assert found["unequal"] == []
    assert "equal budget" in found["budget"]
    assert "not at equal budget" not in found["headline"]


def test_arms_are_series_of_their_own(runs):
    found = compare_runs(runs)
    assert [one.label for one in found["series"]] == ["A", "B", "C raw", "C refined"]
    (reading,) = [panel for panel in found["panels"] if panel.name == "textvqa"]
    assert [row.label for row in reading.rows] == ["A", "B", "C raw", "C refined"]
    assert [row.seeds for row in reading.rows] == [1, 1, 2, 2]
    assert reading.rows[0].against == ""
    assert "in one seed, which has no interval" in reading.rows[1].against


def test_settings_rows_and_costs_stand_side_by_side(runs):
    found = compare_runs(runs[:2])
    assert {one.name: one.values for one in found["settings"]} == {"jobs": (None, "7")}
    (flow,) = [one for one in found["flows"] if one.stage == "filter"]
    counts = [json.loads((run / "02-filter" / "funnel.json").read_text()) for run in runs[:2]]
    assert [f.rows_in for f in flow.flows] == [count["rows_in"] for count in counts]
    assert [f.kept for f in flow.flows] == [count["rows_out"] for count in counts]
    assert all(f.rows_in - f.dropped == f.kept for f in flow.flows)
    assert "image_deduplicator" in flow.steps
    assert flow.flows[0].steps["reading"] == ("−1", ("1 × broken line",))
    total = found["costs"][-1].cells
    nodes = json.loads((runs[0] / "graph.json").read_text())["nodes"]
    assert total[0][0] == pytest.approx(sum(node["seconds"] for node in nodes))


def test_all_arms_of_a_run_together_are_the_run(runs):
    found = compare_runs([runs[1], runs[2]])
    assert found["unequal"] == ["instruct: 800 with A; 1,600 with B"]
    (flow,) = [one for one in found["flows"] if one.stage == "filter"]
    assert [f.label for f in flow.flows] == ["A", "B"]


def test_work_that_runs_share_is_one_line(tmp_path, runs):
    twin = tmp_path / "twin"
    shutil.copytree(runs[0], twin)
    shutil.rmtree(twin / "02-filter")
    (twin / "02-filter").symlink_to(runs[0] / "02-filter")
    found = compare_runs([runs[0], twin])
    (flow,) = [one for one in found["flows"] if one.stage == "filter"]
    assert [f.label for f in flow.flows] == ["A = B"]


def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path, runs):
    half = tmp_path / "half"
    shutil.copytree(runs[0], half)
    graph = json.loads((half / "graph.json").read_text())
    for node in graph["nodes"]:
        if node["stage"] in ("instruct", "evaluate"):
            shutil.rmtree(half / node["folder"])
            node["key"] = f"k-{node['stage']}"
    write_json(half / "graph.json", graph)
    partial = tmp_path / ".store" / "k-instruct.partial"
    write_jsonl(
        partial / "metrics.jsonl",
        [{"step": k, "samples": 16 * k, "loss": 2.0 - k / 50} for k in range(1, 21)],
    )
    found = compare_runs([runs[0], half])
    left = next(words for letter, words in found["notes"] if letter == "B")
    assert "stages finished; left: instruct@refined.s0, evaluate@refined.s0" in left
    assert found["unequal"] == ["instruct: 1,600 with A; 320 with B"]
    (row,) = [row for row in found["equal"] if row.stage == "instruct"]
    assert (row.samples, float(row.values[1])) == (320, pytest.approx(1.62, abs=0.05))
    assert "instruct" in [curve.stage for curve in found["curves"]]
    page = tmp_path / "page.html"
    write_runs_page(found, page)
    assert "B has not finished." in read_page(page).text


def test_a_run_of_which_nothing_has_ended_is_its_recipe(tmp_path, runs):
    begun = tmp_path / "begun"
    begun.mkdir()
    text = (runs[0] / "recipe.yaml").read_text()
    (begun / "recipe.yaml").write_text(text + "\njobs: 5\n")
    found = compare_runs([runs[0], begun])
    assert found["notes"] == [("B", "no stage has finished")]
    assert [one.name for one in found["settings"]] == ["jobs"]
    write_runs_page(found, tmp_path / "page.html")
    assert main(["compare", str(runs[0]), str(begun)]) == 0


def test_scores_while_training_are_compared_at_the_samples_both_have_seen(tmp_path):
    a, b = make_watched(tmp_path / "a"), make_watched(tmp_path / "b")
    stage = next(b.glob("*-instruct"))
    for name in ("metrics.jsonl", "eval.jsonl"):
        lines = (stage / name).read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["samples"] <= 3300]
        (stage / name).write_text("\n".join(kept) + "\n")
    write_json(stage / "summary.json", {"samples": 3296})
    rows = {row.what: row for row in compare_runs([a, b])["equal"]}
    assert set(rows) == {"loss", "held-out loss", "textvqa"}
    assert rows["textvqa"].values[0] == rows["textvqa"].values[1]
    assert rows["textvqa"].samples == 3296


def test_other_protocols_are_not_called_comparable(tmp_path, runs):
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    path = next(other.glob("*-evaluate*")) / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["textvqa"]["protocol"] = "textvqa@official"
    write_json(path, metrics)
    panels = {panel.name: panel for panel in compare_runs([runs[0], other])["panels"]}
    assert panels["textvqa"].warning == ("B was scored by another protocol: not comparable with A")
    assert panels["mmbench_circular"].warning == ""


def test_the_page_escapes_what_comes_from_data_and_stays_small(tmp_path, runs):
    odd = tmp_path / "odd"
    shutil.copytree(runs[0], odd)
    name = HOSTILE.split("\ud83d")[0]
    recipe = {"name": name, "stages": {"x": {"kind": name}}}
    (odd / "recipe.yaml").write_text(json.dumps(recipe))
    page = tmp_path / "page.html"
    write_runs_page(compare_runs([runs[0], odd, runs[2]]), page)
    text = page.read_text()
    assert "<script" not in text
    assert len(text) < 2_000_000
    read = read_page(page)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


def test_the_command_tells_runs_scores_and_settings(runs, tmp_path, capsys):
    page = tmp_path / "c.html"
    assert main(["compare", *map(str, runs[:2]), "-o", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "jobs" in shown
    assert "instruct: 1,600 with A; 800 with B" in shown
    assert page.is_file()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["a"], "give two runs or more"),
        (["a", "a"], "is given twice"),
        (["a", "gone"], "gone: no such folder"),
        (["a", "a/02-filter"], "02-filter: holds no run"),
    ],
)
def test_a_wrong_folder_is_one_line(runs, given, says, capsys):
    assert main(["compare", *(str(runs[0].parent / name) for name in given)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
