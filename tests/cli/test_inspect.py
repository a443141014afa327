"""`vlforge inspect`: one row as the model learns it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.cli import inspect as verb
from vlforge.cli import main

RECIPE = """\
name: small
stages:
  align:
    kind: train
    model: {vision: vision, language: language}
    data: data.json
    template: plain
    samples: 12
    batch: 4
  instruct:
    kind: train
    model: $align
    data: [data.json, more.json]
    template: vicuna
    samples: 12
    batch: 4
    max_length: 24
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder, rows=4)
    write_parts(folder, data)
    rows = json.loads(data.read_text())
    rows[1]["conversations"][0]["value"] += " What colour is it?" * 3
    rows[2] = {"id": "2"}
    data.write_text(json.dumps(rows))
    last = rows[3] | {"id": "the_last"}
    (folder / "more.json").write_text(json.dumps([last]))
    (folder / "small.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def shown(capsys, *words: str) -> str:
    assert main(["inspect", *words]) == 0
    return capsys.readouterr().out


def said(capsys, *words: str) -> str:
    assert main(["inspect", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_a_row_is_shown_with_ids_pieces_labels_and_pictures(here, capsys):
    out = shown(capsys, "small.yaml", "--stage", "align", "--row", "0")
    assert "Row 0 of data.json (id 0), stage align.s0" in out
    assert "14 tokens, 8 of them pictures; 5 are learned" in out
    assert re.search(r"Picture 1: .*images/0\.png, 16 x 16, tokens 1 to 8", out)
    assert "<image>«It is red.\n»" in out
    assert re.search(r"^ +1-8 +image +<image> x 8$", out, re.M)
    assert re.search(r"^ +11 +\d+ +learned +▁red$", out, re.M)
    assert "\033" not in out


def test_the_last_train_stage_is_meant_and_may_wait_for_others(here, capsys):
    assert main(["inspect", "small.yaml", "--row", "0"]) == 0
    captured = capsys.readouterr()
    assert "stage instruct.s0" in captured.out
    assert "align.s0 has not run: shown with the model it begins with" in captured.err


def test_what_is_cut_away_is_shown(here, capsys):
    out = shown(capsys, "small.yaml", "--row", "1")
    assert re.search(r"Cut: the last \d+ of them, 24 are left", out)
    assert "Teaches nothing: all labels lost" in out
    assert "Not trained on: the stage leaves it out: nothing supervised" in out
    assert re.search(r"^ +\d+ +\d+ +cut +▁red$|cut +▁green$", out, re.M)


@pytest.mark.parametrize(
    ("setting", "fate"),
    [
        ("on_no_labels=refuse", "the stage refuses to begin over it: nothing supervised"),
        ("on_too_long=drop", "the stage leaves it out: longer than max_length"),
        ("max_length=5", "the stage leaves it out: pictures do not fit"),
    ],
)
def test_what_the_stage_does_with_a_row_is_said(here, capsys, setting, fate):
    out = shown(capsys, "small.yaml", f"stages.instruct.{setting}", "--row", "1")
    assert f"Not trained on: {fate}" in out


@pytest.mark.parametrize("words", [("--row", "4"), ("--row", "the_last"), ("--id", "the_last")])
def test_rows_are_found_by_number_through_all_datasets_and_by_id(here, capsys, words):
    assert "Row 4 of more.json (id the_last)" in shown(capsys, "small.yaml", *words)


def test_an_id_that_looks_like_a_number_has_an_option(here, capsys):
    assert "Row 3 of data.json" in shown(capsys, "small.yaml", "--id", "3")


def test_settings_can_be_changed_on_the_command_line(here, capsys):
    setting = "stages.instruct.template=llava_v0"
    assert "Template llava_v0" in shown(capsys, "small.yaml", setting, "--row", "0")


def test_json_has_everything(here, capsys):
    row = json.loads(shown(capsys, "small.yaml", "--stage", "align", "--row", "0", "--json"))
    assert (row["id"], row["template"], row["length"], row["whole"]) == ("0", "plain", 14, 14)
    assert row["text"] == "<image>It is red.\n"
    assert row["pictures"][0]["span"] == [1, 9]
    assert row["tokens"][1] == {
        "at": 1, "width": 8, "id": -200, "piece": "<image>", "state": "image"
    }  # fmt: skip


def test_a_terminal_gets_colours(here, capsys, monkeypatch):
    monkeypatch.setattr(verb, "is_terminal", lambda stream: True)
    out = shown(capsys, "small.yaml", "--stage", "align", "--row", "0")
    learned, image = verb.COLOURS["learned"], verb.COLOURS["image"]
    assert f"{image}<image>\033[0m{learned}It is red." in out
    assert "learned in green" in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in shown(capsys, "small.yaml", "--stage", "align", "--row", "0")


def test_compat_says_what_the_reference_would_make_of_it(here, capsys):
    out = shown(capsys, "small.yaml", "--row", "0", "--compat", "xtuner")
    assert out.rstrip().endswith("compat xtuner: the same ids and labels")
    words = ("small.yaml", "stages.instruct.template=v1", "--row", "0", "--compat", "llava")
    out = shown(capsys, *words, "stages.instruct.max_length=99")
    assert "compat llava: other labels" in out
    assert "it masks the whole row: tokenization mismatch" in out


def test_a_dataset_is_shown_for_a_model(here, capsys):
    from tests.tiny_model import folder_of
    from vlforge.models.folder import write_folder

    write_folder(folder_of(here / "vision", here / "language"), here / "model")
    (here / "model/model.safetensors").unlink()  # no weight is read
    words = ("data.json", "--model", "model", "--template", "vicuna", "--row", "0")
    out = shown(capsys, *words, "--max-length", "20")
    assert "Template vicuna" in out
    assert "20 are left" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("small.yaml",), "which row? give --row N"),
        (("small.yaml", "--row", "9"), "more.json: no row '9'; its rows are 0 to 4"),
        (("small.yaml", "--row", "2"), "data.json: row 2 is none"),
        (("small.yaml", "--row", "x"), "no row 'x'"),
        (("small.yaml", "--row", "0", "--stage", "aling"), "did you mean 'align'?"),
        (("small.yaml", "--row", "0", "--compat", "mgm"), "has no compat 'mgm'"),
        (("small.yaml", "--row", "0", "--template", "v1"), "--template is for datasets"),
        (
            ("small.yaml", "stages.instruct.template=vicunna", "--row", "0"),
            "no conversation template is called 'vicunna'; did you mean 'vicuna'?",
        ),
        (("data.json", "--row", "0"), "name the model's folder with --model"),
        (("data.json", "--row", "0", "--model", "nowhere"), "no model at nowhere"),
        (("gone.json", "--row", "0", "--model", "vision"), "no dataset at gone.json"),
        (("data.json", "--row", "0", "--model", "m", "--stage", "a"), "--stage a is for recipes"),
        (("gone.yaml", "--row", "0"), "gone.yaml: no such recipe"),
    ],
)
def test_what_cannot_be_shown_is_one_line(here, capsys, words, error):
    assert error in said(capsys, *words)


def test_a_stage_that_needs_another_to_run_says_which(here, capsys, tmp_path):
    recipe = tmp_path / "waits.yaml"
    first = "  words: {kind: tokenizer, data: [data.json]}\n"
    text = RECIPE.replace("stages:\n", f"stages:\n{first}", 1)
    recipe.write_text(text.replace("language: language}", "language: language, tokenizer: $words}"))
    error = said(capsys, str(recipe), "--row", "0")
    assert re.search(r"needs what stage words makes.*vlforge run .*--until words", error)


def test_what_the_last_run_left_serves_where_the_code_has_changed(here, capsys, tmp_path):
    test_a_stage_that_needs_another_to_run_says_which(here, capsys, tmp_path)
    old = tmp_path / "runs/.store/of_older_code"
    shutil.copytree(here / "language", old)
    (tmp_path / "runs/small").mkdir()
    (tmp_path / "runs/small/01-words").symlink_to(old)
    words = (str(tmp_path / "waits.yaml"), "--row", "0", "--stage", "align")
    assert main(["inspect", *words, "--out", str(tmp_path / "runs/small")]) == 0
    captured = capsys.readouterr()
    assert "stage align.s0" in captured.out
    assert "words is the last run's; its settings or code changed" in captured.err
