"""The Q-Former of BLIP-2: a few learned queries read a picture's tokens.

A post-norm BERT over the queries alone, with attention to the picture in every
second layer. The text side of BLIP-2's training is not built: its tensors
(words, positions, `intermediate`, `output`, `cls`) have no part in what MiniGPT-4
computes. What queries do before the first picture is seen is computed once for
all pictures of a batch.

Shapes: I pictures, T picture tokens, E their width, Q queries, C width.
Source: BLIP-2, salesforce/LAVIS (Qformer.py), as Vision-CAIR/MiniGPT-4@22d8888 has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from vlforge.models.parts.attention import Attention
from vlforge.models.parts.eva_vit import as_weights
from vlforge.types import ModelError

HEADS = {768: 12}
"""Heads of the published sizes; no tensor's shape tells them."""
_ATTENTION = {
    "query": "self.query",
    "key": "self.key",
    "value": "self.value",
    "output": "output.dense",
    "norm": "output.LayerNorm",
}
_PUBLISHED = {
    **{f"attention.{ours}": f"attention.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross.{ours}": f"crossattention.{theirs}" for ours, theirs in _ATTENTION.items()},
    "mlp.inner": "intermediate_query.dense",
    "mlp.output": "output_query.dense",
    "mlp.norm": "output_query.LayerNorm",
}
_OURS = {theirs: ours for ours, theirs in _PUBLISHED.items()}
_LAYER = "Qformer.bert.encoder.layer."
_NORM = "Qformer.bert.embeddings.LayerNorm."


class QFormerConfig(PreTrainedConfig):
    """Sizes of a `QFormer`; by default BLIP-2's."""

    model_type = "vlforge_qformer"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    encoder_hidden_size: int = 1408
    cross_attention_frequency: int = 2
    query_tokens: int = 32
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1


def our_name(published: str) -> str | None:
    """The name in a `QFormer` of a tensor of BLIP-2's file; None where it has no place."""
    if published == "query_tokens":
        return published
    if published.startswith(_NORM):
        return "norm." + published.removeprefix(_NORM)
    found = re.fullmatch(re.escape(_LAYER) + r"(\d+)\.(.+)\.(weight|bias)", published)
    if not found or found.group(2) not in _OURS:
        return None
    return f"layers.{found.group(1)}.{_OURS[found.group(2)]}.{found.group(3)}"


def published_name(ours: str) -> str:
    """What BLIP-2's file calls a tensor of a `QFormer`; the other way round of `our_name`."""
    if ours == "query_tokens":
        return ours
    if ours.startswith("norm."):
        return _NORM + ours.removeprefix("norm.")
    _, layer, part, inner, kind = ours.split(".")
    return f"{_LAYER}{layer}.{_PUBLISHED[f'{part}.{inner}']}.{kind}"


def qformer_sizes(
    shapes: Mapping[str, tuple[int, ...]], heads: int | None = None
) -> dict[str, Any]:
    """Fields of a `QFormerConfig` as the published tensors' shapes tell them.

    Raises:
        ModelError: not BLIP-2's tensors, or heads that nothing tells.
    """
    ours = {name: shape for key, shape in shapes.items() if (name := our_name(key))}
    layers = {int(name.split(".")[1]) for name in ours if name.startswith("layers.")}
    crossed = sorted(layer for layer in layers if f"layers.{layer}.cross.key.weight" in ours)
    try:
        _, queries, width = ours["query_tokens"]
        encoder = ours["layers.0.cross.key.weight"][1]
        inner = ours["layers.0.mlp.inner.weight"][0]
    except (KeyError, ValueError):
        raise ModelError("the tensors are not those of BLIP-2's Q-Former") from None
    if heads is None and width not in HEADS:
        raise ModelError(
            f"a Q-Former of width {width} does not tell how many heads it has; say qformer_heads "
            "in minigpt4.json beside it"
        )
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads or HEADS[width],
        "encoder_hidden_size": encoder,
        "cross_attention_frequency": crossed[1] if len(crossed) > 1 else max(len(layers), 1),
        "query_tokens": queries,
    }


class QAttention(Attention):
    """BERT's attention: mixed, projected, added to what asked, normed."""

    def __init__(self, config: QFormerConfig, seen_width: int):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(seen_width, width)
        self.value = nn.Linear(seen_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(self, asking: Tensor, seen: Tensor) -> Tensor:
        """asking [1 or I, Q, C], seen [I, T, E] -> [I, Q, C]."""
        query = self._heads(self.query(as_weights(asking, self.query)))
        key = self._heads(self.key(as_weights(seen, self.key)))
        value = self._heads(self.value(as_weights(seen, self.value)))
        drop = self.dropout if self.training else 0.0
        query = query.expand(len(key), -1, -1, -1)
        mixed = self.mix(query, key, value, drop)
        mixed = mixed.transpose(1, 2).flatten(2)
        out = F.dropout(self.output(as_weights(mixed, self.output)), self.dropout, self.training)
        return self.norm(as_weights(out + asking, self.norm))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class QMlp(nn.Module):
    """BERT's intermediate and output layers with the exact GELU."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """[I, Q, C] -> [I, Q, C]."""
        out = self.output(as_weights(F.gelu(self.inner(as_weights(x, self.inner))), self.output))
        out = F.dropout(out, self.dropout, self.training)
        return self.norm(as_weights(out + x, self.norm))


class QLayer(GradientCheckpointingLayer):
    """Queries look at each other, in some layers at the picture, then think."""

    def __init__(self, config: QFormerConfig, layer: int):
        super().__init__()
        self.attention = QAttention(config, config.hidden_size)
        self.cross: QAttention | None = None
        if layer % config.cross_attention_frequency == 0:
            self.cross = QAttention(config, config.encoder_hidden_size)
        self.mlp = QMlp(config)

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        """x [1 or I, Q, C], picture [I, T, E] -> [I, Q, C]."""
        x = self.attention(x, x)
        if self.cross is not None:
            x = self.cross(x, picture)
        return self.mlp(x)


class QFormer(nn.Module):
    """A picture's tokens to `query_tokens` tokens, whatever the size of the picture."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ModelError(
                f"a Q-Former of width {config.hidden_size} has no {config.num_attention_heads} "
                "equal heads"
            )
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.query_tokens, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            QLayer(config, layer) for layer in range(config.num_hidden_layers)
        )

    def forward(self, picture: Tensor) -> Tensor:
        """[I, T, E] -> [I, Q, C]."""
        x = self.norm(as_weights(self.query_tokens, self.norm))
        if self.training and self.config.dropout:
            # Each picture draws its own dropout; without it all begin alike.
            x = F.dropout(x.expand(len(picture), -1, -1), self.config.dropout)
        for layer in self.layers:
            x = layer(x, picture)
        return x
