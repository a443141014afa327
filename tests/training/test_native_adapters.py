"""Adapters of native models: in their part, in peft's own files, merged to the same logits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.models.test_native import MAKERS
from tests.training.test_native_stage import samples, write_data
from vlforge.inference.load import load_model
from vlforge.inference.native_merge import merge_native
from vlforge.models.native import NativeModel
from vlforge.models.parts.native_processor import open_processor
from vlforge.training.config import LoraSpec, Optimiser, TrainConfig
from vlforge.training.loop import train

CHOSEN = ("qwen2.5-vl", "llava", "idefics3")


@pytest.fixture(params=CHOSEN, scope="module")
def tuned(request, tmp_path_factory):
    """A configuration with both adapters, and what the stage made of it."""
    home = tmp_path_factory.mktemp(request.param)
    folder = MAKERS[request.param](home / "model")
    config = TrainConfig(
        model=str(folder),
        data=str(write_data(home)),
        template="auto",
        image_root=str(home),
        epochs=2,
        batch=3,
        max_length=1024,
        lora=LoraSpec(rank=4, alpha=8),
        vision_lora=LoraSpec(rank=2, alpha=8),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.0),
    )
    train(config, home / "tuned", device="cpu")
    return config, home / "tuned"


def logits(model, config, row=0):
    sample, images = samples(config)[row]
    whole = NativeModel(model, open_processor(Path(config.model)))
    batch = whole.collate([whole.encode(sample, images)])
    batch.pop("labels")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_plain_peft_finds_every_layer_and_no_other(tuned):
    from peft import PeftModel
    from safetensors.torch import load_file

    config, out = tuned
    for folder, part, rank in (("adapter", "language", 4), ("vision_adapter", "vision", 2)):
        model = AutoModelForImageTextToText.from_pretrained(config.model)
        found = PeftModel.from_pretrained(model, out / folder)
        adapted = {n for n, _ in found.base_model.model.named_parameters() if ".lora_" in n}
        assert adapted
        assert {NativeModel.part_of(name) for name in adapted} == {part}
        state = load_file(out / folder / "adapter_model.safetensors")
        assert len(state) == len(adapted)
        assert all(min(tensor.shape) == rank for tensor in state.values())


def test_chat_takes_adapters_and_all_that_was_trained(tuned):
    from peft import PeftModel
    from safetensors.torch import load_file

    config, out = tuned
    model = AutoModelForImageTextToText.from_pretrained(config.model)
    whole = load_file(out / "non_lora_trainables.safetensors")
    named = dict(model.named_parameters())
    assert {NativeModel.part_of(name) for name in whole} == {"connector"}
    for name, tensor in whole.items():
        named[name].data.copy_(tensor)
    for folder in ("adapter", "vision_adapter"):
        model = PeftModel.from_pretrained(model, out / folder).merge_and_unload()
    loaded = load_model(out, "cpu")
    assert loaded.kind == "native"
    torch.testing.assert_close(
        logits(loaded.model, config), logits(model, config), atol=1e-5, rtol=1e-5
    )
    before = AutoModelForImageTextToText.from_pretrained(config.model)
    assert not torch.allclose(logits(loaded.model, config), logits(before, config), atol=1e-3)


def test_a_merged_folder_is_transformers_own(tuned, tmp_path):
    config, out = tuned
    done = merge_native(out, tmp_path / "merged")
    layers = sum(
        len(json.loads((out / name / "adapter_config.json").read_text())["target_modules"])
        for name in ("adapter", "vision_adapter")
    )
    assert done.changed > layers
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    loaded = load_model(out, "cpu")
    torch.testing.assert_close(
        logits(merged, config), logits(loaded.model, config), atol=1e-5, rtol=1e-5
    )


def test_the_next_stage_begins_with_the_adapters_merged(tuned, tmp_path):
    config, out = tuned
    after = replace(
        config, model=str(out), lora=None, vision_lora=None, optimiser=Optimiser(lr=0.0)
    )
    train(after, tmp_path / "next", device="cpu")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "next")
    loaded = load_model(out, "cpu")
    torch.testing.assert_close(
        logits(model, config), logits(loaded.model, config), atol=1e-5, rtol=1e-5
    )
    meta = json.loads((tmp_path / "next" / "vlforge.json").read_text())
    assert len(meta["history"]) == 2
