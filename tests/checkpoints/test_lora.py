import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vlforge.checkpoints.lora import gather, open_adapter, read_settings
from vlforge.checkpoints.weights import Lazy
from vlforge.types import ModelError


class Net(nn.Module):
    """An embedding and two linear layers of other shapes."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 4, bias=False)

    def forward(self, ids):
        return self.second(self.first(self.table(ids)).relu())


def trained(tmp_path, **settings):
    """A base, its adapter on disk with random numbers, and what peft merges them to."""
    torch.manual_seed(0)
    net = Net()
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    config = peft.LoraConfig(
        r=3, lora_alpha=5, **{"target_modules": ["first", "second"], **settings}
    )
    model = peft.get_peft_model(net, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data.normal_()
        if "magnitude" in name:
            parameter.data.mul_(1.3)
    model.save_pretrained(tmp_path)
    return base, model.merge_and_unload().state_dict()


def lazies(tensors):
    return {name: Lazy.of(tensor, name) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": ["table", "second"]},
        {"alpha_pattern": {"first": 9}, "rank_pattern": {"second": 2}},
        {"modules_to_save": ["table"]},
    ],
    ids=["plain", "rslora", "dora", "embedding", "patterns", "whole modules"],
)
def test_a_merged_weight_is_pefts(tmp_path, settings):
    base, wanted = trained(tmp_path, **settings)
    merged = open_adapter(tmp_path).onto(lazies(base))
    assert set(merged) == set(wanted)
    for name, lazy in merged.items():
        torch.testing.assert_close(lazy.read(), wanted[name], atol=1e-6, rtol=0)
        assert lazy.shape == tuple(wanted[name].shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(tmp_path, dtype):
    base, _ = trained(tmp_path)
    half = {name: tensor.to(dtype) for name, tensor in base.items()}
    adapter = open_adapter(tmp_path)
    found = adapter.onto(lazies(half))["first.weight"].read()
    exact = half["first.weight"].float() + adapter.pairs["first.weight"].delta()
    assert torch.equal(found, exact.to(dtype))
    whole = adapter.onto(lazies(half))["first.weight"].to(torch.float32).read()
    assert torch.equal(whole, exact)


def test_names_with_an_adapters_own_are_the_same(tmp_path):
    trained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    named = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    found = gather(lazies(named), read_settings(tmp_path))
    assert set(found.pairs) == {"first.weight", "second.weight"}
    assert torch.equal(
        found.pairs["first.weight"].delta(), open_adapter(tmp_path).pairs["first.weight"].delta()
    )


def spoil(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def refusal(folder, base):
    with pytest.raises(ModelError) as error:
        open_adapter(folder).onto(lazies(base))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    base, _ = trained(tmp_path)
    assert "no place in the base" in refusal(tmp_path, {"first.weight": base["first.weight"]})
    wider = base | {"first.weight": torch.zeros(10, 7)}
    assert "another base" in refusal(tmp_path, wider)


def test_half_a_pair_is_refused(tmp_path):
    base, _ = trained(tmp_path)
    spoil(tmp_path, lambda tensors: tensors.pop("base_model.model.first.lora_B.weight"))
    assert "stands alone" in refusal(tmp_path, base)


def test_other_adapters_and_missing_files_are_refused(tmp_path):
    base, _ = trained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model" in refusal(tmp_path, base)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    assert "type IA3" in refusal(tmp_path, base)
    (tmp_path / "adapter_config.json").write_text("{")
    assert "cannot be read" in refusal(tmp_path, base)
