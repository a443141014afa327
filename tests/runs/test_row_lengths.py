"""A check counts rows as the stage will: pictures at their tokens, the stage's own rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.tiny_native import qwen
from tests.tiny_model import write_data, write_parts
from vlforge.cli import main
from vlforge.data.detect import read_samples
from vlforge.data.images import load_rgb
from vlforge.inference.text_side import open_text_side
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.runs.check import check_recipe
from vlforge.runs.prepare import Choice
from vlforge.runs.row_lengths import stage_rows
from vlforge.text.templates import find_template
from vlforge.training.config import TrainConfig

RECIPE = """
name: lengths
stages:
  align:
    kind: train
    model: {{vision: {vision}, language: {language}}}
    template: vicuna
    samples: 4
    batch: 4
    data: data.json
    max_length: {most}
    {more}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder / "parts", write_data(folder))
    return folder


@pytest.fixture
def here(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(vision=str(folder / "parts/vision"), language=str(folder / "parts/language"))


def recipe(most: int, more: str = "") -> Path:
    path = Path("recipe.yaml")
    parts = {"vision": "parts/vision", "language": "parts/language"}
    path.write_text(RECIPE.format(most=most, more=more, **parts))
    return path


def told(path: Path) -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in check_recipe(path, Choice(run_dir=Path("runs/r")))]


def wholes(folder: Path) -> list[int]:
    """The length of each row, by the model with its weights."""
    model = assemble(spec(folder))
    template = find_template("vicuna")
    rows = [
        model.model.encode(sample, template, model.tokenizer, None, sizes=[(8, 8)])
        for sample in read_samples(folder / "data.json")
    ]
    assert all(row.image_spans[0][1] - row.image_spans[0][0] > 1 for row in rows)
    return [row.length for row in rows]


def test_a_picture_counts_as_its_tokens(here):
    longest = max(wholes(here))
    found = told(recipe(longest))
    assert ("ok", f"12 rows, the longest has {longest} tokens, pictures included") in found
    assert {level for level, _ in found} == {"ok"}


def test_rows_that_only_the_picture_makes_too_long_are_cut(here):
    lengths = wholes(here)
    most = max(lengths) - 1
    longer = sum(length > most for length in lengths)
    (text,) = [text for level, text in told(recipe(most)) if level == "warning"]
    assert text.startswith(f"{longer} of 12 rows are cut to max_length {most}")


@pytest.mark.parametrize(
    ("rule", "level", "said"),
    [("drop", "warning", "rows left out: longer than max_length"),
     ("refuse", "error", "rows: longer than max_length, as row")],
)  # fmt: skip
def test_what_becomes_of_long_rows_is_what_the_stage_says(here, rule, level, said):
    most = max(wholes(here)) - 1
    found = told(recipe(most, f"on_too_long: {rule}"))
    assert [one for one, text in found if said in text] == [level]
    assert not any("are cut to" in text for _, text in found)


@pytest.mark.parametrize(("rule", "kind"), [("drop", "left_out"), ("refuse", "refused")])
def test_a_check_of_data_minds_the_rule_too(here, tmp_path, rule, kind):
    longest = max(wholes(here))
    path = recipe(longest - 1, f"on_too_long: {rule}")
    words = ["check", "data.json", "--recipe", str(path), "--out", str(tmp_path / "check")]
    assert main(words) == (1 if rule == "refuse" else 0)
    found = json.loads((tmp_path / "check/check.json").read_text())
    kinds = {one["kind"] for one in found["findings"]}
    assert kind in kinds
    assert not {"labels_cut", "labels_lost", "image_cut"} & kinds
    assert found["trainings"][0]["longest"] == longest


def test_a_model_that_cannot_be_asked_is_told_of(here, tmp_path):
    config = TrainConfig(
        model=ModelSpec(vision=str(tmp_path / "gone"), language=spec(here).language),
        data="data.json",
        template="vicuna",
    )
    rows = stage_rows(config)
    (sample, *_) = read_samples(here / "data.json")
    assert "each picture counts as one token here" in rows.doubt
    row = rows.encode(sample, None)
    assert row.image_spans[0][1] - row.image_spans[0][0] == 1


def test_rows_of_a_native_model_have_its_pictures(here, tmp_path):
    folder = qwen(tmp_path / "qwen")
    rows = stage_rows(TrainConfig(model=str(folder), data="data.json", template="auto"))
    (sample, *_) = read_samples(here / "data.json")
    native = open_text_side(folder).model
    wanted = native.encode(sample, [load_rgb(image) for image in sample.images])
    row = rows.encode(sample, None)
    assert (row.ids, row.labels, row.whole) == (wanted.ids, wanted.labels, wanted.length)


def test_tokens_that_a_template_brings_along_are_one_each(here):
    config = TrainConfig(model=spec(here), data="data.json", template="vicuna+im_start_end")
    rows = stage_rows(config)
    plain = stage_rows(TrainConfig(model=spec(here), data="data.json", template="vicuna"))
    (sample, *_) = read_samples(here / "data.json")
    assert rows.encode(sample, None).whole == plain.encode(sample, None).whole + 2
