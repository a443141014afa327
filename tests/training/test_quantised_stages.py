"""QLoRA: adapters on a language model in 8 or 4 bits, through bitsandbytes on a CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.small_stage import stopped_before
from tests.tiny_model import write_data, write_parts
from vlforge.inference.load import load_model
from vlforge.models.config import ModelSpec
from vlforge.training.adapters import attach
from vlforge.training.config import LoraSpec, Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.types import ModelError

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stage on parts, and one on the model that it leaves."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    config = TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=24,
        batch=4,
        template="vicuna",
        optimiser=Optimiser(lr=1e-2),
    )
    train(config, folder / "align", device="cpu")
    return replace(config, lora=LoraSpec(rank=4, alpha=8))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("is_assembled", [True, False], ids=["parts", "folder"])
def test_gradient_flows_through_a_frozen_quantised_base(
    tmp_path, made, bits, is_assembled, monkeypatch
):
    kept = {}

    def attached(model, config, seed):
        kept["model"] = model
        return attach(model, config, seed)

    monkeypatch.setattr("vlforge.training.loop.attach", attached)
    config = replace(made, quantise=bits, samples=48)
    if not is_assembled:
        align = Path(made.model.vision).parent / "align"
        config = replace(config, model=str(align))
    train(config, tmp_path, device="cpu")
    layers = dict(kept["model"].language.named_modules())
    kind = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[bits]
    assert sum(type(layer).__name__ == kind for layer in layers.values()) == 28
    assert type(layers["lm_head"]).__name__ == "Linear"
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["loss"] < steps[0]["loss"]
    state = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert all(tensor.abs().sum() > 0 for tensor in state.values())
    assert "quantization_config" not in (tmp_path / "adapted.json").read_text()
    whole = load_model(tmp_path, device="cpu").model
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    small = load_model(tmp_path, device="cpu", quantise=bits).model
    kinds = {type(m).__name__ for m in small.language.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_an_interrupted_quantised_stage_ends_with_the_same_bytes(tmp_path, made, bits):
    config = replace(made, quantise=bits, save_every_samples=8)
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(4):
        train(config, tmp_path / "cut", device="cpu")
    train(config, tmp_path / "cut", device="cpu")
    for name in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_bits_without_bitsandbytes_are_one_clear_line(tmp_path, made, monkeypatch):
    monkeypatch.setattr("vlforge.inference.placing.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs bitsandbytes: pip install"):
        train(replace(made, quantise="4bit"), tmp_path, device="cpu")
