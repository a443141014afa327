import re

import pytest
import torch
from torch import nn

from tests.tiny_mgm import mgm
from tests.tiny_model import llava
from tests.tiny_qwen import model as qwen_vl
from vlforge.models.base import PARTS
from vlforge.models.stages import resolve
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze
from vlforge.training.optimiser_groups import optimiser_groups
from vlforge.training.selection import selections
from vlforge.types import RecipeError


def trainable(*train, vision="small", unused=()):
    model = llava(vision)
    names = freeze(model, train, PARTS, unused)
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]
    return model, names


def test_a_part_means_all_of_it_and_nothing_else():
    _, names = trainable("connector")
    assert names == [
        "connector.0.weight",
        "connector.0.bias",
        "connector.2.weight",
        "connector.2.bias",
    ]


def test_expressions_reach_into_parts():
    _, names = trainable(r"layers\.1\..*q_proj", "connector")
    assert "language.model.layers.1.self_attn.q_proj.weight" in names
    assert not any("layers.0" in name for name in names)


def test_frozen_modules_are_in_eval_mode_and_learning_ones_are_not():
    model, _ = trainable("connector")
    assert model.connector.training
    assert not model.vision.training
    assert not model.language.training


def test_unused_parameters_never_train():
    model = llava("clip")
    unused = {f"vision.{name}" for name in model.vision.unused_parameters()}
    _, names = trainable("vision", vision="clip", unused=unused)
    assert unused
    assert not unused & set(names)


@pytest.mark.parametrize(
    ("name", "nearest"), [("conector", "connector"), ("languge", "language"), ("visio n", "vision")]
)
def test_a_name_that_matches_nothing_tells_the_nearest(name, nearest):
    with pytest.raises(RecipeError, match=f"the nearest name is '{nearest}'"):
        trainable(name)


def test_broken_expressions_and_empty_lists_are_refused():
    with pytest.raises(RecipeError, match="no regular expression"):
        trainable("lang(")
    with pytest.raises(RecipeError, match="nothing would learn"):
        trainable()


def test_groups_carry_rates_by_part_and_decay_matrices_only():
    model, names = trainable("connector", "language")
    optimiser = Optimiser(lr=1e-3, lr_parts={"language": 1e-4, "lm_head": 5e-5}, weight_decay=0.1)
    groups = optimiser_groups(model, optimiser, PARTS)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert set(rate) == set(names)
    assert rate["connector.0.weight"] == 1e-3
    assert rate["language.model.norm.weight"] == 1e-4
    assert rate["language.lm_head.weight"] == 5e-5
    assert decay["connector.0.weight"] == 0.1
    assert decay["connector.0.bias"] == decay["language.model.norm.weight"] == 0.0


def test_a_rate_for_nothing_is_refused():
    model, _ = trainable("connector")
    with pytest.raises(RecipeError, match="'projector' matches no parameter"):
        optimiser_groups(model, Optimiser(lr_parts={"projector": 1e-4}), PARTS)


def test_a_module_without_parameters_follows_the_one_that_it_is_in():
    model, _ = trainable("connector", r"layers\.1\.")
    decoder = model.language.model
    for place in (model.connector, decoder.layers[1], decoder.layers[0], model.vision):
        place.dropout = nn.Sequential(nn.Dropout(0.5), nn.ModuleDict({"deep": nn.Dropout(0.5)}))
    freeze(model, ("connector", r"layers\.1\."), PARTS)
    learns = {id(model.connector): True, id(decoder.layers[1]): True}
    for place in (model.connector, decoder.layers[1], decoder.layers[0], model.vision):
        modes = {module.training for module in place.dropout.modules()}
        assert modes == {learns.get(id(place), False)}
    x = torch.ones(1000)
    assert (model.connector.dropout[0](x) == 0).any()
    assert torch.equal(model.vision.dropout[0](x), x)


def test_dropout_of_attention_acts_where_its_layer_learns():
    model = llava(text={"attention_dropout": 0.9})
    ids = torch.arange(3, 15)[None]
    labels = ids.clone()
    freeze(model, ("language",), PARTS)
    losses = {model.loss_sum(model.splice(ids, labels=labels)).item() for _ in range(4)}
    assert len(losses) == 4
    freeze(model, ("connector",), PARTS)
    losses = {model.loss_sum(model.splice(ids, labels=labels)).item() for _ in range(4)}
    assert len(losses) == 1


def test_what_freeze_names_stays_although_train_means_it():
    model = llava()
    names = freeze(model, ("connector", "language"), PARTS, stay=("lm_head", r"layers\.0\."))
    assert "language.model.layers.1.self_attn.q_proj.weight" in names
    assert not any("lm_head" in name or "layers.0." in name for name in names)
    assert not model.language.model.layers[0].training
    with pytest.raises(RecipeError, match="freeze: 'lm_haed' matches no parameter"):
        freeze(model, ("language",), PARTS, stay=("lm_haed",))


@pytest.mark.parametrize("make", [llava, mgm, qwen_vl])
def test_published_stages_are_names(make):
    model = make()
    known = selections(model)
    for stage, meant in model.stages.items():
        assert resolve(stage, known) == meant
        assert freeze(model, resolve(stage, known), PARTS) == freeze(model, meant, PARTS)


def test_the_last_half_of_an_encoder_is_a_name():
    model = llava("clip")
    names = freeze(model, resolve(("vision_last_half",), selections(model)), PARTS)
    layers = {name.split("layers.")[1].split(".")[0] for name in names}
    assert layers == {"1", "2"}
    assert all(name.startswith("vision.tower.") for name in names)


def test_minigeminis_towers_are_names_of_theirs_and_ours():
    model = mgm()
    known = selections(model)
    assert known["optimize_vision_tower"] == known["vision_last_half"]
    names = freeze(model, resolve(("instruct", "vision_high_last_blocks"), known), PARTS)
    towers = {name for name in names if name.startswith("vision.")}
    meant = model.published_towers(low=False)
    assert towers == {n for n, _ in model.named_parameters() if any(re.search(e, n) for e in meant)}
    assert len({name.split("stages.")[1][0] for name in towers}) == 4


def test_of_qwens_connector_the_pool_alone_can_learn():
    names = freeze(qwen_vl(), ("attn_pool",), PARTS)
    assert names
    assert all(name.startswith("connector.attn_pool.") for name in names)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_what_ends_a_line_of_tiles_learns_in_the_second_stage(stage):
    tiles = {
        "image_aspect_ratio": "anyres",
        "patch_merge": "spatial_unpad",
        "image_grid_pinpoints": [[8, 16], [16, 8]],
    }
    model = llava("clip", **tiles)
    names = freeze(model, resolve(stage, selections(model)), PARTS, model.unused_parameters)
    assert ("image_newline" in names) == (stage == "instruct")
    assert "connector.0.weight" in names
    assert ("language.lm_head.weight" in names) == (stage == "instruct")
    plain = llava("clip")
    assert "image_newline" not in freeze(plain, resolve(stage, selections(plain)), PARTS)
    assert "image_newline" not in freeze(model, ["connector"], PARTS)
