import pytest

from tests.tiny_model import llava
from vlforge.models.base import PARTS
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze, optimiser_groups
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
