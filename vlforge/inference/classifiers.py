"""Classifiers of pictures (ViT, Swin, ConvNeXt and others) and of texts, read from folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from vlforge.inference.prompts import Batches
from vlforge.inference.vision_models import (
    config_of,
    open_image_processor,
    open_model,
    open_tokenizer,
    pixels_for,
)
from vlforge.types import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels

USE = "a classifier of pictures or texts"


def open_classifier(models: LocalModels, path: str) -> LocalClassifier:
    """The classifier in the folder `path`, opened once per process.

    Raises:
        ModelError: no such folder, a folder of something else, or weights that do not fit.
    """
    made: LocalClassifier = models.keep(("classifier", path), lambda: _opened(models, path))
    return made


def _opened(models: LocalModels, path: str) -> LocalClassifier:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
    from transformers.models.auto import modeling_auto as known

    fields = config_of(path, USE)
    kind, named = fields.get("model_type"), fields.get("architectures") or [""]
    of_pictures = _names(known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, kind)
    of_texts = _names(known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, kind)
    if named[0] in of_pictures:
        model = open_model(models, path, AutoModelForImageClassification)
        return LocalClassifier(model, open_image_processor(path), None, models.batch)
    if named[0] in of_texts:
        model = open_model(models, path, AutoModelForSequenceClassification)
        return LocalClassifier(model, None, open_tokenizer(path), models.batch)
    what = named[0] or f"model of type {kind!r}"
    raise ModelError(f"{path} holds a {what}, which does not classify; give the folder of {USE}")


def _names(mapping: Mapping[str, Any], kind: Any) -> Sequence[str]:
    found = mapping.get(kind, ())
    return (found,) if isinstance(found, str) else tuple(found)


class LocalClassifier:
    """Probabilities of the classes that a model was trained on; a `Classifier`."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, batch: int = 32):
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        self.batches = Batches(batch)
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
        told = model.config.id2label
        self.labels = tuple(str(told[place]) for place in sorted(told))

    def classify_images(self, images: Sequence[Image]) -> list[list[float]]:
        """Probabilities per picture, in the order of `labels`.

        Raises:
            ModelError: the model reads texts.
        """
        if self.processor is None:
            raise ModelError(f"{self.model.name_or_path} classifies texts, not pictures")
        return self.batches.run(images, self._images, length=lambda _: 0)

    def classify_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Probabilities per text, in the order of `labels`; a long text by its beginning.

        Raises:
            ModelError: the model sees pictures.
        """
        if self.tokenizer is None:
            raise ModelError(f"{self.model.name_or_path} classifies pictures, not texts")
        return self.batches.run(texts, self._texts, length=len)

    @torch.inference_mode()
    def _images(self, images: list[Image]) -> list[list[float]]:
        return self._chances(pixels_for(self.model, self.processor, images))

    @torch.inference_mode()
    def _texts(self, texts: list[str]) -> list[list[float]]:
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self._limit(), return_tensors="pt"
        ).to(self.model.device)
        return self._chances(dict(inputs))

    def _limit(self) -> int:
        """Tokens of a text that are read: what model and tokenizer both take."""
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None) or 512
        # RoBERTa counts its positions from behind the padding's.
        if str(config.model_type) in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
            positions -= config.pad_token_id + 1
        return min(positions, self.tokenizer.model_max_length)

    def _chances(self, inputs: dict[str, Any]) -> list[list[float]]:
        """Softmax over exclusive classes, a sigmoid each over others, as the model was trained.

        A model that was trained to give a number gives it as it is.
        """
        logits = self.model(**inputs).logits.float()
        problem = self.model.config.problem_type
        if problem == "regression":
            return logits.tolist()
        if problem == "multi_label_classification" or logits.shape[-1] == 1:
            return logits.sigmoid().tolist()
        return logits.softmax(-1).tolist()
