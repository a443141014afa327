"""`from vlforge import Recipe, train`."""

import subprocess
import sys
from pathlib import Path

import pytest

import vlforge
from tests.structure.test_lazy_imports import MODELS, loaded_after
from tests.tiny_model import write_data, write_parts
from vlforge import Recipe, train
from vlforge.types import RecipeError

STAGES = {"align": {"kind": "tests.runs.step_kind", "text": "a"}}


def test_importing_it_takes_no_model_library():
    assert not loaded_after("from vlforge import Recipe, train", MODELS)
    assert not loaded_after("import vlforge", {"typing", "vlforge.api"})


def test_other_names_are_not_there():
    assert {"Recipe", "train"} <= set(dir(vlforge))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = vlforge.trian


def test_a_recipe_made_of_stages_is_one_read_from_a_file(tmp_path):
    stages = {"align": {**STAGES["align"], "text": Path("here")}}
    made = Recipe(stages, "small", seeds=(1, 2))
    assert made.name == "small"
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nseeds: [1, 2]\nstages: {align: {kind: tests.runs.step_kind, text: here}}\n"
    )
    assert Recipe.load(file).settings == made.settings
    assert [row.node for row in made.plan().rows] == ["align"]
    assert [found.level for found in made.check(run_dir=tmp_path / "runs")] == ["ok"]


def test_settings_are_changed_by_values_or_as_they_are_typed(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("stages: {align: {kind: tests.runs.step_kind, text: a}}\n")
    by_value = Recipe.load(file, {"stages.align.steps": 7, "stages.align.text": "on: b"})
    typed = Recipe.load(file, ["stages.align.steps=7", "stages.align.text='on: b'"])
    assert by_value.settings == typed.settings
    assert by_value.settings["stages"]["align"]["steps"] == 7


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Recipe({"align": {"kind": "trian"}}), "unknown stage kind 'trian'"),
        (lambda: Recipe({"a": {**STAGES["align"], "stepz": 1}}), r"stages\.a\.stepz: unknown key"),
        (lambda: Recipe(STAGES, jbos=2), "jbos: unknown key 'jbos'"),
        (lambda: Recipe.load("nowhere.yaml"), "nowhere.yaml: no such recipe"),
        (lambda: Recipe(STAGES).run(arm="x"), "'arm' is no choice of a run"),
        (lambda: Recipe(STAGES).plan(size="tiny"), "'size' is no choice of a run"),
        (lambda: train("model", "data.json", bacth=4), r"stages\.train\.bacth: unknown key"),
    ],
)
def test_mistakes_are_named_before_anything_begins(make, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=match):
        make()
    assert not list(tmp_path.iterdir())


def test_a_run_gives_its_stages_by_name(tmp_path):
    run = Recipe(STAGES).run(tmp_path / "runs" / "small", quiet=True)
    stage = run["align"]
    assert (stage.folder / "letters.txt").read_text() == "a"
    assert (stage.summary, stage.metrics, run.report) == ({}, (), None)
    with pytest.raises(KeyError, match="no such nodes; name one of align"):
        run["instruct"]


SCRIPT = """
import sys
from vlforge import train
stage = train(
    {"vision": "vision", "language": "language"}, "data.json",
    template="vicuna", steps=3, batch=4, lr=1e-2, device="cpu", quiet=True,
)
print(stage.summary["steps"], len(stage.metrics), (stage.folder / "config.json").is_file())
"""


@pytest.mark.slow
def test_a_script_without_a_guard_trains(tmp_path):
    write_parts(tmp_path, write_data(tmp_path))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    environment = {"PYTHONPATH": str(Path(vlforge.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.stdout == "3 3 True\n", done.stderr
