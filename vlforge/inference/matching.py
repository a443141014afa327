"""BLIP's matching head: how likely a text and a picture belong together.

P pairs, I pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vlforge.inference.embedders import SquarePixels
from vlforge.inference.prompts import Batches
from vlforge.inference.score import distinct
from vlforge.inference.vision_models import (
    config_of,
    open_model,
    open_tokenizer,
    processor_fields,
)
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.types import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels

ARCHITECTURE = "BlipForImageTextRetrieval"


def open_matching(models: LocalModels, path: str) -> MatchingScorer:
    """The matcher in the folder `path`, opened once per process.

    Raises:
        ModelError: no such folder, another kind of BLIP, or weights that do not fit.
    """

    def opened() -> MatchingScorer:
        from transformers import BlipForImageTextRetrieval

        named = config_of(path, "a BLIP matching model").get("architectures")
        if named and ARCHITECTURE not in named:
            raise ModelError(
                f"{path} holds a {named[0]}, which cannot match texts with pictures; give the "
                f"folder of a {ARCHITECTURE}, such as Salesforce/blip-itm-base-coco"
            )
        model = open_model(models, path, BlipForImageTextRetrieval)
        processor = ImageProcessor.from_json(processor_fields(path))
        return MatchingScorer(model, open_tokenizer(path), processor, models.batch)

    made: MatchingScorer = models.keep(("matching", path), opened)
    return made


class MatchingScorer:
    """Probability that a text and a picture match, 0 to 1; a `Scorer`."""

    def __init__(self, model: Any, tokenizer: Any, processor: ImageProcessor, batch: int = 32):
        self.model = model
        self.tokenizer = tokenizer
        self.pixels = SquarePixels(model, processor)
        self.batches = Batches(batch)

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One probability per pair; what exceeds the model's positions of a text is cut."""
        pairs = list(zip(images, texts, strict=True))
        return self.batches.run(pairs, self._some, length=lambda pair: len(pair[1]))

    @torch.inference_mode()
    def _some(self, pairs: list[tuple[Image, str]]) -> list[float]:
        pictures, places = distinct([image for image, _ in pairs])
        seen_I = self.model.vision_model(**self.pixels(pictures)).last_hidden_state
        seen_P = seen_I[torch.tensor(places, device=seen_I.device)]
        inputs = self.tokenizer(
            [text for _, text in pairs],
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(seen_P.device)
        read = self.model.text_encoder(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            encoder_hidden_states=seen_P,
            encoder_attention_mask=seen_P.new_ones(seen_P.shape[:-1], dtype=torch.long),
        )
        logits = self.model.itm_head(read.last_hidden_state[:, 0]).float()
        return logits.softmax(-1)[:, 1].tolist()
