"""Mini-Gemini's connector: low-resolution tokens mine the high-resolution map, then an MLP.

Shapes: I pictures, V views of one (g * g crops, row by row, then the whole picture), N
tokens a view, n = sqrt(N), C token channels, A patch channels, D language width.
Source: dvlab-research/MGM@769820c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, cat, nn

from vlforge.kernels.mining import mine_folded, mine_published


@dataclass(frozen=True)
class Views:
    """What two encoders see of pictures.

    tokens [I, V, N, C] of the low-resolution views; maps [I, A_s, S_s, S_s] of the
    high-resolution encoder's stages, the largest first.
    """

    tokens: Tensor
    maps: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tokens)


class PatchMiner(nn.Module):
    """Each token asks the patches it covers; `order` chooses between equal ways to compute it.

    The folded order reads the key's matrix itself, so a key that is more than a matrix
    (quantised, or with an adapter on it) or lies elsewhere meanwhile takes the published one.
    """

    def __init__(self, token_width: int, patch_width: int):
        super().__init__()
        self.order: Literal["folded", "published"] = "folded"
        self.query = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, token_width))
        self.key = nn.Sequential(nn.LayerNorm(patch_width), nn.Linear(patch_width, token_width))
        self.value = nn.Sequential(nn.LayerNorm(patch_width), nn.Linear(patch_width, token_width))

    def forward(self, tokens: Tensor, maps: Sequence[Tensor], shrink: int = 1) -> Tensor:
        """Tokens [I, n, n, C] laid over maps -> mined [I, n, n, C]; see `mine_published`."""
        key = self.key[1]
        can_fold = type(key) is nn.Linear and not key.weight.is_meta
        mine = mine_folded if can_fold and self.order == "folded" else mine_published
        return mine(self.query(tokens), maps, self.key, self.value, shrink)


class MiningConnector(nn.Module):
    """Tokens plus what they mined, projected: [I, V * N, D], the whole picture's first."""

    def __init__(self, miner: PatchMiner, projector: nn.Module, grid: int, has_global: bool):
        super().__init__()
        self.miner = miner
        self.projector = projector
        self.grid, self.has_global = grid, has_global

    def forward(self, views: Views) -> Tensor:
        """Mine every view, add, project."""
        mined = self.mine(views)
        return self.projector((self.arrange(views.tokens) + mined).flatten(1, 2))

    def mine(self, views: Views) -> Tensor:
        """What the tokens mined, [I, V, N, C], the whole picture's first."""
        pictures, _, tokens, channels = views.tokens.shape
        n, g = math.isqrt(tokens), self.grid
        crops = views.tokens[:, : g * g].reshape(pictures, g, g, n, n, channels).transpose(2, 3)
        found = self.miner(crops.reshape(pictures, g * n, g * n, channels), views.maps)
        found = found.view(pictures, g, n, g, n, channels).transpose(2, 3)
        mined = found.reshape(pictures, g * g, tokens, channels)
        if not self.has_global:
            return mined
        whole = self.miner(views.tokens[:, -1].unflatten(1, (n, n)), views.maps, g)
        return cat([whole.reshape(pictures, 1, tokens, channels), mined], 1)

    def arrange(self, tokens: Tensor) -> Tensor:
        """The views in the order in which they are read: the whole picture first."""
        return cat([tokens[:, -1:], tokens[:, :-1]], 1) if self.has_global else tokens
