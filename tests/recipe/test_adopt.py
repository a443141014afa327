"""Files of other systems become recipes, every line with its origin."""

import pytest

from tests.recipe.adopting import adopted
from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.recipe.adopt.systems import SYSTEMS, adopt_file
from vlforge.recipe.source import parse_value
from vlforge.types import RecipeError

DATA_JUICER = """\
project_name: 'seed pairs'
dataset_path: a.jsonl   # theirs
export_path: out/b.jsonl
np: 2
op_fusion: true
open_tracer: on
process:
  - image_captioning_mapper:
      hf_img2seq: /models/blip2
      keep_original_sample: false
  - text_length_filter:
      min_len: 5
  - text_length_filter: {max_len: 100}
  - clean_links_mapper
"""


def test_a_data_juicer_recipe_is_one_process_stage(tmp_path):
    path = tmp_path / "clean.yaml"
    path.write_text(DATA_JUICER)
    made, recipe = adopted(path, tmp_path / "ours.yaml", np="4", text_length_filter__min_len="6")
    assert recipe.name == "seed_pairs"
    stage = recipe.stages["process"]
    assert stage.kind == "process"
    assert stage.settings["np"] == 4
    assert stage.settings["open_tracer"] is True
    assert [next(iter(op)) for op in stage.settings["process"]] == [
        "image_captioning_mapper", "text_length_filter", "text_length_filter",
        "clean_links_mapper",
    ]  # fmt: skip
    text = made.text()
    assert "dataset_path: a.jsonl" in text
    assert "# clean.yaml:2 dataset_path" in text
    assert "# np, changed on the command line" in text
    assert "# clean.yaml:9 hf_img2seq" in text
    assert "# text_length_filter.min_len, changed on the command line" in text
    assert "- clean_links_mapper: {}" in text
    assert [(one.key, one.where) for one in made.unused] == [
        ("op_fusion", "clean.yaml:5 op_fusion")
    ]
    assert "#   op_fusion: true  (clean.yaml:5 op_fusion)" in text


def test_what_no_system_knows_is_refused_with_all_that_are(tmp_path):
    path = tmp_path / "notes.sh"
    path.write_text("echo nothing\n")
    with pytest.raises(RecipeError, match=r"notes\.sh: no system's file.*Data-Juicer: a YAML"):
        adopt_file(path)
    with pytest.raises(RecipeError, match=r"absent\.yaml: no such file"):
        adopt_file(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        adopt_file(tmp_path)


def test_every_system_says_what_it_reads():
    for system in SYSTEMS:
        assert callable(system.code().recognises)
        assert callable(system.code().adopt_foreign)
        assert system.reads
        assert all(ending.startswith(".") for ending in system.endings)


def test_text_is_yaml_that_holds_the_tree(tmp_path):
    made = AdoptedRecipe("Other", tmp_path / "x.py", "odd: name")
    made.put("stages.a.kind", "train", "x.py:1")
    made.put("stages.a.data", [{"path": "a#b", "weight": 2.5}, {"path": "c: d"}], "x.py:2")
    made.put("stages.a.data.1.weight", 1, "x.py:3")
    made.put("stages.a.optimiser.lr", 2e-5, "x.py:4")
    made.put("stages.a.optimiser.betas", (0.9, 0.95), "x.py:5")
    made.put("stages.a.lora", {"rank": 64, "targets": ".*attn.c_attn.*"}, "x.py:6")
    made.put("stages.a.note", "两行\nmit 'quotes' #", "x.py:7")
    made.put("stages.a.empty", [], "x.py:8")
    made.leave("half", {"a": [1, None]}, "x.py:9", "is not\n there")
    assert parse_value(made.text()) == parse_value(made.text().replace("  #", "    #"))
    read = parse_value(made.text())
    made.tree["stages"]["a"]["optimiser"]["betas"] = [0.9, 0.95]
    assert read == made.tree
    assert made.get("stages.a.data.1.weight") == 1
    assert made.get("stages.b.data", 3) == 3
    assert "#   half: {a: [1, null]}  (x.py:9) is not there" in made.text()
    with pytest.raises(ValueError, match="no origin"):
        made.put("stages.a.x", 1, " ")
