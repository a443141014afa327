"""Encoders of pictures and texts, read from folders: CLIP, Chinese-CLIP, SigLIP, SigLIP 2.

Of pictures alone: DINOv2 and the vision parts of CLIP and SigLIP. What a picture or text
gives does not depend on what it is batched with.

I pictures, T texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlforge.inference.heads import AESTHETICS
from vlforge.inference.prompts import Batches
from vlforge.inference.vision_models import (
    config_of,
    open_image_processor,
    open_model,
    open_tokenizer,
    pixels_for,
    processor_fields,
)
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.types import ModelError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels
    from vlforge.inference.text_embeddings import EndpointEmbedder, TextEmbedder

CLASSES = {
    "clip": "CLIPModel",
    "chinese_clip": "ChineseCLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
}
"""Class in transformers by the `model_type` of `config.json`."""
IMAGES_ALONE = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""The same of encoders that read no text."""
USE = "a CLIP, Chinese-CLIP or SigLIP model"


def embeds(model_type: Any) -> bool:
    """Whether folders with this `model_type` hold an encoder of pictures and texts."""
    return model_type in CLASSES


def open_embedder(
    models: LocalModels, path: str
) -> LocalEmbedder | TextEmbedder | EndpointEmbedder:
    """The encoder in the folder `path`, or behind the endpoint of that name; opened once.

    Raises:
        ModelError: no such folder, a folder of something else, or weights that do not fit.
    """
    from vlforge.inference import text_embeddings

    if path in models.endpoints:
        spec = models.endpoints[path]
        return text_embeddings.EndpointEmbedder(spec)
    fields = config_of(path, USE)
    if fields.get("model_type") not in {*CLASSES, *IMAGES_ALONE}:
        if text_embeddings.embeds_texts(fields):
            return text_embeddings.open_text_embedder(models, path, fields)
        raise ModelError(
            f"{path} holds a model of type {fields.get('model_type')!r}, which has no embedding of "
            f"its own for pictures and texts; give the folder of {USE}"
        )
    made: LocalEmbedder = models.keep(
        ("embedder", path), lambda: LocalEmbedder.open(models, path, fields)
    )
    return made


class LocalEmbedder:
    """Unit vectors of pictures and texts; an `Embedder`.

    `scale` and `bias` are the model's own: its logits are `scale * cosine + bias`.
    """

    def __init__(self, model: Any, tokenizer: Any, pixels: Pixels, batch: int = 32):
        self.model = model
        self.tokenizer = tokenizer
        self.pixels = pixels
        self.batches = Batches(batch)
        self.scale = _scale(model)
        self.bias = float(getattr(model, "logit_bias", 0.0))
        self.is_siglip = str(model.config.model_type).startswith("siglip")

    @classmethod
    def open(cls, models: LocalModels, path: str, fields: dict[str, Any]) -> LocalEmbedder:
        """From a folder whose `config.json` holds `fields`."""
        import transformers

        name = fields["model_type"]
        has_head = bool(set(fields.get("architectures") or ()) & set(AESTHETICS))
        kind = getattr(transformers, (CLASSES | IMAGES_ALONE)[name])
        model = open_model(models, path, kind, is_part=has_head)
        if name == "siglip2":
            pixels: Pixels = ManyPatches(model, open_image_processor(path))
        else:
            pixels = SquarePixels(model, ImageProcessor.from_json(processor_fields(path)))
        tokenizer = None if name in IMAGES_ALONE else open_tokenizer(path)
        return cls(model, tokenizer, pixels, models.batch)

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """Unit vectors [I, D], float32."""
        return _stacked(self.batches.run(images, self._images, length=lambda _: 0))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [T, D], float32; what exceeds the model's positions is cut.

        SigLIP reads small letters padded to its full length, as it was trained.

        Raises:
            ModelError: the encoder is of pictures alone.
        """
        if self.tokenizer is None:
            raise ModelError(
                f"{self.model.name_or_path} encodes pictures alone; give the folder of {USE}"
            )
        return _stacked(self.batches.run(texts, self._texts, length=len))

    @torch.inference_mode()
    def _images(self, images: list[Image]) -> list[Tensor]:
        if self.tokenizer is None:
            seen = self.model(**self.pixels(images))
            return _unit(getattr(seen, "image_embeds", seen.get("pooler_output")))
        return _unit(self.model.get_image_features(**self.pixels(images)).pooler_output)

    @torch.inference_mode()
    def _texts(self, texts: list[str]) -> list[Tensor]:
        inputs = self.tokenizer(
            [text.lower() for text in texts] if self.is_siglip else texts,
            padding="max_length" if self.is_siglip else True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        given = {"input_ids": inputs["input_ids"]} if self.is_siglip else dict(inputs)
        return _unit(self.model.get_text_features(**given).pooler_output)


class SquarePixels:
    """Pictures of one size, as CLIP and SigLIP take them: 8 bits a channel until the device."""

    def __init__(self, model: Any, processor: ImageProcessor):
        self.model = model
        self.processor = processor

    def __call__(self, images: list[Image]) -> dict[str, Tensor]:
        fitted = torch.stack([torch.from_numpy(self.processor.fit(one).copy()) for one in images])
        pixels = self.processor.normalise(fitted.to(self.model.device))
        return {"pixel_values": pixels.to(self.model.dtype)}


class ManyPatches:
    """Pictures of any shape as rows of patches, as SigLIP 2 with its own shapes takes them."""

    def __init__(self, model: Any, processor: Any):
        self.model = model
        self.processor = processor

    def __call__(self, images: list[Image]) -> dict[str, Tensor]:
        return pixels_for(self.model, self.processor, images)


Pixels = SquarePixels | ManyPatches


def _scale(model: Any) -> float:
    scale = getattr(model, "logit_scale", None)
    return float(scale.exp()) if scale is not None else 1.0


def _unit(features: Tensor) -> list[Tensor]:
    return list(F.normalize(features.float(), dim=-1).cpu())


def _stacked(vectors: Sequence[Tensor]) -> np.ndarray:
    import numpy as np

    made = torch.stack(list(vectors)).numpy() if vectors else np.zeros((0, 0), np.float32)
    return np.ascontiguousarray(made, dtype=np.float32)
