"""The LLaVA family: one vision encoder, a connector, a language model.

A picture's tokens are projected into the language model's embedding space and
stand where the conversation says `<image>` (id -200).

Source: LLaVA-1.5, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from transformers.modeling_utils import PreTrainedModel

from vlforge.models.base import FamilyConfig, VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.parts.connector import Connector, build_connector
from vlforge.models.parts.tags import HEAD_NAME, Tagger
from vlforge.models.parts.vision import VisionTower
from vlforge.models.parts.word_connector import word_connector
from vlforge.models.reading import read_vision
from vlforge.types import ModelError


class LlavaConfig(FamilyConfig):
    """What a `LlavaModel` is made of."""

    model_type = "vlforge_llava"

    connector: str = "mlp2x_gelu"
    connector_width: int | None = None
    select_layer: int = -2
    select_feature: str = "patch"


class LlavaModel(VisionLanguageModel):
    """Patch tokens of one encoder through an MLP."""

    config_class = LlavaConfig
    config: LlavaConfig
    family = "llava"

    def build(self, config: LlavaConfig) -> None:
        """Tower and connector."""
        self.vision = VisionTower(config.vision_config, config.select_layer, config.select_feature)
        self.connector = build_connector(
            config.connector,
            self.vision.width,
            config.text_config.hidden_size,
            config.connector_width,
        )

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the language model."""
        return self.vision.tokens

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """A model of a vision folder and a language model."""
        vision = read_vision(Path(spec.vision))
        connector = _initial_connector(spec, tokenizer, language)
        config = LlavaConfig(
            vision_config=vision.config,
            text_config=language.config,
            connector=spec.connector,
            connector_width=None if connector is None else connector[0].out_features,
            select_layer=spec.select_layer,
            select_feature=spec.select_feature,
            image_aspect_ratio=spec.image_aspect_ratio,
        )
        model = cls(config)
        model.vision.load(vision)
        model.language = language
        if connector is not None:
            model.connector = connector
        return model


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
