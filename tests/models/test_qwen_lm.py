from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from tests.drift import drift
from tests.tiny_qwen import config, model
from vlforge.inference.generate import Decoding, generate, pad_left
from vlforge.models.parts.qwen_lm import QwenConfig, QwenForCausalLM, ntk_growth
from vlforge.types import ModelError

END = Decoding(max_new_tokens=6)


class Words:
    """Answers are compared by their ids."""

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def language(seq_length: int = 2048, seed: int = 0) -> QwenForCausalLM:
    return model(seed, seq_length, eos_token_id=None).language


def published(whole: QwenForCausalLM, embeds: torch.Tensor) -> torch.Tensor:
    """The published order of computation for one prompt outside of training, head by head."""
    settings, decoder = whole.config, whole.transformer
    length, width = embeds.shape[1], settings.kv_channels
    alpha = max(2 ** math.ceil(math.log(length / settings.seq_length, 2) + 1) - 1, 1)
    base = settings.rotary_emb_base * alpha ** (width / (width - 2))
    rate = 1 / base ** (torch.arange(0, width, 2, dtype=embeds.dtype) / width)
    angle = torch.outer(torch.arange(length, dtype=embeds.dtype), rate).repeat(1, 2)
    log = [
        math.log(n, settings.seq_length) if n > settings.seq_length else 1
        for n in range(1, length + 1)
    ]
    log = torch.tensor(log, dtype=embeds.dtype)
    hidden = embeds

    def norm(layer, x):
        return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight

    def turn(x):
        left, right = x[..., : width // 2], x[..., width // 2 :]
        return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

    for block in decoder.h:
        fused = block.attn.c_attn(norm(block.ln_1, hidden))
        query, key, value = fused.split(fused.shape[-1] // 3, -1)
        heads = []
        for part in range(settings.num_attention_heads):
            at = slice(part * width, (part + 1) * width)
            score = (turn(query[..., at]) * log[:, None]) @ turn(key[..., at]).transpose(1, 2)
            score = score / math.sqrt(width) + torch.full((length, length), -math.inf).triu(1)
            heads.append(score.softmax(-1) @ value[..., at])
        hidden = hidden + block.attn.c_proj(torch.cat(heads, -1))
        inner = norm(block.ln_2, hidden)
        hidden = hidden + block.mlp.c_proj(block.mlp.w1(inner) * F.silu(block.mlp.w2(inner)))
    return whole.lm_head(norm(decoder.ln_f, hidden))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("seq_length", [3, 7, 12, 2048])
def test_logits_and_gradients_are_the_published_orders(seq_length, implementation):
    whole = language(seq_length)
    whole.set_attn_implementation(implementation)
    embeds = torch.randn(1, 12, 16)
    fast = lambda x: whole(inputs_embeds=x, use_cache=False).logits  # noqa: E731
    assert drift(fast, lambda x: published(whole, x), embeds) < 2e-4


@pytest.mark.parametrize(
    ("length", "trained", "growth"),
    [(1, 100, 1), (100, 100, 1), (101, 100, 3), (200, 100, 3), (201, 100, 7), (401, 100, 15)],
)
def test_the_base_grows_in_steps(length, trained, growth):
    assert ntk_growth(length, trained) == growth


def test_cached_steps_keep_the_prompts_base_and_give_the_same_logits():
    whole = language(seq_length=5)
    ids = torch.randint(0, 200, (2, 10))
    cache = DynamicCache()
    with torch.no_grad():
        first = whole(ids[:, :7], past_key_values=cache, use_cache=True).logits
        steps = [whole(ids[:, at : at + 1], past_key_values=cache).logits for at in (7, 8, 9)]
        at_once = whole(ids, use_cache=False).logits
    found = torch.cat([first, *steps], 1)
    torch.testing.assert_close(found, at_once, atol=1e-5, rtol=1e-4)  # 7 and 10: growth is 3


def test_a_row_reads_the_same_alone_and_in_a_batch():
    whole = language(seq_length=5)
    prompts = [torch.randn(length, 16) for length in (4, 9, 21)]
    embeds, mask, positions = pad_left(prompts)
    with torch.no_grad():
        found = whole(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
        for row, prompt in enumerate(prompts):
            alone = whole(inputs_embeds=prompt[None]).logits
            torch.testing.assert_close(found[row, -1], alone[0, -1], atol=1e-5, rtol=1e-4)


def test_answers_do_not_depend_on_the_batch():
    whole = language(seq_length=5)
    prompts = [torch.randn(length, 16) for length in (4, 9, 21)]
    together = generate(whole, Words(), prompts, END)
    drawn = Decoding(max_new_tokens=6, temperature=1.0, candidates=2)
    sampled = generate(whole, Words(), prompts, drawn)
    for row, prompt in enumerate(prompts):
        assert together[row][0].ids == generate(whole, Words(), [prompt], END)[0][0].ids
        alone = generate(whole, Words(), [prompt], drawn, keys=[row])[0]
        assert [one.ids for one in sampled[row]] == [one.ids for one in alone]


def test_beams_of_a_long_prompt_are_those_without_a_cache():
    whole = language(seq_length=5)
    embeds = torch.randn(1, 9, 16)
    how = {"num_beams": 3, "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    cached, plain = (
        whole.generate(inputs_embeds=embeds, use_cache=use_cache, **how)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)  # 9 to 12 tokens: the base does not change


def test_training_has_the_plain_base_also_after_a_long_prompt():
    whole, plain = language(seq_length=5), language()
    embeds = torch.randn(1, 11, 16)
    with torch.no_grad():
        stretched = whole(inputs_embeds=embeds).logits
        wanted = plain(inputs_embeds=embeds).logits
        assert (stretched - wanted).abs().max() > 1e-3
        torch.testing.assert_close(whole.train()(inputs_embeds=embeds).logits, wanted)


def test_a_frozen_language_model_keeps_to_training_while_its_connector_learns():
    long, plain = model(0, seq_length=5), model(0)
    ids = torch.tensor([[5, -200, *range(8)]])
    pixels = torch.randn(1, 3, 28, 28)
    losses = []
    for whole in (long, plain):
        whole.train()
        whole.language.eval()
        losses.append(whole(ids, pixels, labels=ids).loss)
    torch.testing.assert_close(*losses)
    assert long.eval()(ids, pixels, labels=ids).loss != losses[0]


def test_checkpointed_blocks_give_the_same_gradients():
    grads = []
    for is_checkpointed in (False, True):
        whole = language().train()
        if is_checkpointed:
            whole.gradient_checkpointing_enable()
        whole(torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
        grads.append([parameter.grad for parameter in whole.parameters()])
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right)


def test_bf16_runs_and_norms_in_fp32():
    whole = language().bfloat16()
    with torch.no_grad():
        found = whole(torch.arange(9)[None]).logits
        wanted = language()(torch.arange(9)[None]).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.3, rtol=0.1)


def test_new_weights_are_reproducible_and_a_partial_rotary_is_refused():
    torch.manual_seed(3)
    first = QwenForCausalLM(config().text_config).lm_head.weight
    torch.manual_seed(3)
    assert torch.equal(first, QwenForCausalLM(config().text_config).lm_head.weight)
    with pytest.raises(ModelError, match=r"rotary_pct 0.5 is not known"):
        QwenConfig(rotary_pct=0.5)
