"""Connectors: vision tokens into the language model's embedding space."""

from __future__ import annotations

import itertools
import re

from torch import Tensor, nn

from vlforge.types import ModelError


class Connector(nn.Sequential):
    """A stack whose keys are LLaVA's: `0`, `2`, `4`; an identity when empty."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., vision width] -> [..., language width]."""
        for layer in self:
            tokens = layer(tokens)
        return tokens


def build_connector(
    kind: str, vision_width: int, language_width: int, inner_width: int | None = None
) -> nn.Module:
    """The connector that `kind` names.

    `linear`; `identity`; `mlpNx_gelu`: N linear layers with exact (erf) GELU
    between them, `inner_width` wide there (the language width by default).
    `linear` is a single module, its keys are `weight` and `bias`.

    Raises:
        ModelError: an unknown kind, or an identity between unequal widths.

    Source: LLaVA multimodal_projector/builder.py, haotian-liu/LLaVA@c121f04.
    """
    if kind == "linear":
        return nn.Linear(vision_width, language_width)
    if kind == "identity":
        if vision_width != language_width:
            raise ModelError(
                f"connector identity: vision width {vision_width} differs from language width "
                f"{language_width}; take linear or mlp2x_gelu"
            )
        return Connector()
    match = re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind)
    if not match:
        raise ModelError(f"connector {kind!r} is unknown; take linear, mlp2x_gelu or identity")
    depth = int(match.group(1))
    inner = inner_width or language_width
    widths = [vision_width, *[inner] * (depth - 1), language_width]
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in itertools.pairwise(widths[1:]):
        layers += [nn.GELU(), nn.Linear(before, after)]
    return Connector(*layers)
