"""MGen-VL's adapter, unmerged in our Qwen-VL: its layers, its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.test_minigpt4_qwenvl_qwen import arrays, batch_of, logits_at, opened
from vlforge.checkpoints.qwen_vl import their_name
from vlforge.training.adapters import attach
from vlforge.training.config import LoraSpec, TrainConfig
from vlforge.training.loop import choose

GOLDEN = {"case_meta": "minigpt4_qwenvl/qwen_vl*/case_*/meta.json"}


def test_the_ad_captions_adapter_gives_the_recorded_numbers(case_meta: Path, tmp_path: Path):
    case = opened.__wrapped__(case_meta)  # its own: adapters are put into it
    facts = case.meta["lora"]
    save_file(
        {
            name if name.startswith("base_model.") else f"base_model.model.{name}": tensor
            for name, tensor in load_file(case.folder / "lora.safetensors").items()
        },
        tmp_path / "adapter_model.safetensors",
    )
    fields = {"lora_alpha": facts["alpha"], "r": facts["rank"], "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    lora = LoraSpec(
        rank=facts["rank"], alpha=facts["alpha"], targets="ad_captions", weights=str(tmp_path)
    )
    config = TrainConfig(model="", data="", lora=lora, train=())
    adapters = attach(case.model, config, seed=0)
    layers = {their_name(f"language.{layer}") for layer in adapters[0].layers}
    assert layers == set(facts["matched"])
    names = choose(config, case.model, adapters)
    assert all(name.startswith("language.") and ".lora_" in name for name in names)
    model = case.model.eval()
    ids, labels, pixels = batch_of(case)
    recorded = arrays(case.folder / "logits_lora_merged.npz")
    found = logits_at(model, ids, pixels, recorded["rows"])
    torch.testing.assert_close(found, recorded["logits"], atol=1e-4, rtol=0)
    with torch.no_grad():
        loss = model(ids, pixels, labels=labels).loss.item()
    assert loss == pytest.approx(facts["loss_eval"], abs=1e-5)
