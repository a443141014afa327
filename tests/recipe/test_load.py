"""Recipes are checked whole before anything runs, and errors say file, line and remedy."""

from pathlib import Path

import pytest

from vlforge.recipe.load import load_recipe
from vlforge.types import RecipeError

GOOD = """\
name: small
seeds: [0, 1]
stages:
  words: {kind: tokenizer, data: [text.jsonl]}
  align:
    kind: train
    model: {vision: v, language: $words}
    data: d.jsonl
    samples: 100
    lr: 1e-3
arms:
  raw: {}
  slow: {stages.align.lr: 1e-5}
sizes:
  tiny: {stages.align.samples: 10}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_short_name_reaches_the_group_that_knows_it(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.stages["align"].settings["optimiser"] == {"lr": 1e-3}


def test_a_command_line_override_is_a_number_by_yaml_1_2(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), ["stages.align.lr=5e-4"])
    assert recipe.stages["align"].settings["optimiser"] == {"lr": 5e-4}


def test_a_size_changes_only_what_it_names(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), size="tiny")
    assert recipe.stages["align"].settings["samples"] == 10
    assert recipe.seeds == (0, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("samples: 100", "sampels: 100"), r":9: unknown key 'sampels'; did you mean 'samples'"),
        (("samples: 100", "samples: many"), r":9: 'samples' is 'many', but should be a valid int"),
        (("lr: 1e-3", "lrr: 1e-3"), r":10: unknown key 'lrr'; did you mean 'lr'"),
        (("vision: v", "vison: v"), r":7: unknown key 'model.vison'; did you mean 'vision'"),
        (("kind: train", "kind: trian"), r":6: unknown stage kind 'trian'; did you mean 'train'"),
        (("$words", "$wrods"), r"stage 'align' refers to \$wrods, which is no stage"),
        (("seeds: [0, 1]", "sedes: [0]"), r":2: unknown key 'sedes'; did you mean 'seeds'"),
        (("stages.align.lr", "stages.aling.lr"), r"arm 'slow': no stage 'aling'"),
        (("seeds: [0, 1]", "seeds: none"), r":2: seeds is 'none'"),
        (("name: small", "name: [small"), r"not valid YAML"),
    ],
)
def test_an_error_names_file_line_and_the_nearest_word(tmp_path, change, said):
    with pytest.raises(RecipeError, match=said) as caught:
        load_recipe(write(tmp_path, GOOD.replace(*change)))
    assert "recipe.yaml" in str(caught.value)


def test_all_wrong_types_are_told_at_once(tmp_path):
    text = GOOD.replace("samples: 100", "samples: many\n    batch: none")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 2


def test_an_unknown_size_lists_the_known_ones(tmp_path):
    with pytest.raises(RecipeError, match="no size 'huge'; this recipe has: default, tiny"):
        load_recipe(write(tmp_path, GOOD), size="huge")


def test_a_missing_recipe_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_an_override_without_value_shows_the_form(tmp_path):
    with pytest.raises(RecipeError, match="not of the form key=value"):
        load_recipe(write(tmp_path, GOOD), ["stages.align.lr"])


def test_a_file_with_a_kind_at_the_top_is_a_recipe_of_one_stage(tmp_path):
    recipe = load_recipe(write(tmp_path, "kind: tokenizer\ndata: [a.txt]\n"))
    assert list(recipe.stages) == ["tokenizer"]


@pytest.mark.parametrize("override", ["samples=7", "stages.train.samples=7"])
def test_a_file_that_is_one_stage_takes_overrides_by_their_own_names(tmp_path, override):
    path = tmp_path / "align.yaml"
    path.write_text("kind: train\nmodel: folder\ndata: rows.jsonl\n")
    recipe = load_recipe(path, [override, "seeds=[3]"])
    assert recipe.stages["train"].settings["samples"] == 7
    assert recipe.seeds == (3,)
