"""Adapters merged into plain models: logits are those of base + adapter in peft itself."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
    GemmaConfig,
)

from tests.checkpoints.tiny_llava import LANGUAGES, SIZES, TOWERS
from vlforge.checkpoints.merge import merge
from vlforge.checkpoints.weights import open_weights
from vlforge.types import ModelError

IDS = torch.tensor([[1, 5, 7, 8, 9, 3]])
PIXELS = torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)
CONFIGS = LANGUAGES | {
    "gemma": lambda: GemmaConfig(**(SIZES | {"num_key_value_heads": 1}), head_dim=8),
}


def language(folder, kind="llama", **changes):
    """A language model of random weights in a folder."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return model.eval()


def adapted(model, folder, **settings):
    """The model with an adapter of random numbers, which is saved to `folder`."""
    lora = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**(lora | settings)))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.rand_like(parameter)
        elif "modules_to_save" in name:
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    wrapped.eval().save_pretrained(folder)
    return wrapped


def said(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi", "mistral", "gemma", "tied"])
def test_any_language_model_takes_its_adapter(tmp_path, kind):
    wrapped = adapted(language(tmp_path / "base", kind), tmp_path / "adapter")
    plain = said(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    wanted = said(wrapped)
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = said(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (plain - wanted).abs().max() > 1e-2
    assert done.changed == 4
    assert done.tensors == len(open_weights(tmp_path / "base"))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*v_proj": 7}},
        {"bias": "none", "layers_to_transform": [1], "layers_pattern": "layers"},
        {"r": 1, "lora_alpha": 1},
    ],
    ids=["rslora", "dora", "all linear", "embedding", "whole", "patterns", "one layer", "rank 1"],
)
def test_any_setting_of_lora_is_pefts(tmp_path, settings):
    wrapped = adapted(language(tmp_path / "base"), tmp_path / "adapter", **settings)
    wanted = said(wrapped)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = said(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_every_merged_weight_is_pefts(tmp_path):
    wrapped = adapted(language(tmp_path / "base"), tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    wanted = wrapped.merge_and_unload().state_dict()
    for name, lazy in open_weights(tmp_path / "out").items():
        torch.testing.assert_close(lazy.read(), wanted[name], atol=1e-6, rtol=0)


def test_biases_that_were_trained_land(tmp_path):
    wrapped = adapted(language(tmp_path / "base", "qwen2"), tmp_path / "adapter", bias="lora_only")
    for name, parameter in wrapped.named_parameters():
        if name.endswith("bias") and parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    wanted = said(wrapped)
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    found = said(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert done.changed == 8


def test_a_vocabulary_that_grew_is_taken_over(tmp_path):
    language(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.resize_token_embeddings(21, mean_resizing=False)
    wrapped = adapted(model, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert made.config.vocab_size == 21
    torch.testing.assert_close(said(made), said(wrapped), atol=1e-5, rtol=1e-5)
    assert "the vocabulary has 21 tokens now" in done.notes[0]
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_tied_output_layer_that_was_trained_apart_stays_apart(tmp_path):
    model = language(tmp_path / "base", "tied")
    wrapped = adapted(model, tmp_path / "adapter", modules_to_save=["lm_head"])
    wanted = said(wrapped)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert made.config.tie_word_embeddings is False
    torch.testing.assert_close(said(made), wanted, atol=1e-5, rtol=1e-5)


def rename(folder, old, new):
    file = folder / "adapter_model.safetensors"
    save_file({key.replace(old, new): t for key, t in load_file(file).items()}, file)


@pytest.mark.parametrize("new", ["", "vision_model."], ids=["5.x", "4.x"])
@pytest.mark.parametrize("base_names", ["", "vision_model."], ids=["on 5.x", "on 4.x"])
def test_an_encoder_takes_its_adapter_under_either_name(tmp_path, new, base_names):
    torch.manual_seed(0)
    model = CLIPVisionModel(TOWERS["clip"]())
    model.save_pretrained(tmp_path / "base")
    wrapped = adapted(model, tmp_path / "adapter", target_modules=["q_proj", "fc1"])
    with torch.no_grad():
        wanted = wrapped(PIXELS).last_hidden_state
    rename(tmp_path / "adapter", "base_model.model.encoder", f"base_model.model.{new}encoder")
    file = tmp_path / "base" / "model.safetensors"
    plain = {key.removeprefix("vision_model."): tensor for key, tensor in load_file(file).items()}
    save_file({base_names + key: t for key, t in plain.items()}, file, {"format": "pt"})
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    with torch.no_grad():
        found = CLIPVisionModel.from_pretrained(tmp_path / "out")(PIXELS).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_whole_clip_takes_an_adapter_of_its_tower(tmp_path):
    torch.manual_seed(0)
    text = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=8)  # fmt: skip
    both = CLIPConfig(text_config=text.to_dict(), vision_config=TOWERS["clip"]().to_dict())
    CLIPModel(both).save_pretrained(tmp_path / "base")
    tower = CLIPVisionModel.from_pretrained(tmp_path / "base")
    wrapped = adapted(tower, tmp_path / "adapter", target_modules=["q_proj"])
    with torch.no_grad():
        wanted = wrapped(PIXELS).last_hidden_state
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    with torch.no_grad():
        found = CLIPVisionModel.from_pretrained(tmp_path / "out")(PIXELS).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def refusal(base, adapter, out):
    with pytest.raises(ModelError) as error:
        merge(base, adapter, out)
    assert "\n" not in str(error.value)
    assert not out.exists()
    return str(error.value)


def test_every_tensor_of_an_adapter_lands_or_is_named(tmp_path):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    rename(tmp_path / "adapter", "layers.1.self_attn.v_proj", "layers.9.self_attn.v_proj")
    line = refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "1 of 4 weights that the adapter changes are not in the base" in line
    assert "layers.9.self_attn.v_proj.lora_A.weight" in line


def test_a_whole_module_of_another_shape_is_refused(tmp_path):
    model = language(tmp_path / "base")
    adapted(model, tmp_path / "adapter", modules_to_save=["norm"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("norm.weight"))
    save_file(tensors | {key: torch.ones(5)}, file)
    assert "has shape [5]" in refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")


def test_a_base_of_another_width_is_refused(tmp_path):
    adapted(language(tmp_path / "wide", "mistral"), tmp_path / "adapter")
    config = CONFIGS["llama"]()
    config.hidden_size = 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    line = refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "belongs to another base" in line


def test_an_adapter_of_a_kind_that_is_not_lora_is_refused(tmp_path):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "IA3"}))
    line = refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "type IA3 is not read here" in line
