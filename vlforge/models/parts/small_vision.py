"""A convolutional vision encoder that learns from scratch in seconds on one CPU thread.

Plain 3x3 convolutions: depthwise ones with large kernels are slow to train
without a GPU. The map keeps its place, so that a word printed at the top stays
in the first tokens.

Shapes: B batch, H W pixels, C channels of the last stage, h w sides of the map,
M merged columns, N = h * w / M tokens, D = C * M width of a token.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.config import SmallVisionSpec
from vlforge.types import ModelError


class SmallVisionConfig(PreTrainedConfig):
    """Sizes of a `SmallVisionModel`; `hidden_size` is the width of a token."""

    model_type = "vlforge_small_vision"

    image_size: int = 64
    channels: list[int] | tuple[int, ...] = (16, 32, 96)
    merge: int = 2
    residual: list[list[int]] | tuple[tuple[int, ...], ...] = ()
    norm: str = "group"
    position_std: float = 0.02
    place_std: float = 0.0

    @classmethod
    def of(cls, spec: SmallVisionSpec) -> SmallVisionConfig:
        """The configuration that a recipe's `vision:` block describes.

        Raises:
            ModelError: the map would not divide into tokens, or kernels do not
                fit the stages.
        """
        side, rest = divmod(spec.image_size, 2 ** len(spec.channels))
        if rest or not side or side % spec.merge:
            raise ModelError(
                f"vision: image_size {spec.image_size} with {len(spec.channels)} stages gives a "
                f"map that merge {spec.merge} does not divide; take a multiple of "
                f"{2 ** len(spec.channels) * spec.merge}"
            )
        residual = spec.residual or ((3, 3),) * len(spec.channels)
        if len(residual) != len(spec.channels):
            raise ModelError(
                f"vision: residual has {len(residual)} entries for {len(spec.channels)} stages; "
                "give the kernel sizes of each"
            )
        if any(kernel < 1 or kernel % 2 == 0 for kernels in residual for kernel in kernels):
            raise ModelError(f"vision: residual {residual} has a kernel that is not odd")
        return cls(
            image_size=spec.image_size,
            channels=list(spec.channels),
            merge=spec.merge,
            residual=[list(kernels) for kernels in residual],
            norm=spec.norm,
            position_std=spec.position_std,
            place_std=spec.place_std,
        )

    @property
    def map_side(self) -> int:
        """Rows (and columns) of the map, before columns are merged."""
        return self.image_size // 2 ** len(self.channels)

    @property
    def hidden_size(self) -> int:
        """Width of one token."""
        return self.channels[-1] * self.merge

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return self.map_side**2 // self.merge


class Stage(GradientCheckpointingLayer):
    """Halve the map, then a residual branch of convolutions, each after norm and ReLU."""

    def __init__(self, inputs: int, channels: int, kernels: Sequence[int], norm: str):
        super().__init__()
        self.down = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.down_norm = _norm(norm, channels)
        self.norms = nn.ModuleList(_norm(norm, channels) for _ in kernels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for kernel in kernels
        )

    def forward(self, x: Tensor, place: Tensor | None = None) -> Tensor:
        """[B, inputs, H, W] -> [B, channels, H/2, W/2]; `place` [channels, H/2, W/2] is added."""
        x = F.relu(self.down_norm(self.down(x)))
        if place is not None:
            x = x + place
        branch = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            branch = convolution(F.relu(norm(branch)))
        return x + branch if len(self.convolutions) else x


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(1, channels)


class SmallVisionModel(PreTrainedModel):
    """Pictures of one size to a short row of tokens."""

    config_class = SmallVisionConfig
    config: SmallVisionConfig
    base_model_prefix = "small_vision"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ("Stage",)

    def __init__(self, config: SmallVisionConfig):
        super().__init__(config)
        widths = [3, *config.channels]
        residual = config.residual or ((3, 3),) * len(config.channels)
        self.stages = nn.ModuleList(
            Stage(*pair, kernels, config.norm)
            for pair, kernels in zip(itertools.pairwise(widths), residual, strict=True)
        )
        # A batch norm here makes every channel equally loud, rare ones too: letters go unread.
        last = config.channels[-1]
        self.norm = _norm("group", last) if config.norm == "group" else nn.Identity()
        self.place = None
        if config.place_std > 0:
            self.place = nn.Parameter(torch.zeros(last, config.map_side, config.map_side))
        self.position = nn.Parameter(torch.zeros(config.tokens, config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, SmallVisionModel):
            init.normal_(module.position, std=module.config.position_std)
            if module.place is not None:
                init.normal_(module.place, std=module.config.place_std)

    def map(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> map [B, C, h, w] before columns are merged."""
        x = pixel_values.contiguous(memory_format=torch.channels_last)
        for stage in self.stages[:-1]:
            x = stage(x)
        return self.norm(self.stages[-1](x, self.place))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> tokens [B, N, D], row by row."""
        x = self.map(pixel_values).permute(0, 2, 3, 1)
        return x.reshape(len(x), self.config.tokens, self.config.hidden_size) + self.position
