"""Every family is a model of transformers: saved, sharded, adapted, checkpointed, frozen."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from tests.families import FAMILIES, NATIVE, batch, folder, loaded, made, samples, written
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.models.folder import read_folder, with_stage, write_folder
from vlforge.training.freezing import freeze

LINEAR = ("q_proj", "v_proj", "down_proj")
PUBLISHED_LORA = {
    "qwen_vl": "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
    "others": "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
}
"""What the references call the first matrix of their adapters of the language model."""


def logits(model, name):
    ids, more = batch(name)
    with torch.no_grad():
        return model(ids, **more).logits


def targets(name):
    return ("c_attn", "w2") if name == "qwen_vl" else LINEAR


def learn(model, name, *train):
    """Loss and gradients by name after one backward pass in training mode."""
    freeze(model, train, ("vision", "connector", "language"), model.unused_parameters)
    model.vision.apply(lambda m: setattr(m, "dropout", 0.0) if hasattr(m, "dropout") else None)
    ids, more = batch(name)
    labels = ids.clone().masked_fill(ids < 3, -100)
    loss = model(ids, labels=labels, **more).loss
    model.zero_grad()
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found


@pytest.mark.parametrize("size", ["1GB", "20KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_comes_back_with_equal_logits(name, size, tmp_path):
    model = made(name).model
    model.save_pretrained(tmp_path, max_shard_size=size)
    files = sorted(tmp_path.glob("model*.safetensors"))
    assert (len(files) > 2) == (size == "20KB")
    back = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(back, name), logits(model, name))
    state, again = model.state_dict(), back.state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())
    if size == "20KB":
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == {key for file in files for key in load_file(file)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_can_be_read_in_halves(name, dtype):
    whole = folder(name).model
    half = read_folder(written(name), dtype=dtype).model
    found = logits(half, name)
    assert found.dtype == dtype
    want = logits(whole, name)
    assert (found.float() - want).norm() / want.norm() < 0.3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_brings_back_words_pictures_and_template(name, tmp_path):
    first = with_stage(made(name), made(name).template, {"kind": "train"})
    write_folder(first, tmp_path)
    back = read_folder(tmp_path)
    assert back.processor.to_json() == first.processor.to_json()
    assert back.processor.fit_mode == first.processor.fit_mode
    assert (back.template, back.history) == (first.template, first.history)
    assert type(back.tokenizer) is type(first.tokenizer) or back.tokenizer.is_fast
    text = "what is the red cat on\n"
    assert back.tokenizer.encode(text) == first.tokenizer.encode(text)
    assert torch.equal(logits(back.model, name), logits(first.model, name))
    if name == "qwen_vl":
        assert (tmp_path / "qwen.tiktoken").is_file()
    answers = LocalChat(load_model(tmp_path, "cpu")).answer(samples(), 4)
    assert [a.text for a in answers] == [
        a.text for a in LocalChat(loaded(name)).answer(samples(), 4)
    ]


@pytest.mark.parametrize("name", NATIVE)
def test_a_model_of_transformers_comes_back_with_equal_answers(name, tmp_path):
    first = loaded(name)
    first.model.save_pretrained(tmp_path, max_shard_size="50KB")
    for file in written(name).iterdir():
        if file.suffix in (".json", ".jinja") and not (tmp_path / file.name).exists():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    back = LocalChat(load_model(tmp_path, "cpu")).answer(samples(), 4)
    said = LocalChat(first).answer(samples(), 4)
    assert [a.text for a in back] == [a.text for a in said]
    sure = [a.confidence for a in said]
    assert [a.confidence for a in back] == pytest.approx(sure, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_of_the_language_model_has_the_published_names(name, tmp_path):
    model = made(name).model
    config = LoraConfig(r=2, target_modules=list(targets(name)), init_lora_weights=False)
    adapted = get_peft_model(model.language, config)
    adapted.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert PUBLISHED_LORA.get(name, PUBLISHED_LORA["others"]) in names


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_around_a_whole_model_reaches_its_language_model_only(name, tmp_path):
    plain, model = logits(made(name).model, name), made(name).model
    pattern = rf"language\..*\.({'|'.join(targets(name))})"
    config = LoraConfig(r=2, target_modules=pattern, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all(".language." in n and ".lora_" in n for n in trained)
    changed = logits(adapted, name)
    assert not torch.equal(changed, plain)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(made(name).model, tmp_path)
    assert torch.equal(logits(again, name), changed)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged, name), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [("connector", "language"), ("connector",)], ids="+".join)
@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_neither_loss_nor_gradient(name, train):
    loss, gradients = learn(made(name).model, name, *train)
    model = made(name).model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    again, recomputed = learn(model, name, *train)
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=1e-6)
    assert recomputed.keys() == gradients.keys()
    for place, gradient in gradients.items():
        torch.testing.assert_close(recomputed[place], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_vision_encoder_that_learns_can_be_checkpointed(name):
    parts = ("vision", "connector", "language")
    loss, gradients = learn(made(name).model, name, *parts)
    assert any(place.startswith("vision.") for place in gradients)
    model = made(name).model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, recomputed = learn(model, name, *parts)
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=1e-6)
    for place, gradient in gradients.items():
        torch.testing.assert_close(recomputed[place], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_parts_stay_in_evaluation_mode_and_without_gradient(name):
    model = made(name).model.train()
    _, gradients = learn(model, name, "connector")
    assert gradients
    assert all(place.startswith("connector.") for place in gradients)
    assert not any(m.training for m in model.vision.modules() if has_weights(m))
    assert not any(m.training for m in model.language.modules() if has_weights(m))
    assert any(m.training for m in model.connector.modules())
    assert not any(p.requires_grad for p in loaded(name).model.parameters())
    assert not any(m.training for m in loaded(name).model.modules())


def has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
