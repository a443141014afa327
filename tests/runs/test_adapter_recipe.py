"""A recipe that aligns, adapts and merges: each stage finds what the one before it left."""

import json

import pytest
import torch

from tests.tiny_model import write_data, write_parts
from vlforge.inference.load import load_model
from vlforge.runs.prepare import Choice
from vlforge.runs.run import run_recipe

RECIPE = """\
name: adapted
seeds: [0]
stages:
  align:
    kind: train
    model: {{vision: {made}/vision, language: {made}/language}}
    data: {made}/data.json
    samples: 8
    batch: 4
    template: vicuna
  tune:
    kind: train
    model: $align
    data: {made}/data.json
    samples: 8
    batch: 4
    template: vicuna
    lr: 0.01
    lora: {{rank: 2, alpha: 4, targets: [q_proj, v_proj]}}
  whole: {{kind: merge, adapter: $tune}}
"""


@pytest.mark.slow
def test_an_adapter_is_trained_and_merged_by_a_recipe(tmp_path):
    made = tmp_path / "made"
    write_parts(made, write_data(made))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(made=made))
    runs = tmp_path / "runs"
    result = run_recipe(tmp_path / "recipe.yaml", Choice(run_dir=runs / "adapted"), quiet=True)
    folders = {name: next(result.run_dir.glob(f"*-{name}*")) for name in ("tune", "whole")}
    assert json.loads((folders["whole"] / "merge.json").read_text())["layout"] == "vlforge"
    ids = torch.tensor([[1, 5, 6, 7]])
    apart, whole = (load_model(folder, device="cpu").model for folder in folders.values())
    torch.testing.assert_close(apart(ids).logits, whole(ids).logits, atol=1e-5, rtol=0)
    inner = {name: folder.resolve().relative_to(runs) for name, folder in folders.items()}
    runs.rename(tmp_path / "moved")
    moved = load_model(tmp_path / "moved" / inner["tune"], device="cpu").model
    torch.testing.assert_close(moved(ids).logits, whole(ids).logits, atol=1e-5, rtol=0)
