"""Attention of the encoders that are written here: everything sees everything, no mask."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """What such attention shares; `how` chooses between equal ways to compute it.

    sdpa: torch's fused kernels, on a GPU its flash attention. eager: written out.
    """

    how: Literal["sdpa", "eager"] = "sdpa"

    def mix(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Queries [..., Q, C], keys and values [..., T, C] -> [..., Q, C]."""
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        return F.dropout(weights, dropout) @ value
