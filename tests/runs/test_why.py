"""One row's story: each operator's statistic, value and bound, what changed it, why it left."""

from __future__ import annotations

import json
import re

import pytest

from tests.engine.made import write_picture
from vlforge.cli import main
from vlforge.engine.config import ProcessConfig
from vlforge.engine.local import run_process
from vlforge.inference.scripted import ScriptedCaptioner, ScriptedModels, ScriptedScorer
from vlforge.reports.data_report import write_data_report
from vlforge.runs.why import tell

RECIPE = """\
dataset_path: rows.jsonl
export_path: kept.jsonl
np: 1
trace_num: 1
process:
  - clean_links_mapper:
  - text_length_filter: {min_len: 8, max_len: 100}
  - word_repetition_filter: {rep_len: 2, max_ratio: 0.4}
  - image_shape_filter: {min_width: 40}
  - document_deduplicator:
"""
ROWS = {
    "first": "see www.example.org and a red cat",
    "second": "look www.example.org at two grey dogs",
    "short": "www.example.org no",
    "again": "cat cat cat cat cat cat",
    "small": "this has a small picture",
    "twin": "see www.example.org and a red cat",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the recipe ran."""
    monkeypatch.chdir(tmp_path)
    pictures = {k: [str(write_picture(tmp_path / f"{k}.png", (k, 60)))] for k in (30, 64)}
    rows = [
        {"id": name, "text": text, "images": pictures[30 if name == "small" else 64]}
        for name, text in ROWS.items()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
    (tmp_path / "clean.yaml").write_text(RECIPE)
    assert main(["process", "clean.yaml"]) == 0
    return tmp_path / "kept.process"


def story(folder, row):
    return "\n".join(re.sub(" +", " ", line).strip() for line in tell(folder, row))


def test_of_a_kept_row_every_operator_tells_value_and_bound(folder):
    lines = story(folder, "first").splitlines()
    assert lines[0].startswith("kept.process: row first (")
    assert lines[1] == "~ clean_links_mapper changed"
    assert lines[2:4] == ["before: see www.example.org and a red cat", "after: see and a red cat"]
    assert lines[4:] == [
        "text_length_filter text_len 18 (keeps 8 to 100)",
        "word_repetition_filter word_rep_ratio 0 (keeps 0 to 0.4)",
        "image_shape_filter image_width 64 (keeps ≥ 40), image_height 60 (keeps ≥ 1)",
        "document_deduplicator repeats no earlier row",
        lines[0].replace("row first ", "kept ").split(",")[0],
    ]


def test_of_a_dropped_row_the_operators_before_tell_theirs_too(folder):
    lines = story(folder, "again").splitlines()
    assert "text_length_filter text_len 23 (keeps 8 to 100)" in lines
    assert lines[-3:] == [
        "✕ word_repetition_filter word_rep_ratio 1 (keeps 0 to 0.4): word_rep_ratio too high",
        "kept.process: dropped by word_repetition_filter: word_rep_ratio too high",
        "word_rep_ratio = 1.0, bound <= 0.4",
    ]
    assert "image_shape_filter" not in "\n".join(lines)


def test_a_change_is_told_of_rows_beyond_the_traced_ones(folder):
    assert len((folder / "changed.jsonl").read_text().splitlines()) == 1
    said = story(folder, "second")
    assert "after: look at two grey dogs" in said
    assert "dropped by text_length_filter: text_len too low" in story(folder, "short")


def test_a_repeat_names_the_row_that_was_first(folder):
    uid = json.loads((folder / "stats.jsonl").read_text().splitlines()[0])["uid"]
    assert f"✕ document_deduplicator repeats an earlier row: {uid}" in story(folder, "twin")


def test_a_line_that_is_no_row_has_its_reason(folder):
    record = json.loads((folder / "dropped.jsonl").read_text().splitlines()[-1])
    assert record["op"] == "read"
    assert "dropped by read: broken line" in story(folder, record["uid"])


def test_what_has_changed_since_the_run_is_said(folder):
    write_picture(folder.parent / "64.png", (20, 20))
    said = story(folder, "first")
    assert "have changed since" in said
    assert said.splitlines()[-1].startswith("kept.process: kept")
    write_picture(folder.parent / "30.png", (90, 90))
    assert "have changed since" in story(folder, "small")
    assert "have changed since" not in story(folder, "short")


def test_a_model_is_not_asked_again(folder):
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("process:", "process:\n- image_text_similarity_filter: {}"))
    said = story(folder, "again")
    assert "? image_text_similarity_filter asks a model: not run again" in said
    assert "have changed since" not in said
    assert "dropped by word_repetition_filter: word_rep_ratio too high" in said


@pytest.mark.parametrize("lost", ["rows.jsonl", "kept.process/recipe.yaml"])
def test_without_data_or_recipe_the_records_speak(folder, lost):
    (folder.parent / lost).unlink()
    assert "word_rep_ratio = 1.0, bound <= 0.4" in story(folder, "again")
    kept = story(folder, "first")
    assert "text_len = 18" in kept
    assert "after: see and a red cat" in kept


def test_other_data_of_the_same_name_is_not_told_of(folder):
    data = folder.parent / "rows.jsonl"
    data.write_text(data.read_text().replace("a red cat", "a blue car"))
    assert "blue" not in story(folder, "first")


def test_rows_made_of_one_row_are_told_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "one two three four five six seven eight nine"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "a", "text": text}) + "\n")
    (tmp_path / "cut.yaml").write_text(
        "dataset_path: rows.jsonl\nexport_path: kept.jsonl\nprocess:\n"
        "  - text_chunk_mapper: {max_len: 30, split_pattern: null}\n"
        "  - text_length_filter: {min_len: 25}\n"
    )
    assert main(["process", "cut.yaml"]) == 0
    said = story(tmp_path / "kept.process", "a")
    assert "after: one two three four five six se\ntext_length_filter text_len 30" in said
    assert "after: ven eight nine\n✕ text_length_filter text_len 14" in said


def test_each_process_stage_of_a_run_tells_its_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "a", "text": "a red   circle"}\n{"id": "b", "text": "no"}\n'
    )
    (tmp_path / "ours.yaml").write_text(
        "name: mine\n"
        "stages:\n"
        "  first:\n"
        "    kind: process\n"
        "    dataset_path: rows.jsonl\n"
        "    process: [{text_length_filter: {min_len: 5}}]\n"
        "  second:\n"
        "    kind: process\n"
        "    dataset_path: $first/data.jsonl\n"
        "    process: [{special_characters_filter: {max_ratio: 0.1}}]\n"
    )
    assert main(["run", "ours.yaml"]) == 0
    said = story(tmp_path / "runs" / "mine", "a")
    assert "text_length_filter text_len 14 (keeps ≥ 5)" in said
    assert "✕ special_characters_filter special_char_ratio 0.285714 (keeps 0 to 0.1)" in said
    assert "02-second: dropped by special_characters_filter" in said


WRITES = {"hf_img2seq": "blip", "scorer": "clip", "keep_original": False}


def models(picture, caption):
    """A captioner that says one thing, and a scorer."""
    captioner = ScriptedCaptioner.of_files({picture: [caption]})
    return ScriptedModels({"blip": captioner}, {"clip": ScriptedScorer({})})


def test_what_a_model_wrote_tells_where_it_comes_from(tmp_path):
    picture = str(write_picture(tmp_path / "a.png", (64, 64)))
    data = tmp_path / "rows.jsonl"
    rows = [
        {"id": "a", "text": "<__dj__image> old   words <|__dj__eoc|>", "images": [picture]},
        {"id": "b", "text": "<__dj__image> two <|__dj__eoc|>", "images": [picture]},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "dataset_path": str(data),
        "export_path": "",
        "process": [
            {"whitespace_normalization_mapper": {}},
            {"caption_choice_mapper": WRITES},
            {"text_length_filter": {"min_len": 5}},
            {"words_num_filter": {"min_num": 1, "max_num": 9}},
        ],
    }
    out = tmp_path / "stage"
    config = ProcessConfig(str(data), process=tuple(recipe["process"]))
    run_process(config, out, models=models(picture, "a grey square"), workers=1, seed=42)
    (out / "recipe.yaml").write_text(json.dumps(recipe))
    said = [line.strip() for line in tell(out, "a")]
    uid = json.loads((out / "stats.jsonl").read_text().splitlines()[0])["uid"]
    source = uid.rpartition("/")[0]
    told = next(line for line in said if line.startswith("~ caption_choice_mapper"))
    assert "written by blip" in told
    assert "seed 42" in told
    assert told.endswith(f"from row {source}")
    at = said.index(told)
    assert said[at + 1] == "before: <__dj__image> old words <|__dj__eoc|>"
    assert said[at + 2] == "after:  <__dj__image> a grey square <|__dj__eoc|>"
    assert said[at + 3].startswith("text_length_filter  ")
    assert "text_len 41 (keeps ≥ 5)" in said[at + 3]
    assert said[-1] == f"stage: kept ({uid})"
    write_data_report(out, out / "report.html")
    page = re.sub("<[^>]+>", "", (out / "report.html").read_text()).replace("\u200b", "")
    assert "caption_choice_mapper, written by blip" in page


def test_of_a_made_row_that_was_dropped_the_filter_behind_tells_why(tmp_path):
    picture = str(write_picture(tmp_path / "a.png", (64, 64)))
    data = tmp_path / "rows.jsonl"
    rows = [{"id": name, "text": "<__dj__image> old", "images": [picture]} for name in ("a", "b")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = (
        {"caption_choice_mapper": WRITES},
        {"text_length_filter": {"max_len": 20}},
    )
    out = tmp_path / "stage"
    config = ProcessConfig(str(data), process=process)
    run_process(config, out, models=models(picture, "a grey square on white ground"), workers=1)
    (out / "recipe.yaml").write_text(json.dumps({"dataset_path": str(data), "process": process}))
    said = "\n".join(line.strip() for line in tell(out, "a"))
    assert "~ caption_choice_mapper  written by blip" in said
    assert "✕ text_length_filter     text_len " in said
    assert "(keeps 10 to 20): text_len too high" in said


def test_a_mark_is_told_and_judged_as_the_run_judged_it(tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"id": str(at), "text": f"row {at}", "s": at} for at in range(10)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = (
        {"topk_specified_field_selector": {"field_key": "s", "topk": 4, "mark": "top"}},
        {"specified_field_filter": {"field_key": "__dj__stats__.top", "target_value": [True]}},
        {"text_length_filter": {"min_len": 1}},
    )
    out = tmp_path / "stage"
    run_process(ProcessConfig(str(data), process=process), out, workers=1)
    (out / "recipe.yaml").write_text(json.dumps({"dataset_path": str(data), "process": process}))
    for number, words in (("9", "top True"), ("2", "top False")):
        said = "\n".join(tell(out, number))
        assert f"topk_specified_field_selector  {words}" in said
        assert ("✕ specified_field_filter" in said) == (number == "2")
