from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.tiny_model import CLIP, SPEC
from vlforge.models.config import SmallVisionSpec
from vlforge.models.parts.connector import build_connector
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.vision import VisionTower, vision_config
from vlforge.types import ModelError


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("linear", {"weight", "bias"}),
        ("mlp1x_gelu", {"0.weight", "0.bias"}),
        ("mlp2x_gelu", {"0.weight", "0.bias", "2.weight", "2.bias"}),
        ("mlp3x_gelu", {f"{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")}),
    ],
)
def test_connector_keys_are_llavas(kind, keys):
    connector = build_connector(kind, 6, 8)
    assert set(connector.state_dict()) == keys
    assert connector(torch.randn(2, 3, 6)).shape == (2, 3, 8)


def test_the_connectors_gelu_is_the_exact_one():
    connector = build_connector("mlp2x_gelu", 4, 4)
    x = torch.randn(5, 4)
    inner = x @ connector[0].weight.T + connector[0].bias
    exact = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    wanted = exact @ connector[2].weight.T + connector[2].bias
    torch.testing.assert_close(connector(x), wanted)


def test_identity_keeps_tokens_and_refuses_unequal_widths():
    x = torch.randn(2, 3, 6)
    assert torch.equal(build_connector("identity", 6, 6)(x), x)
    with pytest.raises(ModelError, match="6 differs from language width 8"):
        build_connector("identity", 6, 8)


@pytest.mark.parametrize("kind", ["mlp0x_gelu", "mlp2x_relu", "qformer", ""])
def test_an_unknown_connector_is_named(kind):
    with pytest.raises(ModelError, match="is unknown; take linear"):
        build_connector(kind, 6, 8)


@pytest.mark.parametrize("select_layer", [-3, -2, -1, 0, 1, 3])
def test_selected_features_are_transformers_hidden_states(select_layer):
    torch.manual_seed(0)
    config = CLIPVisionConfig(**CLIP)
    clip = CLIPVisionModel(config).eval()
    pixels = torch.randn(2, 3, 8, 8)
    wanted = clip(pixels, output_hidden_states=True).hidden_states[select_layer]
    for feature, tokens in (("patch", wanted[:, 1:]), ("cls_patch", wanted)):
        tower = VisionTower(config, select_layer, feature).eval()
        tower.load(clip)
        torch.testing.assert_close(tower(pixels), tokens, atol=1e-6, rtol=0)
        assert tower.tokens == tokens.shape[1]


def test_layers_behind_the_selected_one_are_not_run_and_do_not_train():
    tower = VisionTower(CLIPVisionConfig(**CLIP), select_layer=-2)
    ran = []
    for number, layer in enumerate(tower.tower.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    tower(torch.randn(1, 3, 8, 8)).sum().backward()
    assert ran == [0, 1]
    unused = tower.unused_parameters()
    assert {name for name, p in tower.named_parameters() if p.grad is None} == unused
    assert not any(p.requires_grad for name, p in tower.named_parameters() if name in unused)


def test_a_layer_outside_the_encoder_is_refused():
    with pytest.raises(ModelError, match="select_layer -5 is outside an encoder of 3 layers"):
        VisionTower(CLIPVisionConfig(**CLIP), select_layer=-5)


def test_a_whole_clip_gives_its_tower_and_others_are_named():
    whole = {"model_type": "clip", "vision_config": CLIP}
    assert vision_config(whole).hidden_size == CLIP["hidden_size"]
    with pytest.raises(ModelError, match="'vit' is unknown; known: clip, clip_vision_model"):
        vision_config({"model_type": "vit"})


def test_small_tokens_keep_their_place():
    torch.manual_seed(0)
    model = SmallVisionModel(SmallVisionConfig.of(SPEC)).eval()
    with torch.no_grad():
        before = model(torch.zeros(1, 3, 16, 16))
        lit = torch.zeros(1, 3, 16, 16)
        lit[..., 12:, 12:] = 1.0
        moved = (model(lit) - before).abs().sum(-1)[0].reshape(4, 2)
    assert before.shape == (1, model.config.tokens, model.config.hidden_size) == (1, 8, 32)
    assert moved[3, 1] == moved.max()


@pytest.mark.parametrize(("size", "merge"), [(60, 2), (64, 3), (4, 1)])
def test_a_map_that_does_not_divide_is_refused(size, merge):
    with pytest.raises(ModelError, match="take a multiple of"):
        SmallVisionConfig.of(SmallVisionSpec(image_size=size, merge=merge))


@pytest.mark.parametrize(
    ("residual", "match"), [(((3, 3),), "1 entries for 2 stages"), (((3,), (2,)), "not odd")]
)
def test_kernels_that_do_not_fit_the_stages_are_refused(residual, match):
    with pytest.raises(ModelError, match=match):
        SmallVisionConfig.of(replace(SPEC, residual=residual))


@pytest.mark.parametrize(
    "spec", [SPEC, replace(SPEC, norm="batch"), replace(SPEC, residual=((), (3, 1)))]
)
def test_the_small_encoder_survives_a_folder(tmp_path, spec):
    model = SmallVisionModel(SmallVisionConfig.of(spec))
    model(torch.randn(8, 3, 16, 16))  # moves the running means, where there are any
    model.eval()
    nn.init.normal_(model.position)
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(SmallVisionModel.from_pretrained(tmp_path).eval()(pixels), model(pixels))
