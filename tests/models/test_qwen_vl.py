from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.drift import drift
from tests.tiny_qwen import config, folder, model, published, tokenizer
from vlforge.checkpoints.checkpoint import expected, meta_model
from vlforge.checkpoints.index import read_checkpoint
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble, read_folder, write_folder
from vlforge.models.parts.qwen_lm import QwenConfig
from vlforge.models.parts.qwen_vit import QwenVitConfig, stretched
from vlforge.models.parts.resampler import Resampler, places
from vlforge.models.qwen_vl import EndAfter, QwenVlConfig, QwenVlModel
from vlforge.text.qwen_templates import QWEN_VL
from vlforge.types import ModelError, Sample, Turn

TARGETS = (r".*attn.c_attn.*", r".*attn.c_proj.*", r".*mlp.w1.*", r".*mlp.w2.*")
"""What MGen-VL's LoRA adapts, matched whole."""


def real() -> QwenVlConfig:
    return QwenVlConfig(vision_config=QwenVitConfig(), text_config=QwenConfig())


def test_the_real_model_has_the_published_names_and_sizes():
    shapes = expected(real())
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total == 9_656_935_168
    assert shapes["language.transformer.wte.weight"] == (151936, 4096)
    assert shapes["language.transformer.h.31.attn.c_attn.weight"] == (12288, 4096)
    assert shapes["language.transformer.h.31.mlp.w2.weight"] == (11008, 4096)
    assert shapes["vision.conv1.weight"] == (1664, 3, 14, 14)
    assert shapes["vision.positional_embedding"] == (256, 1664)
    assert shapes["vision.transformer.resblocks.47.attn.in_proj.weight"] == (4992, 1664)
    assert shapes["vision.transformer.resblocks.47.mlp.c_fc.weight"] == (8192, 1664)
    assert shapes["connector.attn_pool.kv_proj.weight"] == (4096, 1664)
    assert shapes["connector.attn_pool.attn.in_proj_weight"] == (12288, 4096)
    assert shapes["connector.proj"] == (4096, 4096)
    assert len(shapes) == 1 + 32 * 8 + 2 + 1 + 1 + 2 + 48 * 12 + 14


def test_the_published_lora_trains_its_published_number_of_weights():
    trained = 0
    for name, module in meta_model(real()).named_modules():
        if isinstance(module, nn.Linear) and any(re.fullmatch(t, name) for t in TARGETS):
            assert name.startswith("language.")
            trained += 64 * (module.in_features + module.out_features)
    assert trained == 112_197_632


def encoder(whole: QwenVlModel, pixels: torch.Tensor) -> torch.Tensor:
    """The encoder as published: patches first, heads split as Megatron lays them out."""
    vision = whole.vision
    x = vision.conv1(pixels).flatten(2).permute(2, 0, 1)
    x = vision.ln_pre(x.permute(1, 0, 2) + position(vision)).permute(1, 0, 2)
    for block in vision.transformer.resblocks:
        length, pictures, width = x.shape
        heads = block.attn.heads
        mixed = block.attn.in_proj(block.ln_1(x))
        mixed = mixed.view(length, pictures * heads, 3 * width // heads)
        query, key, value = mixed.split(width // heads, -1)
        score = (query.transpose(0, 1) / math.sqrt(width // heads)) @ key.permute(1, 2, 0)
        seen = (score.softmax(-1) @ value.transpose(0, 1)).transpose(0, 1)
        x = x + block.attn.out_proj(seen.reshape(length, pictures, width))
        inner = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    return x.permute(1, 0, 2)


def position(vision):
    side = vision.config.image_size // vision.config.patch_size
    table = vision.positional_embedding.reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table, (side, side), mode="bicubic", align_corners=False)
    return table.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_encoder_is_the_published_order(implementation):
    whole = model()
    whole.set_attn_implementation(implementation)
    assert whole.vision.config._attn_implementation == implementation
    pixels = torch.randn(2, 3, 28, 28)
    assert drift(whole.vision, lambda x: encoder(whole, x), pixels) < 1e-4


@pytest.mark.parametrize("features", [4, 9, 256])
def test_the_resampler_is_torchs_attention(features):
    torch.manual_seed(0)
    mine = Resampler(16, 128, 4, 24)
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs = nn.MultiheadAttention(128, 4)
    theirs.load_state_dict(mine.attn.state_dict())

    def published_order(x):
        x = mine.ln_kv(mine.kv_proj(x)).transpose(0, 1)
        query = mine.ln_q(mine.query)[:, None].expand(-1, x.shape[1], -1)
        keys = x + stretched(mine.pos_embed, len(x))[:, None]
        return theirs(query + mine.pos_embed[:, None], keys, x)[0].transpose(0, 1)

    assert drift(mine, published_order, torch.randn(3, features, 24)) < 1e-4


def test_places_tell_the_column_first():
    table = places(4, 8)
    for row in range(4):
        for column in range(4):
            rates = [1.0, 10000**-0.5]
            waves = [
                wave(place * rate)
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for rate in rates
            ]
            torch.testing.assert_close(table[row * 4 + column], torch.tensor(waves))


def test_a_table_of_the_right_size_is_not_touched():
    table = torch.randn(16, 3)
    assert stretched(table, 16) is table
    assert stretched(table, 25).shape == (25, 3)


def sample(text: str = "<image>\nis the red?") -> Sample:
    return Sample(id="0", images=("a.png",), turns=(Turn("user", text), Turn("assistant", "the")))


def test_a_picture_takes_256_tokens_between_its_tags():
    whole, tokens = model(), tokenizer()
    encoded = whole.encode(sample(), QWEN_VL, tokens)
    (start, end) = encoded.image_spans[0]
    assert end - start == 256
    at = encoded.ids.index(-200)
    first = tokens.image_start_id
    assert [encoded.ids[at - 1], encoded.ids[at + 1]] == [first, first + 1]
    cut = whole.encode(sample(), QWEN_VL, tokens, max_length=200)
    assert not cut.images
    assert -200 not in cut.ids


def test_parts_of_a_published_folder_make_the_same_model(tmp_path):
    path = str(published(tmp_path, dtype=torch.float32))
    made = assemble(ModelSpec(vision=path, language=path, family="qwen_vl", connector_weights=path))
    whole = read_checkpoint(tmp_path / "published").build()
    ids, pixels = torch.tensor([[7, -200, 9]]), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(made.model.eval()(ids, pixels).logits, whole(ids, pixels).logits)
    assert made.processor.fit_mode == "stretch"
    assert made.model.language.generation_config.eos_token_id == [
        tokenizer().eos_token_id,
        tokenizer().turn_end_id,
        tokenizer().turn_start_id,
    ]
    fresh = assemble(ModelSpec(vision=path, language=path, family="qwen_vl")).model
    pooled = fresh.connector.attn_pool
    assert torch.equal(pooled.pos_embed, whole.connector.attn_pool.pos_embed)
    assert not torch.equal(pooled.query, whole.connector.attn_pool.query)


def test_a_folder_without_the_encoder_is_named(tmp_path):
    language = tmp_path / "language"
    model().language.save_pretrained(language)
    tokenizer().save_pretrained(language)
    spec = ModelSpec(vision=str(language), language=str(language), family="qwen_vl")
    with pytest.raises(ModelError, match="holds a 'qwen', not the encoder that qwen_vl takes"):
        assemble(spec)


def test_the_model_survives_its_folder(tmp_path):
    before = folder()
    write_folder(before, tmp_path / "ours")
    after = read_folder(tmp_path / "ours")
    ids, pixels = torch.tensor([[7, -200, 9, 11]]), torch.randn(1, 3, 28, 28)
    how = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        after.model.eval().generate(ids, pixels, **how), before.model.generate(ids, pixels, **how)
    )
    assert after.tokenizer.ranks == before.tokenizer.ranks
    assert after.template == "qwen_vl"


def test_a_stage_trains_what_it_names():
    names = [name for name, _ in model().named_parameters()]
    assert not [name for name in names if "pos_embed" in name]  # computed, never learned
    kept = QwenVlModel.stages["instruct"][0]
    found = [name for name in names if re.search(kept, name)]
    assert found
    assert not any(name.startswith(("connector.proj", "connector.ln_post")) for name in found)


def test_another_language_model_can_follow_the_encoder():
    from tests.tiny_model import llama_config

    changed = config()
    changed.text_config = llama_config(40)
    torch.manual_seed(0)
    whole = QwenVlModel(changed).eval()
    assert whole(torch.tensor([[1, -200, 5]]), torch.randn(1, 3, 28, 28)).logits.shape[1] == 258


def test_qwens_own_end_is_forced_after_a_stop():
    ends = EndAfter([4, 5], 9)
    scores = torch.zeros(2, 10)
    assert torch.equal(ends(torch.empty(2, 0, dtype=torch.long), scores.clone()), scores)
    found = ends(torch.tensor([[4, 1], [1, 5]]), scores)
    assert found[:, 9].tolist() == [0, 2.0**15]


def test_patches_that_do_not_divide_are_refused():
    with pytest.raises(ModelError, match="do not divide into patches of 14"):
        QwenVitConfig(image_size=30)
