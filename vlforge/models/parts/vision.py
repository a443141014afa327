"""Vision encoders behind one interface: pixels [B, 3, H, W] -> tokens [B, N, D]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.types import ModelError


def vision_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration class that `fields["model_type"]` names; a whole CLIP gives its tower.

    Raises:
        ModelError: an encoder that is not known here.
    """
    kind = fields.get("model_type")
    if kind == "clip":
        fields = fields["vision_config"] | {"model_type": "clip_vision_model"}
        kind = "clip_vision_model"
    classes = {"clip_vision_model": CLIPVisionConfig, "vlforge_small_vision": SmallVisionConfig}
    if kind not in classes:
        raise ModelError(f"vision encoder of type {kind!r} is unknown; known: {', '.join(classes)}")
    return classes[kind].from_dict(dict(fields))


def token_count(config: PreTrainedConfig, select_feature: str = "patch") -> int:
    """Tokens per picture."""
    if isinstance(config, SmallVisionConfig):
        return config.tokens
    patches = (config.image_size // config.patch_size) ** 2
    return patches + (select_feature == "cls_patch")


class VisionTower(nn.Module):
    """A vision encoder whose features are taken where the language model wants them.

    For CLIP, `select_layer` counts hidden states as transformers does (-2: before
    the last layer) and layers after it are neither run nor trained; `patch` drops
    the class token. The small encoder has one output and ignores both.
    """

    def __init__(
        self, config: PreTrainedConfig, select_layer: int = -2, select_feature: str = "patch"
    ):
        super().__init__()
        self.config = config
        self.select_feature = select_feature
        self.tower: PreTrainedModel
        if isinstance(config, SmallVisionConfig):
            self.tower = SmallVisionModel(config)
            self.layers_run = len(config.channels)
        else:
            self.tower = CLIPVisionModel(config)
            depth = config.num_hidden_layers
            self.layers_run = select_layer if select_layer >= 0 else depth + 1 + select_layer
            if not 0 <= self.layers_run <= depth:
                raise ModelError(
                    f"select_layer {select_layer} is outside an encoder of {depth} layers"
                )
            self._freeze_unused()

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return token_count(self.config, self.select_feature)

    @property
    def image_size(self) -> int:
        """Pixels a side that the encoder takes."""
        return self.config.image_size

    def _freeze_unused(self) -> None:
        """Layers that never run get no gradient; data-parallel training would wait for it."""
        unused = [*self.tower.encoder.layers[self.layers_run :], self.tower.post_layernorm]
        for module in unused:
            module.requires_grad_(False)

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on."""
        if isinstance(self.config, SmallVisionConfig):
            return set()
        unused = [f"tower.encoder.layers.{n}." for n in range(len(self.tower.encoder.layers))]
        prefixes = (*unused[self.layers_run :], "tower.post_layernorm.")
        return {name for name, _ in self.named_parameters() if name.startswith(prefixes)}

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised -> [B, N, D]."""
        if isinstance(self.config, SmallVisionConfig):
            return self.tower(pixels)
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.tower.encoder.layers[: self.layers_run]:
            hidden = layer(hidden, attention_mask=None)
        return hidden if self.select_feature == "cls_patch" else hidden[:, 1:]

    @torch.no_grad()
    def load(self, other: PreTrainedModel) -> None:
        """Take over the weights of an encoder of the same shape."""
        self.tower.load_state_dict(other.state_dict())
