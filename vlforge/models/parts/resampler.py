"""A resampler: learned queries read a picture's features, whatever their number.

Shapes: I pictures, N features, Q queries, D width, K width of a feature.
Source: Qwen/Qwen-VL-Chat, visual.py (Resampler).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from vlforge.models.parts.attention import Attention
from vlforge.models.parts.qwen_vit import EPS, stretched


class CrossAttention(Attention):
    """torch's multi-head attention under its names, for queries that all pictures share."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries [Q, D], keys and values [I, N, D] -> [I, Q, D]."""
        inputs = (query[None], key, value)
        weights = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        split = [
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in weights
        ]
        shared = split[0].expand(len(key), -1, -1, -1)
        mixed = self.mix(shared, split[1], split[2])
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Features [I, N, K] -> [I, Q, D]; places are known to queries and keys, not to values.

    `pos_embed` is computed, never learned, and published with the weights.

    Args:
        side: queries a side of their grid.
    """

    def __init__(self, side: int, width: int, heads: int, feature_width: int):
        super().__init__()
        self.register_buffer("pos_embed", places(side, width))
        self.query = nn.Parameter(torch.empty(side * side, width))
        same = feature_width == width
        self.kv_proj = nn.Identity() if same else nn.Linear(feature_width, width, bias=False)
        self.attn = CrossAttention(width, heads)
        self.ln_q = nn.LayerNorm(width, eps=EPS)
        self.ln_kv = nn.LayerNorm(width, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:
        """[I, N, K] -> [I, Q, D]."""
        values = self.ln_kv(self.kv_proj(features))
        places = self.pos_embed.to(values.dtype)  # stays fp32 in a model that is read in halves
        keys = values + stretched(places, features.shape[1])
        return self.attn(self.ln_q(self.query) + places, keys, values)


class QwenConnector(nn.Module):
    """Resampler, norm and projection: what Qwen-VL has between encoder and language model."""

    def __init__(self, side: int, width: int, feature_width: int):
        super().__init__()
        self.attn_pool = Resampler(side, width, max(width // 128, 1), feature_width)
        self.ln_post = nn.LayerNorm(width, eps=EPS)
        self.proj = nn.Parameter(torch.empty(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """[I, N, K] -> [I, Q, D]."""
        return self.ln_post(self.attn_pool(features)) @ self.proj


def init_connector(module: nn.Module) -> bool:
    """Give one of these modules' own parameters their first values; whether it was one."""
    if isinstance(module, Resampler):
        init.trunc_normal_(module.query, std=0.02)
        init.copy_(module.pos_embed, places(round(len(module.query) ** 0.5), module.query.shape[1]))
    elif isinstance(module, CrossAttention):
        init.xavier_uniform_(module.in_proj_weight)
        init.zeros_(module.in_proj_bias)
    elif isinstance(module, QwenConnector):
        init.normal_(module.proj, std=module.proj.shape[0] ** -0.5)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    else:
        return False
    return True


def places(side: int, width: int) -> Tensor:
    """Sines and cosines of a grid's places, [side * side, width], row by row.

    The first half of the channels tells the column, the second the row; each half holds
    sines, then cosines. Computed in fp32, as the published table was.
    """
    turns = np.arange(width // 4, dtype=np.float32) / np.float32(width / 4)
    rate = np.float32(1) / np.float32(10000) ** turns
    row, column = np.divmod(np.arange(side * side), side)
    halves = [place.astype(np.float32)[:, None] * rate for place in (column, row)]
    waves = [wave(half) for half in halves for wave in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(waves, 1))
