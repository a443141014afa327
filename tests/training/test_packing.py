"""Packed samples are what they are alone; packs are full."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import MistralConfig, Qwen2VLTextConfig, Qwen3NextConfig, Qwen3VLTextConfig

from tests import tiny_qwen
from tests.models.plain_minigpt4 import tiny as minigpt4
from tests.tiny_mgm import mgm
from tests.tiny_model import llava
from vlforge.models.parts.packs import check_packable, pack_plan, packed_inputs
from vlforge.models.parts.splice import plan_splice
from vlforge.training.packing import plan_packs
from vlforge.types import DataError, ModelError

MODELS = {
    "llava": lambda: llava("clip"),
    "mgm": lambda: mgm("llama"),
    "mgm-gemma": lambda: mgm("gemma"),
    "mgm-mixtral": lambda: mgm("mixtral"),
    "minigpt4": lambda: minigpt4(max_position_embeddings=256),
    "qwen_vl": lambda: tiny_qwen.model(),
}
ROWS = (
    [1, -200, 5, 6, 7, 2],
    [1, 9, 8, 2],
    [3],
    [1, 4, -200, -200, 11, 12, 13, 2],
    [1, 14, 15, 16, 17, 18, 19, 2],
)
PACKS = [[0, 2, 4], [3], [1]]


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_a_packed_sample_is_what_it_is_alone(name, way):
    model = MODELS[name]()
    model.language.get_decoder().config._attn_implementation = way
    alone = [run(model, [number], None) for number in range(len(ROWS))]
    packed = run(model, range(len(ROWS)), PACKS)
    for number, (logits, _, _) in enumerate(alone):
        pack = next(place for place, pack in enumerate(PACKS) if number in pack)
        start = sum(alone[row][0].shape[1] for row in PACKS[pack] if row < number)
        here = packed[0][pack, start : start + logits.shape[1]]
        torch.testing.assert_close(here, logits[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[1], sum(loss for _, loss, _ in alone), atol=1e-4, rtol=1e-5)
    for key, grad in packed[2].items():
        wanted = sum(grads[key] for _, _, grads in alone)
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(grad / scale, wanted / scale, atol=1e-5, rtol=1e-4, msg=key)


def run(model, rows, packs):
    """Logits, summed loss and gradients of connector and language model."""
    chosen = [ROWS[row] for row in rows]
    longest = max(map(len, chosen))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in chosen])
    mask = torch.tensor([[n < len(row) for n in range(longest)] for row in chosen])
    labels = ids.where((ids > 4) & mask, torch.tensor(-100))
    numbers = [row * 2 + n for row in rows for n in range(ROWS[row].count(-200))]
    plan = plan_splice(ids, [model.image_tokens] * len(numbers), labels=labels, mask=mask)
    plan = pack_plan(plan, packs) if packs else plan
    pixels = torch.stack([picture(model, n) for n in numbers]) if numbers else None
    model.zero_grad()
    spliced = model.lay_out(plan, ids, pixels)
    loss = model.loss_sum(spliced)
    loss.backward()
    placed = packed_inputs(model.language.get_decoder(), plan, torch.float32) if packs else {}
    with torch.no_grad():
        logits = model.language(inputs_embeds=spliced.embeds, **placed).logits
    parts = {"connector": model.connector, "language": model.language}
    grads = {
        f"{part}.{key}": torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for part, module in parts.items()
        for key, p in module.named_parameters()
    }
    return logits, loss.detach(), grads


def picture(model, number):
    side = model.image_size
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(number))


def test_packs_hold_every_sample_once_and_waste_little():
    draw = random.Random(0)
    lengths = [draw.randint(1, 100) for _ in range(500)]
    packs = plan_packs(lengths, 128)
    assert sorted(n for pack in packs for n in pack) == list(range(500))
    assert max(sum(lengths[n] for n in pack) for pack in packs) <= 128
    assert len(packs) <= 1.02 * sum(lengths) / 128
    assert packs == plan_packs(lengths, 128)


@pytest.mark.parametrize(
    ("lengths", "packs"),
    [([5, 5], [[0, 1]]), ([6, 5], [[0], [1]]), ([7, 2, 3, 8], [[0, 2], [1, 3]]), ([], [])],
)
def test_best_fit(lengths, packs):
    assert plan_packs(lengths, 10) == packs


def test_a_sample_longer_than_a_pack_is_named():
    with pytest.raises(DataError, match="sample 1 has 12 tokens and a pack holds 10"):
        plan_packs([3, 12, 11], 10)


class Decoder(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, inputs_embeds, position_ids):
        return inputs_embeds


MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Qwen2VLTextConfig(rope_parameters=MROPE), "mrope"),
        (Qwen3VLTextConfig(rope_parameters=MROPE), "mrope"),
        (MistralConfig(sliding_window=64), "looks back 64 tokens and a sample has 65"),
        (Qwen3NextConfig(num_hidden_layers=4), "linear_attention layers"),
    ],
)
def test_models_whose_samples_would_mix_are_refused(config, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        check_packable(Decoder(config), 65)
    assert "\n" not in str(caught.value)
    assert "pack: off" in str(caught.value)


def test_a_window_that_holds_the_longest_sample_is_no_hindrance():
    check_packable(Decoder(MistralConfig(sliding_window=64)), 64)
