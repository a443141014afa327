"""Two pictures from two prompts that differ in a phrase, all else alike: prompt-to-prompt.

Both are drawn from the same noise. While they are, the second's attention follows the
first's: between places of the picture for the first steps, so that the layout stays, and
from places to the words that both prompts share, so that these are drawn where they were.

P prompts of a forward (unconditional ones first), H heads, Q places, K keys.

Source: prompt-to-prompt with attention refinement, Hertz et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from vlforge.types import ModelError

SELF_STEPS, WORD_STEPS = 0.4, 1.0
"""Shares of all steps in which the second follows the first, as in Data-Juicer."""
_MOST_PLACES = 32 * 32
"""Finer layers draw for themselves even in the first steps."""


@dataclass
class Pair:
    """What the layers need to know: which words are shared, and how far drawing has come.

    `source` [K] says for each token of the second prompt which one of the first it is,
    `is_shared` [K] 1 where there is one.
    """

    source: Tensor
    is_shared: Tensor
    steps: int
    step: int = 0
    self_steps: float = SELF_STEPS
    word_steps: float = WORD_STEPS

    def followed(self, weights: Tensor, *, is_cross: bool) -> Tensor:
        """Attention weights [P, H, Q, K] with the second's put after the first's."""
        first, second = weights[-2], weights[-1]
        if is_cross:
            if self.step >= self.word_steps * self.steps:
                return weights
            shared = self.is_shared.to(weights)
            second = first[..., self.source] * shared + second * (1 - shared)
        elif self.step < self.self_steps * self.steps and weights.shape[2] <= _MOST_PLACES:
            second = first
        else:
            return weights
        return torch.cat([weights[:-1], second[None]])


class FollowingAttention:
    """diffusers' attention of a UNet, with weights that `pair` may change."""

    def __init__(self, pair: Pair, is_cross: bool):
        self.pair, self.is_cross = pair, is_cross

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """[P, Q, C] -> [P, Q, C]; the names are those that diffusers calls with."""
        words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.norm_cross and encoder_hidden_states is not None:
            words = attn.norm_encoder_hidden_states(words)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(words))
        value = attn.head_to_batch_dim(attn.to_v(words))
        weights = attn.get_attention_scores(query, key, attention_mask)
        by_prompt = weights.unflatten(0, (len(hidden_states), -1))
        weights = self.pair.followed(by_prompt, is_cross=self.is_cross).flatten(0, 1)
        out = attn.batch_to_head_dim(torch.bmm(weights, value))
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        scaled: Tensor = out / attn.rescale_output_factor
        return scaled


def aligned(first: Sequence[int], second: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """For each of `length` tokens of the second prompt its place in the first, and 1 or 0.

    1 where the token is one that both share, in the same order; behind its last token all
    are taken as shared.
    """
    source = torch.arange(length)
    is_shared = torch.ones(length)
    is_shared[: len(second)] = 0
    matcher = SequenceMatcher(None, list(first), list(second), autojunk=False)
    for block in matcher.get_matching_blocks():
        for at in range(block.size):
            source[block.b + at] = block.a + at
            is_shared[block.b + at] = 1
    return source, is_shared


@torch.inference_mode()
def paint_pair(pipe: Any, prompts: tuple[str, str], key: int, steps: int, scale: float) -> Any:
    """What a text-to-image pipeline gives for both prompts, drawn from the same noise.

    Raises:
        ModelError: its pictures are not drawn by a UNet.
    """
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise ModelError(
            f"{type(pipe).__name__} has no UNet, which prompt-to-prompt works on; give a folder "
            "of SDXL or Stable Diffusion"
        )
    first, second = (_tokens(pipe, prompt) for prompt in prompts)
    source, is_shared = aligned(first, second, pipe.tokenizer.model_max_length)
    pair = Pair(source.to(unet.device), is_shared.to(unet.device), steps)
    before = unet.attn_processors
    unet.set_attn_processor({name: FollowingAttention(pair, ".attn2." in name) for name in before})

    def next_step(_pipe: Any, step: int, _time: Any, kept: dict[str, Any]) -> dict[str, Any]:
        pair.step = step + 1
        return kept

    try:
        return pipe(
            prompt=list(prompts),
            latents=_noise(unet, key).to(unet.device, unet.dtype).repeat(2, 1, 1, 1),
            num_inference_steps=steps,
            guidance_scale=scale,
            callback_on_step_end=next_step,
            output_type="pil",
        )
    finally:
        unet.set_attn_processor(before)


def _tokens(pipe: Any, prompt: str) -> list[int]:
    length = pipe.tokenizer.model_max_length
    return list(pipe.tokenizer(prompt, truncation=True, max_length=length)["input_ids"])


def _noise(unet: Any, key: int) -> Tensor:
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    draw = torch.Generator("cpu").manual_seed(key)
    return torch.randn(1, unet.config.in_channels, height, width, generator=draw)
