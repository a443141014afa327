"""`vlforge clean`: what goes, what stays, and that the run goes on afterwards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from vlforge.cli.start import main
from vlforge.inference.load import find_kind
from vlforge.runs.cleaning import find_waste
from vlforge.runs.prepare import Choice
from vlforge.runs.run import run_recipe
from vlforge.runs.store import read_done
from vlforge.types import ModelError


def made_stage(runs: Path, key: str, kind: str, files: dict[str, int]) -> None:
    """A finished stage in the store, its files of so many bytes."""
    folder = runs / ".store" / key
    folder.mkdir(parents=True)
    for name, size in files.items():
        (folder / name).write_bytes(b"w" * size)
    outputs = dict.fromkeys(files, "sum")
    (folder / "done.json").write_text(json.dumps({"kind": kind, "outputs": outputs}))


def made_run(runs: Path, name: str, nodes: list[tuple[str, str, str, list[str]]]) -> Path:
    """A run of nodes (name, kind, key, needs); those with a stage in the store are linked."""
    run = runs / name
    run.mkdir(parents=True)
    rows = []
    for number, (node, kind, key, needs) in enumerate(nodes, 1):
        folder = f"{number:02d}-{node}"
        if (runs / ".store" / key).is_dir():
            (run / folder).symlink_to(f"../.store/{key}", target_is_directory=True)
        rows.append({"node": node, "stage": node, "kind": kind, "key": key, "folder": folder,
                     "needs": needs})  # fmt: skip
    (run / "graph.json").write_text(json.dumps({"nodes": rows}))
    return run


NODES = [
    ("align", "train", "aaaa", []),
    ("instruct", "train", "bbbb", ["align"]),
    ("score", "evaluate", "cccc", ["instruct"]),
    ("report", "report", "dddd", ["align", "instruct", "score"]),
]


@pytest.fixture
def runs(tmp_path):
    """A store with two models, one made from the other, and a run of both."""
    runs = tmp_path / "runs"
    made_stage(runs, "aaaa", "train", {"model.safetensors": 5000, "config.json": 2,
                                       "mm_projector.bin": 9, "metrics.jsonl": 3})  # fmt: skip
    made_stage(runs, "bbbb", "train", {"model.safetensors": 7000, "config.json": 2})
    made_stage(runs, "cccc", "evaluate", {"metrics.json": 2})
    made_run(runs, "first", NODES)
    return runs


def begun(runs: Path, key: str, node: str, steps: tuple[int, ...]) -> Path:
    """An unfinished stage of the first run with checkpoints."""
    partial = runs / ".store" / f"{key}.partial"
    for step in steps:
        (partial / "checkpoint" / f"step-{step:08d}").mkdir(parents=True)
        (partial / "checkpoint" / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"1" * 50)
    (runs / ".store" / ".begun").mkdir(exist_ok=True)
    note = {"node": node, "run_dir": str(runs / "first")}
    (runs / ".store" / ".begun" / f"{key}.json").write_text(json.dumps(note))
    return partial


def test_only_weights_that_another_model_was_made_from_go(runs, capsys):
    assert main(["clean", str(runs / "first"), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "align" in said
    assert "instruct went on from it and is done" in said
    left = {path.name for path in (runs / ".store/aaaa").iterdir()}
    assert left == {"config.json", "mm_projector.bin", "metrics.jsonl", "done.json"}
    assert (runs / ".store/bbbb/model.safetensors").stat().st_size == 7000
    assert read_done(runs / ".store/aaaa")["freed"] == {"model.safetensors": "sum"}
    assert main(["clean", str(runs / "first"), "--yes"]) == 0
    assert "nothing can be freed" in capsys.readouterr().out
    with pytest.raises(ModelError, match="vlforge clean has freed its weights"):
        find_kind(runs / "first" / "01-align")


def test_a_look_changes_nothing_and_nobody_to_ask_is_an_error(runs, capsys):
    before = sorted(path for path in runs.rglob("*") if path.is_file())
    assert main(["clean", str(runs / "first"), "--dry-run"]) == 0
    assert "would be freed; nothing was removed" in capsys.readouterr().out
    assert main(["clean", str(runs / "first")]) == 2
    assert "--yes does it" in capsys.readouterr().err
    assert sorted(path for path in runs.rglob("*") if path.is_file()) == before
    assert main(["clean", str(runs)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_weights_that_are_still_needed_stay(runs):
    (runs / "first/02-instruct").unlink()
    assert not find_waste(runs / "first").waste
    (runs / "first/02-instruct").symlink_to("../.store/bbbb")
    assert [one.node for one in find_waste(runs / "first").waste] == ["align"]
    made_run(runs, "second", NODES[:1])
    found = find_waste(runs / "first")
    assert (found.waste, found.kept) == ([], [("align", "second uses it too")])
    shutil.rmtree(runs / "second")
    made_run(runs, "third", [])
    (runs / "third/recipe.yaml").write_text("model: runs/first/align\n")
    assert find_waste(runs / "first").kept == [("align", "third uses it too")]


def test_the_base_of_an_adapter_that_was_not_merged_stays(runs):
    told = {"base": {"path": str(runs / ".store/aaaa")}}
    (runs / ".store/bbbb/adapted.json").write_text(json.dumps(told))
    assert find_waste(runs / "first").kept == [("align", "instruct is an adapter of it")]
    made_stage(runs, "eeee", "merge", {"model.safetensors": 1})
    shutil.rmtree(runs / "first")
    made_run(runs, "first", [*NODES, ("whole", "merge", "eeee", ["instruct"])])
    assert [one.node for one in find_waste(runs / "first").waste] == ["align"]


def test_a_file_with_another_name_too_frees_nothing(runs):
    os.link(runs / ".store/aaaa/model.safetensors", runs / "kept.safetensors")
    assert find_waste(runs / "first").bytes == 0


def test_checkpoints_before_the_last_and_of_other_settings_go(runs, capsys):
    shutil.rmtree(runs / ".store/bbbb")
    now = begun(runs, "bbbb", "instruct", (100, 200, 300))
    then = begun(runs, "9999", "instruct", (100,))
    other = begun(runs, "8888", "instruct", (100,))
    note = {"node": "instruct", "run_dir": str(runs / "another")}
    (runs / ".store/.begun/8888.json").write_text(json.dumps(note))
    (runs / "another").mkdir()
    assert find_waste(runs / "first").bytes == 150
    assert main(["clean", str(runs / "first"), "--yes"]) == 0
    assert "begun with other settings" in capsys.readouterr().out
    assert [path.name for path in (now / "checkpoint").iterdir()] == ["step-00000300"]
    assert not then.exists()
    assert other.is_dir()


RECIPE = """\
name: steps
seeds: [0]
stages:
  align:
    kind: train
    model: {{vision: {made}/vision, language: {made}/language}}
    data: {made}/data.json
    samples: 4
    batch: 4
    template: vicuna
  instruct:
    kind: train
    model: $align
    data: {made}/data.json
    samples: 4
    batch: 4
    template: vicuna
    optimiser: {{lr: 0.01}}
  report: {{kind: report}}
"""


@pytest.mark.slow
def test_after_cleaning_the_same_run_reuses_and_another_makes_again(tmp_path):
    from tests.tiny_model import write_data, write_parts

    made = tmp_path / "made"
    write_parts(made, write_data(made))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(made=made))
    choice = Choice(run_dir=tmp_path / "runs/steps")
    run_recipe(recipe, choice, quiet=True)
    (weights,) = tmp_path.glob("runs/steps/01-align*/model.safetensors")
    before = weights.read_bytes()
    report = (tmp_path / "runs/steps/report.html").stat().st_size
    assert main(["clean", str(tmp_path / "runs/steps"), "--yes"]) == 0
    assert not weights.exists()
    again = run_recipe(recipe, choice, quiet=True)
    assert (again.nodes_run, weights.exists()) == (0, False)
    assert abs((tmp_path / "runs/steps/report.html").stat().st_size - report) < 0.05 * report
    changed = Choice(run_dir=choice.run_dir, overrides=("stages.instruct.optimiser.lr=0.02",))
    third = run_recipe(recipe, changed, quiet=True)
    assert third.nodes_reused == 0
    assert weights.read_bytes() == before
