"""Published adapters on models of real sizes, without memory: how many weights learn."""

import pytest
import torch

from vlforge.checkpoints.checkpoint import meta_model
from vlforge.models.families import find_family
from vlforge.models.sizes import SIZES
from vlforge.training.adapters import attach, facts
from vlforge.training.config import LoraSpec, TrainConfig
from vlforge.training.loop import choose


def adapted(size: str, **settings):
    family = SIZES[size]["model_type"].removeprefix("vlforge_")
    model = meta_model(find_family(family).config_class.from_dict(dict(SIZES[size])))
    config = TrainConfig(model="", data="", **settings)
    with torch.device("meta"):
        return model, config, attach(model, config, seed=0)


def test_the_ad_captions_adapter_has_its_published_weights():
    lora = LoraSpec(rank=64, alpha=16, targets="ad_captions")
    model, config, adapters = adapted("qwen-vl-7b", lora=lora, train=())
    assert facts(adapters)["language"] == {"layers": 128, "weights": 112_197_632}
    names = choose(config, model, adapters)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(sizes[name] for name in names) == 112_197_632


@pytest.mark.parametrize(
    ("size", "part", "targets", "rank", "weights"),
    [
        # Layers x rank x (inputs + outputs), summed over the layer's matrices.
        ("llava-1.5-7b", "lora", "all_linear", 128, 32 * 128 * (4 * 8192 + 3 * (4096 + 11008))),
        ("llava-1.5-7b", "vision_lora", "clip", 64, 24 * 64 * (4 * 2048 + 2 * (1024 + 4096))),
        ("qwen-vl-7b", "lora", "qwen", 64, 112_197_632),
    ],
    ids=["LLaVA", "XTuner's encoder", "Qwen-VL's own"],
)
def test_published_sets_on_real_sizes(size, part, targets, rank, weights):
    _, _, adapters = adapted(size, **{part: LoraSpec(rank=rank, targets=targets)})
    (found,) = facts(adapters).values()
    assert found["weights"] == weights


@pytest.mark.parametrize("size", ["minigpt4-7b", "mgm-2b", "llava-internlm2-7b", "mgm-8x7b"])
def test_all_linear_leaves_every_output_layer_out(size):
    model, _, adapters = adapted(size, lora=LoraSpec(rank=2))
    head = model.language.get_output_embeddings()
    assert adapters[0].layers
    assert not any(".lora_" in name for name, _ in head.named_parameters())


@pytest.mark.parametrize("size", ["llava-1.5-7b", "mgm-2b", "minigpt4-7b", "qwen-vl-7b"])
def test_encoders_of_every_family_take_an_adapter_apart(size):
    lora, vision_lora = LoraSpec(rank=2), LoraSpec(rank=4)
    model, config, adapters = adapted(size, lora=lora, vision_lora=vision_lora)
    names = choose(config, model, adapters)
    ranks = {
        name.partition(".")[0]: min(parameter.shape)
        for name, parameter in model.named_parameters()
        if ".lora_A" in name and name in set(names)
    }
    assert ranks == {"language": 2, "vision": 4}
    assert not any(".lora_" in name for name, _ in model.connector.named_parameters())
    assert all(".lora_" in name for name in names if not name.startswith("connector"))
