"""Finding what words name in pictures: OWL-ViT and OWLv2, read from folders.

B pictures, P patches (each a candidate box), Q phrases, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlforge.inference.prompts import Batches
from vlforge.inference.vision_models import (
    config_of,
    open_image_processor,
    open_model,
    open_tokenizer,
    pixels_for,
)
from vlforge.types import Box, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels

CLASSES = {"owlvit": "OwlViTForObjectDetection", "owlv2": "Owlv2ForObjectDetection"}
"""Class in transformers by the `model_type` of `config.json`."""
USE = "an OWL-ViT or OWLv2 detector"
MOST_BOXES = 300
"""Boxes per picture that are told of, the surest; a model has one per patch, thousands."""


def open_grounder(models: LocalModels, path: str) -> LocalGrounder:
    """The detector in the folder `path`, opened once per process.

    Raises:
        ModelError: no such folder, a folder of something else, or weights that do not fit.
    """

    def opened() -> LocalGrounder:
        import transformers

        kind = config_of(path, USE).get("model_type")
        if kind not in CLASSES:
            raise ModelError(
                f"{path} holds a model of type {kind!r}, which finds no words in pictures; give "
                f"the folder of {USE}"
            )
        model = open_model(models, path, getattr(transformers, CLASSES[kind]))
        return LocalGrounder(model, open_tokenizer(path), open_image_processor(path), models.batch)

    made: LocalGrounder = models.keep(("grounder", path), opened)
    return made


class LocalGrounder:
    """Boxes of phrases by an open-vocabulary detector; a `Grounder`."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, batch: int = 32):
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.batches = Batches(batch)
        # OWLv2 pads a picture to a square below and to the right, and its boxes are of that.
        self.is_square = model.config.model_type == "owlv2"

    def ground(self, images: Sequence[Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Boxes per picture, the surest first: one per patch, of the phrase that fits it best.

        A picture without phrases has none. What exceeds the model's positions of a phrase
        is cut.
        """
        asked = list(zip(images, phrases, strict=True))
        places = [place for place, (_, said) in enumerate(asked) if said]
        # Few phrases together with few: those of a picture are filled up to the most.
        found = self.batches.run([asked[p] for p in places], self._some, lambda one: len(one[1]))
        boxes: list[list[Box]] = [[] for _ in asked]
        for place, row in zip(places, found, strict=True):
            boxes[place] = row
        return boxes

    @torch.inference_mode()
    def _some(self, asked: list[tuple[Image, Sequence[str]]]) -> list[list[Box]]:
        images = [image for image, _ in asked]
        words = self._words([phrases for _, phrases in asked])
        output = self.model(**words, **pixels_for(self.model, self.processor, images))
        best_BP = output.logits.float().max(-1)
        corners = _corners(output.pred_boxes.float()).cpu()
        scores, phrases = best_BP.values.sigmoid().cpu(), best_BP.indices.cpu()
        return [
            self._boxes(*row, image.size)
            for *row, image in zip(scores, phrases, corners, images, strict=True)
        ]

    def _words(self, phrases: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Ids [B * Q, L]; a phrase that only fills up is zeros, which the model leaves out."""
        most = max(map(len, phrases))
        length = self.model.config.text_config.max_position_embeddings
        ids = torch.zeros(len(phrases), most, length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        mask[..., 0] = 1
        flat = self.tokenizer(
            [phrase for row in phrases for phrase in row],
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        is_asked = torch.tensor([[q < len(row) for q in range(most)] for row in phrases])
        ids[is_asked], mask[is_asked] = flat["input_ids"], flat["attention_mask"]
        given = {"input_ids": ids.flatten(0, 1), "attention_mask": mask.flatten(0, 1)}
        return {name: value.to(self.model.device) for name, value in given.items()}

    def _boxes(
        self, scores_P: Tensor, phrases_P: Tensor, corners_P4: Tensor, size: tuple[int, int]
    ) -> list[Box]:
        wide, high = (max(size), max(size)) if self.is_square else size
        order = scores_P.argsort(descending=True, stable=True)[:MOST_BOXES]
        scaled = corners_P4[order] * torch.tensor([wide, high, wide, high])
        told = zip(
            scaled.tolist(), scores_P[order].tolist(), phrases_P[order].tolist(), strict=True
        )
        return [Box(*box, score, phrase) for box, score, phrase in told]


def _corners(boxes: Tensor) -> Tensor:
    """Centre, width and height -> left, top, right, bottom; shares of the picture's sides."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
