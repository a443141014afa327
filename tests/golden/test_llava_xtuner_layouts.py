"""LLaVA's layouts: recorded key names of every version, and checkpoints bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlforge.checkpoints import llava_fields, llava_hf
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.types import ModelError

GOLDEN = {
    "names_golden": "llava_xtuner/llava_model/hf_layouts*.json",
    "model_golden": "llava_xtuner/llava_model/*/golden.json",
}


def names_in(entry) -> list[str]:
    return entry["keys"] if isinstance(entry, dict) else entry


def test_key_names_of_every_version_mean_the_same_weights(names_golden: Path):
    recorded = json.loads(names_golden.read_text(encoding="utf-8"))
    flat = names_in(recorded["4x_flat"])
    ours = {llava_hf.our_name(name) for name in flat}
    assert None not in ours
    assert {llava_hf.their_name(name, llava_hf.FLAT) for name in ours} == set(flat)
    for key in ("save_pretrained_writes", "in_memory_5x", "450_model_nested"):
        assert {llava_hf.our_name(name) for name in names_in(recorded[key])} == ours, key
    nested = {llava_hf.their_name(name, llava_hf.NESTED) for name in ours}
    assert nested == set(names_in(recorded["450_model_nested"]))
    original = names_in(recorded["orig"])
    assert {llava_fields.our_name(name) for name in original} == ours
    assert {llava_fields.their_name(name) for name in ours} == set(original)


@pytest.mark.parametrize("layout", ["llava", "llava_hf", "llava_hf_nested", "vlforge"])
def test_checkpoints_come_back_bit_by_bit(model_golden: Path, tmp_path: Path, layout: str):
    source = read_checkpoint(model_golden.parent)
    assert source.layout == "llava"
    assert source.unused == ()
    out = tmp_path / "out"
    out.mkdir()
    writer = find(layout)
    if layout.startswith("llava_hf") and source.config.connector != "mlp2x_gelu":
        with pytest.raises(ModelError, match="a connector mlp2x_gelu"):
            writer.write(source, out, Writing())
        return
    writer.write(source, out, Writing())
    assert detect(out).name == layout
    found = read_checkpoint(out)
    found.check()
    assert set(found.weights) == set(source.weights)
    for name, lazy in source.weights.items():
        wanted = lazy.read()
        assert torch.equal(found.weights[name].read()[: len(wanted)], wanted), name
