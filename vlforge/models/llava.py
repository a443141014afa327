"""The LLaVA family: one vision encoder, a connector, a language model.

A picture's tokens are projected into the language model's embedding space and
stand where the conversation says `<image>` (id -200). LLaVA 1.6 looks at tiles of a
picture and joins their tokens (`parts/anyres.py`).

Source: LLaVA-1.5 and 1.6, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.base import FamilyConfig, Sizes, VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.parts.anyres import DEFAULT_TILES, Tiling, read_pinpoints
from vlforge.models.parts.connector import Connector, build_connector
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.tags import HEAD_NAME, Tagger
from vlforge.models.parts.vision import VisionTower
from vlforge.models.parts.word_connector import word_connector
from vlforge.models.reading import read_tensors, read_vision
from vlforge.models.stages import USUAL, Stages
from vlforge.types import ModelError

TILE_FIELDS = {
    "patch_merge": "flat", "image_grid_pinpoints": None, "rounds_tiles": False, "max_tiles": 0,
}  # fmt: skip
"""Fields that are written only where they say something: files from before tiles stay as
they are."""


class LlavaConfig(FamilyConfig):
    """What a `LlavaModel` is made of; the last four fields are those of `Tiling`.

    `image_grid_pinpoints` are (width, height) in pixels.
    """

    model_type = "vlforge_llava"

    connector: str = "mlp2x_gelu"
    connector_width: int | None = None
    select_layer: int = -2
    select_feature: str = "patch"
    patch_merge: str = "flat"
    image_grid_pinpoints: list[tuple[int, int]] | list[list[int]] | None = None
    rounds_tiles: bool = False
    max_tiles: int = 0

    @property
    def tiling(self) -> Tiling | None:
        """How pictures are tiled; None where each is one tile."""
        if self.image_aspect_ratio != "anyres":
            return None
        vision: Any = self.vision_config
        if not hasattr(vision, "patch_size"):
            raise ModelError(
                f"image_aspect_ratio anyres needs CLIP or SigLIP, not {vision.model_type}"
            )
        side = int(vision.image_size)
        grids = self.image_grid_pinpoints or [(w * side, h * side) for w, h in DEFAULT_TILES]
        has_class_token = vision.model_type == "clip_vision_model"
        return Tiling(
            pinpoints=tuple((int(w), int(h)) for w, h in grids),
            side=side,
            patches=side // int(vision.patch_size),
            merge=self.patch_merge,
            extra=int(has_class_token and self.select_feature == "cls_patch"),
            rounds=self.rounds_tiles,
            max_tiles=self.max_tiles,
        )

    def to_dict(self) -> dict[str, Any]:
        """As transformers'; what is about tiles only where it is set."""
        fields = super().to_dict()
        return {
            name: value
            for name, value in fields.items()
            if name not in TILE_FIELDS or value != TILE_FIELDS[name]
        }


class LlavaModel(VisionLanguageModel):
    """Patch tokens of one encoder through an MLP."""

    config_class = LlavaConfig
    config: LlavaConfig
    family = "llava"
    _no_split_modules = ("VisionTower", "Connector")

    def build(self, config: LlavaConfig) -> None:
        """Tower and connector, and the token that ends a line of tiles."""
        self.vision = VisionTower(config.vision_config, config.select_layer, config.select_feature)
        width = config.text_config.hidden_size
        self.connector = build_connector(
            config.connector, self.vision.width, width, config.connector_width
        )
        self.tiling = config.tiling
        if self.tiling is not None and self.tiling.has_newline:
            self.image_newline = nn.Parameter(torch.empty(width))
        else:
            self.image_newline = None

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.image_newline is not None:
            init.normal_(self.image_newline, std=self.image_newline.shape[0] ** -0.5)

    @property
    def stages(self) -> Stages:
        """LLaVA's; its first stage trains `mm_projector` alone, also where tiles have a newline."""
        if self.image_newline is None:
            return USUAL
        return {**USUAL, "instruct": (*USUAL["instruct"], "image_newline")}

    def adapt_processor(self, processor: ImageProcessor) -> ImageProcessor:
        """The encoder's own, which learns here into which tiles to cut."""
        if self.tiling is None:
            return processor
        return replace(processor, fit_mode="anyres", pinpoints=self.tiling.pinpoints)

    @property
    def needs_sizes(self) -> bool:
        """With tiles."""
        return self.tiling is not None

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the language model, where it is one tile."""
        if self.tiling is not None:
            return super().image_tokens
        return int(self.vision.tokens)

    def count(self, sizes: Sizes) -> list[int]:
        """Tokens of pictures; size (0, 0) is a blank of one tile."""
        if self.tiling is None:
            return super().count(sizes)
        return [self.tiling.tokens(size) for size in sizes]

    def project(self, features: Any, sizes: Sizes | None = None) -> Tensor | list[Tensor]:
        """Features of all tiles of all pictures -> each picture's tokens, joined."""
        tokens = super().project(features)
        if self.tiling is None:
            return tokens
        if sizes is None:
            raise ModelError("llava: tiles cannot be joined without the pictures' sizes")
        newline = None
        if self.image_newline is not None:
            newline = self.image_newline.to(tokens.device) * self.picture_scale
        parts = tokens.split([self.tiling.tiles(size) for size in sizes])
        return [
            self.tiling.join(part, size, newline) for part, size in zip(parts, sizes, strict=True)
        ]

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """A model of a vision folder and a language model.

        `connector_weights` is an mm_projector.bin (`pretrain_mm_mlp_adapter`).
        """
        vision = read_vision(Path(spec.vision))
        pinpoints = spec.image_grid_pinpoints
        if pinpoints:
            pinpoints = read_pinpoints(pinpoints, vision.config.image_size)
        connector = _initial_connector(spec, tokenizer, language)
        config = LlavaConfig(
            vision_config=vision.config,
            text_config=language.config,
            connector=spec.connector,
            connector_width=None if connector is None else connector[0].out_features,
            select_layer=spec.select_layer,
            select_feature=spec.select_feature,
            image_aspect_ratio=spec.image_aspect_ratio,
            patch_merge=spec.patch_merge,
            image_grid_pinpoints=list(pinpoints) or None,
        )
        model = cls(config)
        model.vision.load(vision)
        model.language = language
        if connector is not None:
            model.connector = connector
        if spec.connector_weights is not None:
            model.load_connector(Path(spec.connector_weights))
        return model

    def load_connector(self, path: Path) -> None:
        """Take over an mm_projector.bin, by LLaVA's names or ours.

        Raises:
            ModelError: it is none, or of another model.
        """
        found = {_connector_name(key): tensor for key, tensor in read_tensors(path).items()}
        self.take_connector(found, path)

    @torch.no_grad()
    def take_connector(self, found: Mapping[str, Tensor], path: Path) -> None:
        """Take over the connector's tensors by its own names; `path` is where they are from.

        Raises:
            ModelError: one is not there, or of another model.
        """
        for name, place in self.connector.state_dict().items():
            if name not in found:
                raise ModelError(
                    f"{path} has no {name} of the connector; it is no mm_projector.bin"
                )
            if found[name].shape != place.shape:
                raise ModelError(
                    f"{path}: {name} has shape {list(found[name].shape)}, and this model's "
                    f"connector has {list(place.shape)}"
                )
            place.copy_(found[name])


def _connector_name(key: str) -> str:
    """The name within the connector of a tensor that has one; others stay as they are."""
    for begin in ("mm_projector.", "connector."):
        if begin in key:
            return key.split(begin, 1)[1]
    return key


def _initial_connector(spec: ModelSpec, tokenizer: Any, language: Any) -> Connector | None:
    """The connector where it does not start at random; None where it does."""
    if spec.connector_init == "random":
        return None
    if spec.connector != "mlp2x_gelu":
        raise ModelError(f"connector_init tags needs connector mlp2x_gelu, not {spec.connector!r}")
    if not (Path(spec.vision) / HEAD_NAME).exists():
        raise ModelError(
            f"{spec.vision}: connector_init tags needs an encoder that was trained on tags "
            f"(no {HEAD_NAME} here)"
        )
    embeddings = language.get_input_embeddings().weight.detach()
    return word_connector(
        Tagger.load(Path(spec.vision)), tokenizer, embeddings, spec.connector_gain
    )
