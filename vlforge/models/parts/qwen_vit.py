"""Qwen-VL's vision encoder: OpenCLIP's ViT-bigG without a class token.

Its attention's `in_proj` keeps the three vectors of a head together (head 0's query,
key and value, then head 1's), where torch's own attention has all queries first. The
position table of 16 x 16 is stretched to the picture's grid in every forward pass.

Shapes: I pictures, N patches, D width, S pixels a side.
Source: Qwen/Qwen-VL-Chat, visual.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama.modeling_llama import eager_attention_forward

from vlforge.types import ModelError

EPS = 1e-6
POSITIONS = 256
"""Rows of the stored position table, a grid of 16 x 16."""


class QwenVitConfig(PreTrainedConfig):
    """What the encoder is made of, under the names of Qwen-VL's `visual` settings."""

    model_type = "vlforge_qwen_vit"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
    }

    image_size: int = 448
    patch_size: int = 14
    width: int = 1664
    layers: int = 48
    heads: int = 16
    mlp_ratio: float = 4.9231
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any):
        if self.image_size % self.patch_size or self.width % self.heads:
            raise ModelError(
                f"{self.image_size} pixels do not divide into patches of {self.patch_size}, or "
                f"width {self.width} not into {self.heads} heads"
            )
        super().__post_init__(**kwargs)

    @property
    def patches(self) -> int:
        """Patches of one picture."""
        return (self.image_size // self.patch_size) ** 2


class InterleavedAttention(nn.Module):
    """Self-attention whose `in_proj` gives query, key and value head by head."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: QwenVitConfig):
        super().__init__()
        self.config = config
        self.heads = config.heads
        self.in_proj = nn.Linear(config.width, 3 * config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[I, N, D] -> [I, N, D]."""
        pictures, length, width = x.shape
        heads = self.in_proj(x).view(pictures, length, self.heads, 3, width // self.heads)
        query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, _ = attend(self, query, key, value, None, scaling=query.shape[-1] ** -0.5)
        return self.out_proj(mixed.reshape(x.shape))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.c_proj(F.gelu(self.c_fc(x)))


class VitBlock(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm."""

    def __init__(self, config: QwenVitConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=EPS)
        self.ln_2 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = InterleavedAttention(config)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[I, N, D] -> [I, N, D]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class VitBlocks(nn.Module):
    """The blocks, under the name that published weights give them."""

    def __init__(self, config: QwenVitConfig):
        super().__init__()
        self.resblocks = nn.ModuleList(VitBlock(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """[I, N, D] -> [I, N, D]."""
        for block in self.resblocks:
            x = block(x)
        return x


class QwenVit(PreTrainedModel):
    """Pixels to patch features; no norm at the end."""

    config_class = QwenVitConfig
    config: QwenVitConfig
    main_input_name = "pixels"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar[list[str]] = ["VitBlock"]
    # The folder of a whole Qwen-VL serves as that of its encoder.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^transformer\.(h|wte|ln_f|rotary_emb)\b",
        r"^(lm_head|attn_pool|ln_post|proj)\b",
    ]

    def __init__(self, config: QwenVitConfig):
        super().__init__(config)
        patch = config.patch_size
        self.conv1 = nn.Conv2d(3, config.width, patch, stride=patch, bias=False)
        table = torch.empty(POSITIONS, config.width)
        self.positional_embedding = nn.Parameter(table)
        self.ln_pre = nn.LayerNorm(config.width, eps=EPS)
        self.transformer = VitBlocks(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        deviation = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.normal_(module.weight, mean=0.0, std=deviation)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, QwenVit):
            init.normal_(module.positional_embedding, mean=0.0, std=self.config.width**-0.5)

    @property
    def image_size(self) -> int:
        """Pixels a side that the encoder takes."""
        return self.config.image_size

    @property
    def width(self) -> int:
        """Width of a feature."""
        return self.config.width

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on: none."""
        return set()

    def forward(self, pixels: Tensor) -> Tensor:
        """[I, 3, S, S] normalised -> [I, N, D]."""
        patches = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = patches + stretched(self.positional_embedding, patches.shape[1])
        return self.transformer(self.ln_pre(x))


def stretched(table: Tensor, length: int) -> Tensor:
    """A position table [P, D] of a square grid for a square grid of `length` places.

    Bicubic in fp32; the table itself where the grids are equal.
    """
    side, target = round(len(table) ** 0.5), round(length**0.5)
    if side == target:
        return table
    grid = table.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(target, target), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)
