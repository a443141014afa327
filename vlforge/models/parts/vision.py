"""Vision encoders behind one interface: pixels [B, 3, H, W] -> tokens [B, N, D]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.types import ModelError

ENCODERS: dict[str, tuple[Any, Any]] = {
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
    "vlforge_small_vision": (SmallVisionConfig, SmallVisionModel),
}
"""Configuration and model of each `model_type` that one picture of one size goes into."""

WHOLE_MODELS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""Models of two sides and the type of their tower."""


def vision_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that `fields["model_type"]` names; a whole CLIP gives its tower.

    Raises:
        ModelError: an encoder that is not known here.
    """
    kind = fields.get("model_type")
    if kind in WHOLE_MODELS:
        kind = WHOLE_MODELS[kind]
        fields = fields["vision_config"] | {"model_type": kind}
    if kind not in ENCODERS:
        known = ", ".join(sorted([*ENCODERS, *WHOLE_MODELS]))
        raise ModelError(f"vision encoder of type {kind!r} is unknown; known: {known}")
    return ENCODERS[kind][0].from_dict(dict(fields))


def vision_class(config: PreTrainedConfig) -> Any:
    """The model class of an encoder's configuration."""
    return ENCODERS[config.model_type][1]


def token_count(config: PreTrainedConfig, select_feature: str = "patch") -> int:
    """Tokens per picture."""
    if isinstance(config, SmallVisionConfig):
        return config.tokens
    patches = (config.image_size // config.patch_size) ** 2
    has_class_token = config.model_type == "clip_vision_model"
    return patches + (has_class_token and select_feature == "cls_patch")


class VisionTower(nn.Module):
    """A vision encoder whose features are taken where the language model wants them.

    `select_layer` counts hidden states as transformers does (-2: before the last
    layer); layers after it are neither run nor trained. `patch` drops CLIP's class
    token. The small encoder has one output and ignores both.

    runs_unused: run the other layers too and forget what they make, as LLaVA does.
    """

    runs_unused: bool = False

    def __init__(
        self, config: PreTrainedConfig, select_layer: int = -2, select_feature: str = "patch"
    ):
        super().__init__()
        self.config = config
        self.select_feature = select_feature
        self.tower: PreTrainedModel = vision_class(config)(config)
        self.layers_run = 0
        if isinstance(config, SmallVisionConfig):
            return
        depth = config.num_hidden_layers
        self.layers_run = select_layer if select_layer >= 0 else depth + 1 + select_layer
        if not 0 <= self.layers_run <= depth:
            raise ModelError(f"select_layer {select_layer} is outside an encoder of {depth} layers")
        for parameter in self._unused():
            parameter.requires_grad_(False)  # data-parallel training would wait for a gradient

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return token_count(self.config, self.select_feature)

    @property
    def image_size(self) -> int:
        """Pixels a side that the encoder takes."""
        return int(self.config.image_size)

    @property
    def width(self) -> int:
        """Width of a token."""
        return int(self.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """What the pixels have to be."""
        return self.tower.dtype

    def _unused(self) -> list[nn.Parameter]:
        unused = [*self.tower.encoder.layers[self.layers_run :], self.tower.post_layernorm]
        unused += [self.tower.head] if hasattr(self.tower, "head") else []
        return [parameter for module in unused for parameter in module.parameters()]

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on."""
        if isinstance(self.config, SmallVisionConfig):
            return set()
        unused = {id(parameter) for parameter in self._unused()}
        return {name for name, parameter in self.named_parameters() if id(parameter) in unused}

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised -> [B, N, D]."""
        if isinstance(self.config, SmallVisionConfig):
            return self.tower(pixels)
        hidden = self.tower.embeddings(pixels)
        is_clip = self.config.model_type == "clip_vision_model"
        if is_clip:
            hidden = self.tower.pre_layrnorm(hidden)
        for layer in self.tower.encoder.layers[: self.layers_run]:
            hidden = layer(hidden, attention_mask=None)
        if self.runs_unused:
            self._run_unused(hidden)
        return hidden[:, 1:] if is_clip and self.select_feature == "patch" else hidden

    def _run_unused(self, hidden: Tensor) -> None:
        for layer in self.tower.encoder.layers[self.layers_run :]:
            hidden = layer(hidden, attention_mask=None)

    @torch.no_grad()
    def load(self, other: PreTrainedModel) -> None:
        """Take over the weights of an encoder of the same shape."""
        self.tower.load_state_dict(other.state_dict())
