import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from tests.inference.tiny import tiny_folder, tiny_tokenizer
from vlforge.inference.load import load_model, pick_device
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.types import ModelError


def tiny_clip(out, size=16):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": 18,
            "max_position_embeddings": 12,
            "eos_token_id": 2,
            "bos_token_id": 1,
        },
        vision_config={**sizes, "image_size": size, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).eval().save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    text = json.dumps(ImageProcessor(size=size).to_json())
    (out / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return out


def spoil(folder, change):
    """Rewrite the weights of a folder after `change` has had them."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def refusal(folder):
    with pytest.raises(ModelError) as error:
        load_model(folder, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_train_stage_loads_with_its_template_frozen_and_in_evaluation_mode(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", template="v1"), "cpu")
    assert loaded.kind == "family"
    assert loaded.template.name == "v1"
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_template_can_be_chosen(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model"), "cpu", template="vicuna")
    assert loaded.template.name == "vicuna"


def test_precision_is_that_of_every_weight(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model"), "cpu", "bf16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_answers_end_at_the_end_token_and_at_the_templates_strings(tmp_path):
    decoding = load_model(tiny_folder(tmp_path / "model"), "cpu").decoding(5)
    assert decoding.eos_ids == (2,)
    assert decoding.stop_strings == ("\n",)


def test_a_clip_folder_is_recognised(tmp_path):
    assert load_model(tiny_clip(tmp_path / "clip"), "cpu").kind == "clip"


def test_a_missing_weight_is_named(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    spoil(folder, lambda weights: weights.pop("connector.0.weight"))
    assert "connector.0.weight" in refusal(folder)


def test_loading_says_nothing_beside_its_one_line(tmp_path, capfd):
    whole, broken = tiny_folder(tmp_path / "whole"), tiny_folder(tmp_path / "broken")
    spoil(broken, lambda weights: weights.pop("connector.0.weight"))
    capfd.readouterr()
    load_model(whole, "cpu")
    refusal(broken)
    assert capfd.readouterr() == ("", "")


def test_a_weight_that_nothing_uses_is_named(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    spoil(folder, lambda weights: weights.update({"connector.9.weight": torch.zeros(2)}))
    assert "connector.9.weight" in refusal(folder)


def test_a_weight_of_another_shape_is_refused(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    spoil(folder, lambda weights: weights.update({"connector.0.weight": torch.zeros(3, 3)}))
    assert str(folder) in refusal(folder)


def test_a_cut_off_weight_file_is_refused(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert str(folder) in refusal(folder)


def test_what_is_no_model_is_called_by_its_name(tmp_path):
    assert "no model at" in refusal(tmp_path / "nowhere")
    file = tmp_path / "file.bin"
    file.touch()
    assert "is a file" in refusal(file)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no config.json" in refusal(empty)
    (empty / "done.json").touch()
    assert "a finished stage without a model" in refusal(empty)
    (empty / "checkpoint").mkdir()
    assert "has not ended" in refusal(empty)
    (empty / "adapter_config.json").touch()
    assert "adapter_config.json cannot be read" in refusal(empty)


def test_a_run_names_its_last_train_stage(tmp_path):
    kinds = {"05-align.s0": "train", "06-instruct.s0": "train", "07-score.s0": "evaluate"}
    nodes = [{"folder": folder, "kind": kind} for folder, kind in kinds.items()]
    (tmp_path / "graph.json").write_text(json.dumps({"nodes": nodes}), encoding="utf-8")
    assert refusal(tmp_path).endswith(f"such as {tmp_path / '06-instruct.s0'}")
    (tmp_path / "graph.json").write_text("{}", encoding="utf-8")
    assert refusal(tmp_path).endswith("is a run; give one of its train stages")


def test_parts_of_a_model_are_called_by_their_name(tmp_path):
    SmallVisionModel(SmallVisionConfig()).save_pretrained(tmp_path / "vision")
    assert "a vision encoder alone" in refusal(tmp_path / "vision")
    (tmp_path / "vision" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert "a model of type 'bert'" in refusal(tmp_path / "vision")
    (tmp_path / "vision" / "config.json").write_text("{", encoding="utf-8")
    assert "config.json cannot be read" in refusal(tmp_path / "vision")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ModelError, match="no GPU here"):
        pick_device("cuda:0")
    with pytest.raises(ModelError, match="'gpu' is no device"):
        pick_device("gpu")
