from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny_model import SPEC, llava
from vlforge.kernels.cpu_products import plain_attention
from vlforge.models.cost import model_cost, vision_cost
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.types import ModelError

PARTS = ("vision", "connector", "language")


@pytest.mark.parametrize("vision", ["small", "clip"])
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
def test_parameters_are_those_of_the_model(vision, connector):
    model = llava(vision, connector=connector)
    cost = model_cost(model.config.to_dict())
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    sizes = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS}
    assert {part: cost.trainable([part]) for part in PARTS} == sizes


@pytest.mark.parametrize("vision", ["small", "clip"])
def test_flops_of_a_forward_pass_are_those_counted_by_torch(vision):
    model = llava(vision)
    cost = model_cost(model.config.to_dict())
    side = model.vision.image_size
    ids = torch.tensor([[1, 5, -200, 7, 8, 9, 4]])
    labels = torch.tensor([[-100] * 4 + [8, 9, 4]])
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention.
    with torch.no_grad(), plain_attention(model, longest=20), counter:
        model.loss_sum(model.splice(ids, torch.randn(1, 3, side, side), labels=labels))
    told = cost.sample_flops(text_tokens=6, supervised=3, images=1, train=())
    # torch counts the whole attention square; a causal model needs half of it.
    length = 6 + model.image_tokens
    told += length * length / 2 * cost.language.attention_flops
    assert counter.get_total_flops() == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, residual=((), (3, 1))), replace(SPEC, norm="batch", place_std=0.3)]
)
def test_the_small_encoder_costs_what_its_stages_do(spec):
    model = SmallVisionModel(SmallVisionConfig.of(spec)).eval()
    cost = vision_cost(model.config.to_dict())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        tokens = model(torch.randn(1, 3, 16, 16))
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert counter.get_total_flops() == cost.flops
    assert (cost.tokens, cost.width) == tokens.shape[1:]


def test_training_costs_three_times_the_forward_pass_of_what_trains():
    cost = model_cost(llava().config.to_dict())
    forward = cost.sample_flops(10, 5, 1, ())
    assert cost.sample_flops(10, 5, 1, PARTS) == pytest.approx(3 * forward)
    only_connector = cost.sample_flops(10, 5, 1, ("connector",))
    assert forward < only_connector < 2.2 * forward


def test_an_unknown_encoder_is_named():
    with pytest.raises(ModelError, match="siglip"):
        vision_cost({"model_type": "siglip"})
