"""`check` reads the data and tells of every fault before anything is spent."""

import json

from PIL import Image

from vlforge.runs.check import check_recipe
from vlforge.runs.plan import plan_recipe
from vlforge.runs.prepare import Choice


def make(folder, *, rows):
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "seed.jsonl").write_text("\n".join(rows) + "\n")
    path = folder / "recipe.yaml"
    path.write_text(
        "stages:\n"
        f"  clean: {{kind: process, dataset_path: {folder}/seed.jsonl, process: []}}\n"
        "  words: {kind: tokenizer, data: [$clean/data.jsonl]}\n"
    )
    return path


def row(**fields):
    return json.dumps({"id": "x", "text": "<__dj__image> a cat", "images": ["a.png"], **fields})


def told(path, tmp_path):
    findings = check_recipe(path, Choice(run_dir=tmp_path / "runs" / "r"))
    return {(f.level, f.where): f.text for f in findings}


def test_a_sound_dataset_is_counted(tmp_path):
    found = told(make(tmp_path, rows=[row(), row()]), tmp_path)
    assert "2 rows, 1 images" in found["ok", "clean"]
    assert "once these have run: clean" in found["note", "words"]


def test_a_missing_picture_and_a_broken_line_are_named(tmp_path):
    path = make(tmp_path, rows=[row(), row(images=["gone.png"]), "{broken"])
    texts = [
        f.text
        for f in check_recipe(path, Choice(run_dir=tmp_path / "runs" / "r"))
        if f.level == "warning"
    ]
    assert any("gone.png" in text for text in texts)
    assert any("line 3" in text for text in texts)


def test_a_missing_dataset_is_an_error(tmp_path):
    path = make(tmp_path, rows=[row()])
    (tmp_path / "seed.jsonl").unlink()
    assert "no such file" in told(path, tmp_path)["error", "clean"]


def test_a_plan_says_device_minutes_disk_and_memory_of_every_stage(tmp_path):
    plan = plan_recipe(make(tmp_path, rows=[row()]), Choice(run_dir=tmp_path / "runs" / "r"))
    assert [row.node for row in plan.rows] == ["clean", "words"]
    for line in plan.rows:
        assert line.device in ("cpu", "cuda")
        assert line.minutes > 0
        assert line.disk_gib > 0
        assert line.memory_gib > 0


def test_files_that_later_stages_need_are_missed_before_hours_are_spent(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """stages:
  labels: {kind: tool, tool: convert_labels, source: train.txt}
  whole: {kind: merge, adapter: tuned}
  said: {kind: predict, model: $whole, input: test.txt}
  score:
    kind: evaluate
    model: $whole
    benchmarks: [{name: captions, annotation: $labels/val.json, images: val2017}]
"""
    )
    findings = check_recipe(path, Choice(run_dir=tmp_path / "runs" / "r"))
    missed = {f.text.partition(":")[0]: f.where for f in findings if "no such file" in f.text}
    assert missed == {
        "train.txt": "labels", "tuned": "whole", "test.txt": "said.s0", "val2017": "score",
    }  # fmt: skip
