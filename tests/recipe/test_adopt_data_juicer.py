"""Data-Juicer's recipes are read whole: every key is used, harmless, or refused."""

from __future__ import annotations

import pytest

from vlforge.recipe.adopt.data_juicer import read_data_juicer
from vlforge.types import RecipeError


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "clean.yaml"
        path.write_text("dataset_path: rows.jsonl\n" + text)
        return path

    return write


def test_keys_that_change_nothing_are_kept_aside(recipe):
    config = read_data_juicer(recipe("use_cache: false\nexecutor_type: default\nnp: 3\n"), {})
    assert config.extra == {"use_cache": False, "executor_type": "default"}
    assert config.np == 3


def test_the_first_text_key_is_read_as_data_juicer_does(recipe):
    assert read_data_juicer(recipe("text_keys: [caption, alt]\n"), {}).text_key == "caption"


@pytest.mark.parametrize(
    "line", ["executor_type: ray", "export_shard_size: 100", "dataset: {configs: [{path: a}]}"]
)
def test_a_key_that_would_change_the_result_is_refused_with_its_line(recipe, line):
    with pytest.raises(RecipeError, match=r"clean\.yaml:3: .* works yet; remove the key"):
        read_data_juicer(recipe(f"np: 1\n{line}\n"), {})


def test_a_changed_parameter_reaches_an_operator_given_without_any(recipe):
    path = recipe("process:\n  - text_length_filter\n")
    config = read_data_juicer(path, {"text_length_filter.min_len": "7"})
    assert list(config.process) == [{"text_length_filter": {"min_len": 7}}]


def test_every_wrong_operator_is_named_with_its_line(recipe):
    path = recipe("process:\n  - text_lenght_filter: {}\n  - text_length_filter: {min: 3}\n")
    with pytest.raises(RecipeError) as caught:
        read_data_juicer(path, {})
    first, second = str(caught.value).splitlines()
    assert "clean.yaml:3: unknown operator" in first
    assert "clean.yaml:4: text_length_filter" in second


def test_a_recipe_without_dataset_says_so(tmp_path):
    (tmp_path / "clean.yaml").write_text("process: []\n")
    with pytest.raises(RecipeError, match="dataset_path is missing"):
        read_data_juicer(tmp_path / "clean.yaml", {})
