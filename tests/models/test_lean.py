"""What is left out or made twice changes neither the loss nor a gradient."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.convnext.modeling_convnext import ConvNextDropPath

from tests.families import FAMILIES, made
from tests.models.kept import kept_bytes
from tests.tiny_model import SPEC, llava
from tests.tiny_qwen import model as qwen_vl
from vlforge.kernels.lean_loss import lean_loss, supervised_places
from vlforge.models.config import Lean
from vlforge.models.lean import apply_lean
from vlforge.models.parts.last_rows import Asked, last_rows
from vlforge.models.parts.packs import pack_plan
from vlforge.models.parts.recompute import layers_of
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel

PARTS = ("vision", "connector", "language")
NEAR = 1e-5
"""Norms and the loss are computed in fp32 whatever the weights are in."""
ALL = Lean(last_layer_rows=True)
NONE = Lean(False, False, False, False)
LEARNING = [("connector",), ("connector", "language"), PARTS]
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0,
}  # fmt: skip
DECODERS = {
    "llama": LlamaConfig, "mistral": MistralConfig, "gemma": GemmaConfig, "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
    "qwen2": Qwen2Config, "qwen3": Qwen3Config, "phi": PhiConfig, "phi3": Phi3Config,
}  # fmt: skip


def batch(model, packed=False):
    """Two rows of unequal length, one picture each, some tokens supervised."""
    torch.manual_seed(1)
    ids = torch.tensor([[1, -200, 5, 6, 7, 8], [1, 9, -200, 7, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 6, 7, 8], [-100] * 3 + [7, -100, -100]])
    mask = ids != 0
    side = model.image_size
    sizes = [(side, side)] * 2 if model.needs_sizes else None
    tiles = 2
    if sizes is not None:
        tiles = sum(model.tiling.tiles(size) for size in sizes)
    pixels = torch.randn(tiles, 3, side, side)
    spliced = model.splice(ids, pixels, sizes=sizes, labels=labels, mask=mask).plan
    plan = pack_plan(spliced, [[0, 1]]) if packed else spliced
    return {"plan": plan, "ids": ids, "pixels": pixels, "sizes": sizes}


def learns(model, train):
    """Let the named parts learn, in the modes that training has."""
    unused = model.unused_parameters
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.split(".")[0] in train and name not in unused)
    for part in PARTS:
        getattr(model, part).train(part in train)
    model.training = True


def step(model, given):
    """Loss and gradients, random numbers from the same start."""
    torch.manual_seed(7)
    model.zero_grad()
    given = given | {"pixels": given["pixels"].clone()}
    loss = model.loss_sum(model.lay_out(**given))
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found


def apart(one, two):
    """The largest difference of losses and of gradients, relative to the largest gradient."""
    assert one[1]
    assert one[1].keys() == two[1].keys()
    scale = max(float(g.abs().max()) for g in two[1].values())
    gaps = [float((one[1][name] - two[1][name]).abs().max()) / scale for name in one[1]]
    return max(float((one[0] - two[0]).abs()) / float(two[0].abs()), *gaps)


@pytest.mark.parametrize("train", LEARNING, ids="-".join)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_out_changes_no_number(name, train):
    model = made(name).model.double()
    learns(model, train)
    given = batch(model)
    apply_lean(model, NONE)
    whole = step(model, given)
    for lean in (ALL, Lean(False), Lean(True, False), Lean(True, True, False), Lean()):
        apply_lean(model, lean)
        assert apart(step(model, given), whole) < NEAR, lean


@pytest.mark.parametrize("name", ["llava", "minigpt4", "qwen_vl"])
def test_packed_rows_are_left_out_too(name):
    model = made(name).model.double()
    learns(model, PARTS[1:])
    given = batch(model, packed=True)
    apply_lean(model, NONE)
    whole = step(model, given)
    apply_lean(model, ALL)
    assert apart(step(model, given), whole) < NEAR


@pytest.mark.parametrize(
    ("kind", "way"),
    [(k, "eager") for k in DECODERS] + [(k, "sdpa") for k in DECODERS if k != "gemma2"],
)
def test_the_last_layer_of_every_decoder_may_see_supervised_rows_alone(kind, way):
    torch.manual_seed(0)
    config = DECODERS[kind](**TEXT | {"attn_implementation": way})
    if kind == "phi":
        config.resid_pdrop = 0.3
    model = AutoModelForCausalLM.from_config(config).double().train()
    labels = torch.full((3, 9), -100)
    labels[0, 5:], labels[2, 3:5] = 4, 5
    x = torch.randn(3, 9, 32, dtype=torch.double, requires_grad=True)
    rows = last_rows(model.get_decoder())
    asked = Asked(supervised_places(labels), labels.numel())
    seen = []
    mlp = model.get_decoder().layers[-1].mlp
    mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].numel() // 32))

    def work(asked):
        torch.manual_seed(3)
        model.zero_grad()
        x.grad = None
        with rows.only(asked):
            hidden = model.get_decoder()(inputs_embeds=x, use_cache=False).last_hidden_state
        loss = lean_loss(model.get_output_embeddings(), hidden, labels)
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return loss.detach(), grads | {"x": x.grad.clone()}

    assert apart(work(asked), work(None)) < NEAR
    assert seen == [6, 27]


def test_what_drops_out_at_random_sees_all_rows():
    decoder = AutoModelForCausalLM.from_config(LlamaConfig(**TEXT)).model.train()
    decoder.layers[-1].mlp = nn.Sequential(decoder.layers[-1].mlp, nn.Dropout(0.5))
    rows, seen = last_rows(decoder), []
    decoder.layers[-1].mlp.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    with rows.only(Asked(torch.tensor([2, 3]), 5)):
        decoder(inputs_embeds=torch.randn(1, 5, 32))
        decoder.eval()(inputs_embeds=torch.randn(1, 5, 32))
    rows.remove()
    decoder(inputs_embeds=torch.randn(1, 5, 32))
    assert seen == [(1, 5, 32), (2, 32), (1, 5, 32)]


def test_a_layer_that_may_not_is_left_alone():
    config = LlamaConfig(**TEXT)
    config.model_type = "unheard_of"
    assert last_rows(AutoModelForCausalLM.from_config(LlamaConfig(**TEXT)).model) is not None
    decoder = AutoModelForCausalLM.from_config(LlamaConfig(**TEXT)).model
    decoder.config = config
    assert last_rows(decoder) is None


def test_nothing_supervised_still_reaches_every_weight():
    model = made("llava").model
    learns(model, PARTS[1:])
    given = batch(model)
    given["plan"].labels.fill_(-100)
    apply_lean(model, ALL)
    loss, grads = step(model, given)
    assert loss == 0
    assert grads.keys() == {n for n, p in model.named_parameters() if p.requires_grad}


def size_of(model, given):
    """Of what autograd keeps of a loss."""
    return kept_bytes(model, lambda: model.loss_sum(model.lay_out(**given)))


@pytest.mark.parametrize("train", LEARNING, ids="-".join)
@pytest.mark.parametrize("name", FAMILIES)
def test_layers_computed_twice_give_the_same_bits(name, train):
    model = made(name).model
    learns(model, train)
    given = batch(model)
    apply_lean(model, ALL)
    once = step(model, given)
    for parts in (("language",), ("vision", "language"), ("vision",)):
        counts = apply_lean(model, ALL, parts)
        assert set(counts) == set(parts)
        assert all(counts.values())
        twice = step(model, given)
        assert torch.equal(twice[0], once[0])
        assert twice[1].keys() == once[1].keys()
        assert all(torch.equal(twice[1][n], once[1][n]) for n in once[1]), parts
    apply_lean(model, ALL)
    assert torch.equal(step(model, given)[0], once[0])


def test_dropout_and_drop_path_are_the_same_the_second_time():
    model = made("mgm").model
    for stage in model.vision.high.tower.encoder.stages:
        for layer in stage.layers:
            layer.drop_path = ConvNextDropPath(0.5)
    model.language.config.attention_dropout = 0.4
    for layer in model.language.model.layers:
        layer.self_attn.attention_dropout = 0.4
    learns(model, PARTS)
    given = batch(model)
    apply_lean(model, Lean())
    once = step(model, given)
    again = step(model, given)
    assert torch.equal(once[0], again[0])
    apply_lean(model, Lean(), ("vision", "language"))
    twice = step(model, given)
    assert torch.equal(twice[0], once[0])
    assert all(torch.equal(twice[1][n], once[1][n]) for n in once[1])
    torch.manual_seed(8)
    assert not torch.equal(model.loss_sum(model.lay_out(**given)), once[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_computed_twice_keep_less(name):
    model = made(name).model
    learns(model, PARTS)
    given = batch(model)
    sizes = []
    for parts in ((), ("language",), ("vision", "language")):
        apply_lean(model, ALL, parts)
        sizes.append(size_of(model, given))
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_frozen_decoder_behind_a_connector_is_computed_twice_and_does_not_drop():
    model = made("llava").model
    for layer in model.language.model.layers:
        layer.self_attn.attention_dropout = 0.9
    learns(model, ("connector",))
    given = batch(model)
    apply_lean(model, Lean())
    once, size = step(model, given), size_of(model, given)
    assert apply_lean(model, Lean(), ("language",)) == {"language": 2}
    assert torch.equal(step(model, given)[0], once[0])
    assert size_of(model, given) < size
    apply_lean(model, Lean())
    assert not any(layer.training for layer in model.language.model.layers)


def test_a_batch_that_counts_itself_is_not_computed_twice():
    model = llava("small")
    model.vision.tower = SmallVisionModel(SmallVisionConfig.of(replace(SPEC, norm="batch")))
    learns(model, PARTS)
    assert apply_lean(model, Lean(), ("vision",)) == {"vision": 0}
    learns(model, ("connector",))
    assert apply_lean(model, Lean(), ("vision",)) == {"vision": 2}


def test_layers_are_found_in_every_family():
    found = {name: {p: len(found) for p, found in layers_of(made(name).model).items()}
             for name in FAMILIES}  # fmt: skip
    assert all(counts["vision"] and counts["language"] for counts in found.values()), found
    assert layers_of(qwen_vl())["language"]
