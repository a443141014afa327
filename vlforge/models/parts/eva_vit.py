"""EVA-ViT-g, the encoder of BLIP-2 and MiniGPT-4, under the names of its published file.

Ours and not transformers' `Blip2VisionModel`: there the biases of query, key and value
are one parameter, so that training moves a key bias which the published file has no
place for, and norms must have the precision of the products. Here `eva_vit_g.pth`
loads as it is, and only convolutions and products may be in half precision. The
test holds both against each other.

Shapes: I pictures, S pixels a side, P patches a side, T = 1 + P * P tokens, C width,
H heads.
Source: BLIP-2, salesforce/LAVIS (eva_vit.py), as Vision-CAIR/MiniGPT-4@22d8888 has it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from vlforge.models.parts.attention import Attention
from vlforge.types import ModelError

HEADS, DEPTHS = {1408: 16}, {1408: 39}
"""Heads and blocks by width as published: no tensor's shape tells the heads, and the
original EVA has one block more than BLIP-2 runs."""


class EvaVitConfig(PreTrainedConfig):
    """Sizes of an `EvaVit`; by default those of EVA-ViT-g at 224 pixels."""

    model_type = "vlforge_eva_vit"

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6


def eva_sizes(
    shapes: Mapping[str, tuple[int, ...]], heads: int | None = None, image_size: int | None = None
) -> dict[str, Any]:
    """Fields of an `EvaVitConfig` as the published tensors' shapes tell them.

    Args:
        heads: needed for a width that was never published.
        image_size: None is what the position table was trained at.

    Raises:
        ModelError: not EVA's tensors, or heads that nothing tells.
    """
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        side = round((shapes["pos_embed"][1] - 1) ** 0.5)
        inner = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise ModelError("the tensors are not those of an EVA-ViT") from None
    if heads is None and width not in HEADS:
        raise ModelError(
            f"an EVA-ViT of width {width} does not tell how many heads it has; say vision_heads in "
            "minigpt4.json beside it"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return {
        "image_size": image_size or side * patch,
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": min(len(blocks), DEPTHS.get(width, len(blocks))),
        "num_attention_heads": heads or HEADS[width],
    }


def fit_positions(table: Tensor, side: int) -> Tensor:
    """A position table [1, 1 + n * n, C] for `side` patches a side, the first token kept.

    Bicubic in fp32, once when weights are read, as published.
    """
    first, places = table[:, :1], table[:, 1:]
    old = round(places.shape[1] ** 0.5)
    if old == side:
        return table
    grid = places.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class EvaAttention(Attention):
    """Self-attention with biases on queries and values, none on keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[I, T, C] -> [I, T, C]."""
        query, key, value = self.qkv(as_weights(x, self.qkv)).chunk(3, dim=-1)
        query, value = query + self.q_bias.to(query.dtype), value + self.v_bias.to(value.dtype)
        split = [
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        ]
        mixed = self.mix(*split).transpose(1, 2).flatten(2)
        return self.proj(as_weights(mixed, self.proj))


class EvaMlp(nn.Module):
    """Two products with the exact GELU between them."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[I, T, C] -> [I, T, C]."""
        return self.fc2(as_weights(F.gelu(self.fc1(as_weights(x, self.fc1))), self.fc2))


class EvaBlock(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm and added to what came in."""

    def __init__(self, config: EvaVitConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = EvaAttention(config.hidden_size, config.num_attention_heads)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EvaMlp(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """[I, T, C] -> [I, T, C], in the precision of `x` at least."""
        x = x + self.attn(self.norm1(as_weights(x, self.norm1)))
        return x + self.mlp(self.norm2(as_weights(x, self.norm2)))


class EvaVit(nn.Module):
    """Pixels to one token for the picture and one for each patch; no norm at the end."""

    def __init__(self, config: EvaVitConfig):
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        if width % config.num_attention_heads or config.image_size % patch:
            raise ModelError(
                f"an EVA-ViT of width {width} with {config.num_attention_heads} heads, "
                f"{config.image_size} pixels in patches of {patch}: one does not divide the other"
            )
        self.config = config
        self.patch_embed = nn.Sequential(
            OrderedDict(proj=nn.Conv2d(3, width, kernel_size=patch, stride=patch))
        )
        places = (config.image_size // patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, width))
        self.blocks = nn.ModuleList(EvaBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """[I, 3, S, S] normalised -> [I, T, C]."""
        patches = self.patch_embed(as_weights(pixels, self.patch_embed.proj))
        patches = patches.flatten(2).transpose(1, 2).to(self.cls_token.dtype)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x

    def halve(self) -> EvaVit:
        """The published precision: weights of convolutions and products in fp16, the rest as is.

        Tokens stay in fp32 between the blocks, and so do norms, positions and the
        biases of queries and values.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.half()
        return self


def as_weights(x: Tensor, layer: nn.Module) -> Tensor:
    """`x` in the precision of a layer's weights, where these are numbers of their own.

    Quantised weights are integers and take what comes; under autocast it decides.
    """
    dtype = layer.weight.dtype
    if not dtype.is_floating_point or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(dtype)
