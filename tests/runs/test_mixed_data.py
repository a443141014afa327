"""Recipes whose training data are mixes, shards and other formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.cli import main
from vlforge.data.convert import convert
from vlforge.data.formats import index
from vlforge.runs.check import check_recipe
from vlforge.runs.plan import plan_recipe
from vlforge.runs.prepare import Choice, prepare

RECIPE = """
name: mixed
stages:
  align:
    kind: train
    model: {{vision: parts/vision, language: parts/language}}
    template: vicuna
    train: [connector]
    batch: 4
    {more}
    data: {data}
"""


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Path:
    """A LLaVA file, tar shards of the same rows, and a model's parts; the working folder."""
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path)
    write_parts(tmp_path / "parts", data)
    shards = index.find("webdataset", max_count=5)
    convert(data, tmp_path / "shards", index.detect(data), shards)
    return tmp_path


def recipe(data: str, more: str = "samples: 8") -> Path:
    path = Path("recipe.yaml")
    path.write_text(RECIPE.format(data=data, more=more))
    return path


def key(path: Path) -> str:
    return prepare(path, Choice(run_dir=Path("runs/r"))).keys["align.s0"]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("[data.json#5, shards#2e]", 29),
        pytest.param(
            "[{path: data.json, rows: 5}, {path: shards, rows: 3, format: webdataset}]",
            8,
            marks=pytest.mark.slow,
        ),
        pytest.param('"shards/{00000..00002}.tar#6"', 6, marks=pytest.mark.slow),
    ],
)
def test_a_stage_takes_mixes_of_any_format(parts, data, rows, capsys):
    path = recipe(data, "mixing: {draw: per_sample}")
    assert not [f for f in check_recipe(path, Choice()) if f.level in ("error", "warning")]
    assert main(["train", str(path), "--out", "runs/r"]) == 0
    (summary,) = Path("runs/r").glob("*/summary.json")
    assert json.loads(summary.read_text())["samples"] == rows


def test_check_counts_labels_and_pictures_in_the_data(parts):
    found = {(f.level, f.text) for f in check_recipe(recipe("shards"), Choice())}
    assert any("12 rows, 12 images" in text for level, text in found if level == "ok")
    assert any("the longest has" in text for level, text in found if level == "ok")


def test_check_names_what_is_wrong_in_a_dataset_of_another_format(parts):
    lines = [json.dumps({"query": "<image>Which?", "response": "a", "images": ["gone.png"]})]
    Path("rows.jsonl").write_text("\n".join([*lines, '{"query": 3, "response": "b"}']) + "\n")
    texts = [f.text for f in check_recipe(recipe("rows.jsonl"), Choice()) if f.level == "warning"]
    assert any("gone.png" in text for text in texts)
    assert any(text.startswith("line 2: ") for text in texts)


@pytest.mark.parametrize("data", ["shards", "[shards#3]", '"shards/{00000..00002}.tar"'])
def test_a_stage_is_made_anew_when_a_shard_has_changed(parts, data):
    path = recipe(data)
    before = key(path)
    assert key(path) == before
    other = write_data(parts / "other", rows=7)
    shards = index.find("webdataset", max_count=5)
    convert(other, parts / "new", index.detect(other), shards)
    (parts / "new/00001.tar").replace(parts / "shards/00001.tar")
    assert key(path) != before


def test_a_plan_counts_the_rows_that_the_data_name(parts):
    plan = plan_recipe(recipe("[data.json#500, shards#2e]", ""), Choice(run_dir=Path("runs/r")))
    assert "2,500 samples" in plan.rows[0].note
    plan = plan_recipe(recipe("[data.json, data.json]", "epochs: 2"), Choice())
    assert "48 samples" in plan.rows[0].note


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ("[data.json#1w, shards]", "samples: 8", "shards has no weight while others do"),
        ("[{path: data.json, rows: 2, weight: 1}]", "samples: 8", "weight and rows are given"),
        ("data.json", "mixing: {draw: per_row}", "per_row"),
        ("data.json", "temperature: 0\n    samples: 3", "temperature is 0"),
        ("data.json#0", "samples: 8", "asks for nothing"),
        ("data.json", "", "samples or epochs"),
        ("[{path: data.json, format: llama}]", "samples: 8", "did you mean 'llava'"),
    ],
)
def test_a_mix_that_contradicts_itself_is_one_line_and_nothing_begins(
    parts, data, more, said, capsys
):
    path = recipe(data, more)
    assert main(["train", str(path), "--out", "runs/r"]) == 2
    assert said in one_error(capsys)
    assert not Path("runs/r").exists()
    assert main(["check", str(path)]) != 0
    shown = capsys.readouterr()
    assert said in shown.err + shown.out


def test_data_that_are_not_there_are_one_line(parts, capsys):
    assert main(["train", str(recipe("[gone.json#5]")), "--out", "runs/r"]) == 2
    shown = capsys.readouterr()
    assert [line for line in (shown.err + shown.out).splitlines() if "gone.json" in line]
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("stages.align.template=vikuna", "stages.align: no conversation template is called 'vik"),
        (
            "stages.align.optimiser.warmup_ratio=2",
            "stages.align: warmup_steps 0 and warmup_ratio 2",
        ),
        ("stages.align.keep_last=0", "stages.align: keep_last is 0; give at least 1"),
        ("stages.score.benchmarks.0.protocol=lava", "stages.score: pope has no protocol 'lava'"),
    ],
)
def test_what_a_later_stage_cannot_do_is_told_before_the_first_begins(parts, changed, said, capsys):
    score = "  score:\n    kind: evaluate\n    model: $align\n    benchmarks: [{name: pope, "
    score += "questions: data.json, annotation: data.json}]\n"
    path = recipe("data.json")
    path.write_text(path.read_text() + score)
    assert main(["run", str(path), changed, "--out", "runs/r"]) == 2
    assert said in one_error(capsys)
    assert not Path("runs/r").exists()


def one_error(capsys) -> str:
    """The only line that was said on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line
