import pytest

from tests.tiny_mgm import mgm
from tests.tiny_model import llava
from tests.tiny_qwen import model as qwen_vl
from vlforge.models.base import PARTS
from vlforge.training.config import Optimiser
from vlforge.training.conversations import ConversationLoss
from vlforge.training.freezing import freeze
from vlforge.training.optimiser_groups import optimiser_groups
from vlforge.types import RecipeError


def grouped(model, train=PARTS, **settings):
    """(decaying names, not decaying names, rate by name) of a model in the loop's module."""
    freeze(model, train, PARTS, model.unused_parameters)
    settings = {"weight_decay": 0.1} | settings
    groups = optimiser_groups(ConversationLoss(model), Optimiser(**settings), PARTS)
    decays, stays, rates = set(), set(), {}
    for group in groups:
        names = [name.removeprefix("model.") for name in group["names"]]
        (decays if group["weight_decay"] else stays).update(names)
        rates |= dict.fromkeys(names, group["lr"])
        assert len(names) == len(group["params"])
    return decays, stays, rates


def test_by_default_matrices_decay_and_vectors_do_not():
    model = llava("clip")
    decays, stays, _ = grouped(model)
    sizes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    assert {sizes[name] >= 2 for name in decays} == {True}
    assert {sizes[name] < 2 for name in stays} == {True}


def test_the_trainer_knew_the_norms_of_llama_and_gemma_but_not_of_mistral():
    for kind, is_known in (("llama", True), ("gemma", True), ("mistral", False)):
        decays, stays, _ = grouped(mgm(kind), groups="mgm")
        assert ("language.model.norm.weight" in stays) == is_known
        assert "language.model.layers.0.self_attn.q_proj.weight" in decays
        assert "connector.projector.0.bias" in stays
        assert "connector.miner.query.0.weight" in stays


def test_the_trainer_lets_vectors_outside_of_norms_decay():
    decays, stays, _ = grouped(llava("clip"), groups="llava")
    assert "vision.tower.embeddings.class_embedding" in decays
    assert "vision.tower.pre_layrnorm.weight" in stays
    assert not any(name.endswith("bias") for name in decays)
    high, _, _ = grouped(mgm(), groups="mgm")
    assert any(name.endswith("layer_scale_parameter") for name in high)


def test_qwens_own_norms_decay_under_its_trainer_and_paddles():
    for rule, layer_norm_decays in (("qwen", False), ("paddle", True)):
        decays, stays, _ = grouped(qwen_vl(), groups=rule)
        assert "language.transformer.h.0.ln_1.weight" in decays
        assert "language.transformer.h.0.attn.c_attn.bias" in stays
        assert ("vision.ln_pre.weight" in decays) == layer_norm_decays


def test_lavis_looks_at_dimensions_and_names():
    decays, stays, _ = grouped(qwen_vl(), groups="lavis")
    assert "language.transformer.h.0.attn.c_attn.weight" in decays
    assert "connector.attn_pool.query" in decays
    assert {"language.transformer.h.0.ln_1.weight", "vision.ln_pre.bias"} <= stays


def test_xtuner_lets_everything_decay():
    _, stays, _ = grouped(llava(), groups="xtuner")
    assert not stays


def test_published_names_give_rates_and_multiples():
    _, _, rates = grouped(
        mgm(), ("connector", "language"), groups="mgm", lr=1e-5,
        lr_multi={"model.mm_projector": 2, "model.vlm_uni": 3}, lr_parts={"lm_head": 7e-5},
    )  # fmt: skip
    assert rates["connector.projector.0.weight"] == pytest.approx(2e-5)
    assert rates["connector.miner.key.1.weight"] == pytest.approx(3e-5)
    assert rates["language.lm_head.weight"] == pytest.approx(7e-5)
    assert rates["language.model.norm.weight"] == pytest.approx(1e-5)
    _, _, rates = grouped(
        llava(), ("connector", "language"), groups="llava", lr_parts={"mm_projector": 3e-4}
    )
    assert {rate for name, rate in rates.items() if name.startswith("connector.")} == {3e-4}


def test_a_multiple_of_nothing_is_refused():
    with pytest.raises(RecipeError, match="'mm_projector' matches no parameter"):
        grouped(llava(), lr_multi={"mm_projector": 2})
