"""Adapters that the references trained, unmerged in our model: names, numbers, gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlforge.checkpoints.checkpoint import Parts
from vlforge.checkpoints.index import read_checkpoint
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.training.adapter_targets import TARGETS
from vlforge.training.adapters import attach
from vlforge.training.config import LoraSpec, TrainConfig
from vlforge.training.loop import choose

GOLDEN = {
    "lora_golden": "llava_xtuner/llava_lora*/golden.json",
    "xtuner_golden": "llava_xtuner/xtuner_model*/vicuna*/golden.json",
    "internlm2_golden": "llava_xtuner/xtuner_model*/internlm2*/golden.json",
}


def spec_of(folder: Path, **more) -> LoraSpec:
    """The recorded adapter's settings, its targets worked out by us."""
    fields = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return LoraSpec(
        rank=fields["r"], alpha=fields["lora_alpha"], dropout=fields["lora_dropout"],
        weights=str(folder), **more,
    )  # fmt: skip


def stage(**settings) -> TrainConfig:
    return TrainConfig(model="", data="", samples=1, **settings)


def test_llavas_adapter_gives_its_numbers_unmerged(lora_golden: Path):
    torch.set_num_threads(1)
    numbers = json.loads(lora_golden.read_text(encoding="utf-8"))
    base = lora_golden.parents[1] / numbers["base"].split(" ")[0]
    folder = next(path for path in lora_golden.parent.iterdir() if path.is_dir())
    whole = read_checkpoint(folder, Parts(base=base))
    model = read_checkpoint(base, Parts()).build()
    for name, parameter in model.connector.named_parameters():
        parameter.data = whole.weights[f"connector.{name}"].read().float()
    (adapter,) = attach(model, stage(lora=spec_of(folder)), seed=0)
    assert set(adapter.state()) == set(numbers["adapter_keys"])
    assert adapter.config.target_modules == set(numbers["target_modules"])
    model.eval()
    batch = load_file(base / "golden.safetensors")
    with torch.no_grad():
        made = model.splice(
            batch["batch.input_ids"],
            batch["batch.images"],
            labels=batch["batch.labels"],
            mask=batch["batch.attention_mask"],
            dummy_images=True,
        )
        loss = model.loss_sum(made) / supervised_tokens(made.plan.labels)
    key = next(key for key in numbers if key.startswith("merged_loss"))
    assert loss.item() == pytest.approx(numbers[key], abs=1e-5)


def test_xtuners_two_adapters_have_its_names_loss_and_gradients(xtuner_golden: Path):
    torch.set_num_threads(1)
    folder = xtuner_golden.parent
    numbers = json.loads(xtuner_golden.read_text(encoding="utf-8"))
    golden = load_file(folder / "golden.safetensors")
    trained = read_checkpoint(folder / "hf", Parts(language=folder / "llm", vision=folder / "clip"))
    model = trained.build()
    base = {f"language.{n}": t for n, t in load_file(folder / "llm/model.safetensors").items()}
    base |= {
        "vision.tower." + n.removeprefix("vision_model."): t
        for n, t in load_file(folder / "clip/model.safetensors").items()
    }
    for name, parameter in model.named_parameters():
        if name in base:
            parameter.data = base[name].float()
    config = stage(
        lora=spec_of(folder / "hf/llm_adapter"),
        vision_lora=spec_of(folder / "hf/visual_encoder_adapter", targets="clip"),
    )
    language, vision = adapters = attach(model, config, seed=0)
    assert set(language.state()) == set(numbers["hf_llm_adapter_keys"])
    theirs = {name.replace("vision_model.", "") for name in numbers["hf_visual_adapter_keys"]}
    assert set(vision.state()) == theirs
    assert sorted(language.config.target_modules) == numbers["lora_targets_llm"]
    assert sorted(vision.config.target_modules) == numbers["lora_targets_clip"]
    names = choose(config, model, adapters)
    model.eval()
    made = model.splice(
        golden["batch.input_ids"],
        golden["batch.pixel_values"],
        labels=golden["batch.labels"],
        mask=golden["batch.attention_mask"].bool(),
        dummy_images=True,
    )
    loss = model.loss_sum(made) / supervised_tokens(made.plan.labels)
    loss.backward()
    assert loss.item() == pytest.approx(numbers["loss"], abs=1e-5)
    gradients = {their_name(n): p.grad for n, p in model.named_parameters() if n in set(names)}
    for name, norm in numbers["grad_norms"].items():
        found = gradients.pop(name, None)
        assert (0.0 if found is None else found.norm().item()) == pytest.approx(norm, abs=1e-5)
    assert not gradients


def their_name(name: str) -> str:
    """XTuner's name of a parameter that learns."""
    part, _, rest = name.partition(".")
    if part == "connector":
        return f"projector.model.{rest}"
    if part == "language":
        return f"llm.base_model.model.{rest}"
    return f"visual_encoder.base_model.model.vision_model.{rest.removeprefix('tower.')}"


def test_internlm2s_targets_are_the_same_layers_of_a_llama(internlm2_golden: Path):
    numbers = json.loads(internlm2_golden.read_text(encoding="utf-8"))
    renamed = {
        "wqkv": ["q_proj", "k_proj", "v_proj"], "wo": ["o_proj"], "w1": ["gate_proj"],
        "w3": ["up_proj"], "w2": ["down_proj"], "output": ["lm_head"],
    }  # fmt: skip
    wanted = {new for old in numbers["lora_targets_llm"] for new in renamed[old]}
    assert set(TARGETS["internlm2"]) == wanted
    folder = internlm2_golden.parent
    found = read_checkpoint(folder / "hf", Parts(language=folder / "llm", vision=folder / "clip"))
    (adapter,) = attach(found.build(), stage(lora=LoraSpec(rank=2, targets="internlm2")), seed=0)
    assert adapter.config.target_modules == wanted
