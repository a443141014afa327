"""Arms and seeds unfold into the least number of nodes."""

import pytest

from vlforge.recipe.graph import expand
from vlforge.recipe.load import load_recipe
from vlforge.types import RecipeError

RECIPE = """\
name: g
seeds: [0, 1]
stages:
  text: {kind: tests.runs.plain_kind, text: a}
  world: {kind: tests.runs.letters_kind, text: w}
  clean: {kind: tests.runs.letters_kind, text: c, source: $world/letters.txt}
  align: {kind: tests.runs.letters_kind, text: t, source: $world/letters.txt, needs: [text]}
  score: {kind: tests.runs.letters_kind, text: s, source: $align/letters.txt}
arms:
  raw: {}
  same: {stages.align.source: $world/letters.txt}
  clean: {stages.align.source: $clean/letters.txt}
"""


@pytest.fixture
def small_recipe(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text(RECIPE)
    return load_recipe(path)


def names(nodes):
    return [node.name for node in nodes]


def test_equal_work_is_one_node(small_recipe):
    nodes = expand(small_recipe, seeds=[0])
    assert names(nodes) == [
        "text", "world.s0", "clean.s0", "align@raw.s0", "align@clean.s0",
        "score@raw.s0", "score@clean.s0",
    ]  # fmt: skip
    assert next(n for n in nodes if n.name == "align@raw.s0").arms == ("raw", "same")


def test_a_stage_without_a_seed_is_shared_by_seeds(small_recipe):
    nodes = expand(small_recipe, arms=["raw"])
    assert names(nodes).count("text") == 1
    assert {"world.s0", "world.s1"} <= set(names(nodes))


def test_a_stage_that_the_chosen_arms_do_not_need_is_left_out(small_recipe):
    assert "clean.s0" not in names(expand(small_recipe, arms=["raw"], seeds=[0]))


def test_names_do_not_depend_on_the_arms_chosen(small_recipe):
    few, all_arms = expand(small_recipe, arms=["raw"], seeds=[0]), expand(small_recipe)
    assert set(names(few)) <= set(names(all_arms))
    assert {n.name: n.number for n in few}.items() <= {n.name: n.number for n in all_arms}.items()


def test_until_stops_at_the_stage(small_recipe):
    assert names(expand(small_recipe, arms=["raw"], seeds=[0], until="world")) == ["world.s0"]


def test_every_node_comes_after_its_inputs(small_recipe):
    seen = set()
    for node in expand(small_recipe):
        assert set(node.inputs.values()) <= seen
        seen.add(node.name)


def test_a_circle_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "stages:\n"
        "  a: {kind: tests.runs.letters_kind, text: a, source: $b/x}\n"
        "  b: {kind: tests.runs.letters_kind, text: b, source: $a/x}\n"
    )
    with pytest.raises(RecipeError, match="in a circle: a, b"):
        expand(load_recipe(path))


def test_an_unknown_arm_lists_the_known_ones(small_recipe):
    with pytest.raises(RecipeError, match="no arm 'rwa'; did you mean 'raw'"):
        expand(small_recipe, arms=["rwa"])
