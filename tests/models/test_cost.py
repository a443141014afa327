"""What a model costs is told from its configuration, and holds for the model itself."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config

from tests.models.kept import kept_bytes
from tests.models.plain_minigpt4 import tiny as minigpt4
from tests.tiny_mgm import mgm
from tests.tiny_model import SPEC, llava
from vlforge.kernels.cpu_products import plain_attention
from vlforge.models.config import Lean
from vlforge.models.cost import model_cost
from vlforge.models.families import family_of, find_family
from vlforge.models.lean import apply_lean
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.part_costs import convnext_cost, language_cost, mining_cost, vision_cost
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.sizes import SIZES
from vlforge.types import ModelError

PARTS = ("vision", "connector", "language")


@pytest.mark.parametrize("name", SIZES)
def test_weights_of_published_models_are_told_to_the_last_one(name):
    family = find_family(family_of(SIZES[name]["model_type"]))
    config = family.config_class.from_dict(dict(SIZES[name]))
    with torch.device("meta"):
        model = family(config)
    cost = model_cost(SIZES[name])
    assert cost == model.cost()
    assert cost.parameters == sum(weight.numel() for weight in model.parameters())


def test_published_numbers_come_out():
    assert model_cost(SIZES["minigpt4-7b"]).trainable(["connector"]) == 3_149_824
    assert model_cost(SIZES["minigpt4-13b"]).trainable(["connector"]) == 3_937_280
    mgm_2b = model_cost(SIZES["mgm-2b"])
    assert mgm_2b.vision.flops == pytest.approx((365 + 808) * 1e9, rel=0.01)
    assert model_cost(SIZES["mgm-7b-hd"]).image_tokens == 2880
    # The lean TFLOPs of one training sample, reckoned elsewhere with assumed lengths.
    assert mgm_2b.sample_flops(64, 60, 1, ["connector"]) == pytest.approx(6.3e12, rel=0.05)
    llava_7b = model_cost(SIZES["llava-1.5-7b"])
    assert llava_7b.sample_flops(254, 120, 1, ["connector", "language"]) == pytest.approx(
        32.7e12, rel=0.05
    )
    kept = model_cost(SIZES["mgm-2b"]).language.saved * 2
    assert kept == pytest.approx(2.2e6, rel=0.05)  # bytes a token of a frozen Gemma-2B


def test_mining_folded_takes_a_fiftieth_of_the_products():
    low = vision_cost(SIZES["mgm-2b"]["vision_config"])
    high = convnext_cost(SIZES["mgm-2b"]["vision_high_config"], 768)
    folded, published = (
        mining_cost(low, high, 1, "identity", 1024, folded=way).flops for way in (True, False)
    )
    assert published == pytest.approx(435e9, rel=0.01)
    assert published > 50 * folded


@pytest.mark.parametrize("vision", ["small", "clip"])
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
def test_parameters_are_those_of_the_model(vision, connector):
    model = llava(vision, connector=connector)
    cost = model_cost(model.config.to_dict())
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    sizes = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS}
    assert {part: cost.trainable([part]) for part in PARTS} == sizes


@pytest.mark.parametrize(
    "lean",
    [Lean(), Lean(last_layer_rows=True), Lean(supervised_head=False), Lean(unused_layers=False)],
)
@pytest.mark.parametrize("vision", ["small", "clip"])
def test_flops_of_a_forward_pass_are_those_counted_by_torch(vision, lean):
    model = llava(vision)
    apply_lean(model, lean)
    cost = model_cost(model.config.to_dict())
    side = model.vision.image_size
    ids = torch.tensor([[1, 5, -200, 7, 8, 9, 4]])
    labels = torch.tensor([[-100] * 4 + [8, 9, 4]])
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention.
    with torch.no_grad(), plain_attention(model, longest=20), counter:
        model.loss_sum(model.splice(ids, torch.randn(1, 3, side, side), labels=labels))
    told = cost.sample_flops(text_tokens=6, supervised=3, images=1, train=(), lean=lean)
    # torch counts the whole attention square; a causal model needs half of it.
    length = 6 + model.image_tokens
    told += length * length / 2 * cost.language.attention_flops
    assert counter.get_total_flops() == pytest.approx(told, rel=0.02)


def counted(work, *inputs):
    """FLOPs of a call; the counter knows attention only where it is done in single products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        made = work(*inputs)
    return counter.get_total_flops(), made


@pytest.mark.parametrize("name", ["llava-1.5-7b", "mgm-2b", "mgm-7b-hd", "qwen-vl-7b"])
def test_encoders_of_published_models_cost_what_torch_counts(name):
    family = find_family(family_of(SIZES[name]["model_type"]))
    config = family.config_class.from_dict(dict(SIZES[name]))
    with torch.device("meta"):
        model, pixels = family(config).eval(), torch.randn(1, 3, *[config_side(config)] * 2)
    found, _ = counted(model.vision, pixels)
    assert model.cost().vision.flops == found


def config_side(config):
    return getattr(config, "image_size_high", config.vision_config.image_size)


def test_minigpt4_costs_what_torch_counts():
    model = minigpt4().eval()
    side = model.image_size
    found, tokens = counted(model.encode_images, torch.randn(1, 3, side, side))
    cost = model.cost()
    assert found == cost.vision.flops + cost.connector.flops
    assert tokens.shape[1] == cost.image_tokens


def test_folded_mining_costs_what_torch_counts():
    sizes = {"hidden_sizes": [48, 96, 192, 384], "depths": [1, 1, 1, 1]}
    model = mgm(high=sizes, image_size_high=256).eval()
    side = model.image_size
    _, features = counted(model.vision, torch.randn(1, 3, side, side))
    found, tokens = counted(model.project, features)
    cost = model.cost()
    assert tokens.shape[1] == cost.image_tokens
    # Scores are taken on the small maps; how they are brought to one size is not counted.
    assert cost.connector.flops == pytest.approx(found, rel=0.5)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config, Phi3Config])
def test_decoders_have_as_many_weights_as_told(kind):
    from transformers import AutoModelForCausalLM

    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0,
    }  # fmt: skip
    config = kind(**sizes)
    model = AutoModelForCausalLM.from_config(config)
    told = language_cost(config.to_dict())
    assert told.parameters == sum(weight.numel() for weight in model.parameters())


TWICE = [(), ("language",), ("vision", "language")]
ROWS = Lean(last_layer_rows=True)


@pytest.mark.parametrize("twice", TWICE, ids=["once", "language", "both"])
@pytest.mark.parametrize("lean", [Lean(), ROWS, Lean(supervised_head=False)])
@pytest.mark.parametrize("train", [PARTS[1:2], PARTS[1:], PARTS])
def test_memory_is_what_autograd_keeps(train, lean, twice):
    torch.manual_seed(0)
    clip = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        image_size=64, patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=500, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model = LlavaModel(LlavaConfig(vision_config=clip, text_config=text)).to(torch.bfloat16)
    for part in PARTS:
        getattr(model, part).requires_grad_(part in train)
    for name, weight in model.named_parameters():
        weight.requires_grad_(weight.requires_grad and name not in model.unused_parameters)
    apply_lean(model, lean, twice)
    ids = torch.tensor([[1, -200] + [5] * 62])
    labels = torch.full_like(ids, -100)
    labels[:, 34:] = 5
    pixels = torch.randn(1, 3, 64, 64)
    found = kept_bytes(model, lambda: model.loss_sum(model.splice(ids, pixels, labels=labels)))
    told = model.cost().sample_bytes(63, 30, 1, train, twice, lean)
    if not twice:
        assert told == pytest.approx(found, rel=0.05)
    else:  # and one layer at a time besides
        assert found < told < found + model.cost().sample_bytes(63, 30, 1, train) / 3


def test_checkpointing_keeps_the_inputs_of_layers_only():
    cost = model_cost(SIZES["llava-1.5-7b"])
    whole = cost.sample_bytes(254, 120, 1, PARTS[1:])
    assert cost.sample_bytes(254, 120, 1, PARTS[1:], checkpointing=("language",)) < whole / 8


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
    with pytest.raises(ModelError, match="'vit'"):
        vision_cost({"model_type": "vit"})
