"""A model folder: weights, tokenizer, image processor, and how the model was trained.

`config.json` and `model.safetensors` as transformers writes them, tokenizer
files, `preprocessor_config.json`, and `vlforge.json` with the family, the
template and the history of stages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vlforge import __version__
from vlforge.models.base import VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.families import family_of, find_family
from vlforge.models.parts import image_processor
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.reading import (
    check_vocabulary,
    load_weights,
    read_config,
    read_language,
    read_processor,
    read_tokenizer,
    write_json,
)
from vlforge.text.two_tokenizers import Dialect
from vlforge.types import ModelError

META_NAME = "vlforge.json"


@dataclass(frozen=True)
class ModelFolder:
    """A model with all that is needed to talk to it.

    `template` is the conversation template it was last trained with; `history`
    has one entry per stage, oldest first.
    """

    model: VisionLanguageModel
    tokenizer: Any
    processor: ImageProcessor
    template: str = "plain"
    history: tuple[dict[str, Any], ...] = ()


def assemble(spec: ModelSpec, language: PreTrainedModel | None = None, **how: Any) -> ModelFolder:
    """Put a model together from its parts' folders, in fp32.

    The connector is new: seed torch before calling.

    Args:
        language: the language model, where it is read already.
        how: more for the language model's `from_pretrained`, as in `read_folder`.

    Raises:
        ModelError: a part that is missing, of an unknown type, or does not fit.
    """
    if language is None:
        language = read_language(Path(spec.language), **how)
    tokenizer = read_tokenizer(Path(spec.tokenizer or spec.language), spec.tokenizer_dialect)
    check_vocabulary(tokenizer, language)
    model = find_family(spec.family).assemble(spec, language, tokenizer)
    processor = model.adapt_processor(
        read_processor(
            Path(spec.vision), model.config.vision_config, model.config.image_aspect_ratio
        )
    )
    if processor.size != model.image_size:
        raise ModelError(
            f"{spec.vision}: pictures of {processor.size} pixels for an encoder of "
            f"{model.image_size}; mend its {image_processor.FILE_NAME}"
        )
    return ModelFolder(model, tokenizer, processor)


def read_folder(
    path: Path, *, dtype: torch.dtype = torch.float32, dialect: Dialect = "auto", **how: Any
) -> ModelFolder:
    """Load a folder that `write_folder` wrote.

    Args:
        dialect: whose ids texts become; see `text.two_tokenizers`.
        how: more for `from_pretrained`: where weights go, and quantised how.

    Raises:
        ModelError: the folder is not a VLForge model, or weights are missing.
    """
    fields = read_config(path)
    family = family_of(fields.get("model_type"))
    if family is None:
        raise ModelError(
            f"{path} holds a model of type {fields.get('model_type')!r}, not one of ours; "
            "give vision and language folders, or the output of a train stage"
        )
    model = load_weights(find_family(family), path, dtype, **how)
    meta = json.loads((path / META_NAME).read_text()) if (path / META_NAME).exists() else {}
    processor = read_processor(path, model.config.vision_config, model.config.image_aspect_ratio)
    return ModelFolder(
        model=model,
        tokenizer=read_tokenizer(path, dialect),
        processor=processor,
        template=meta.get("template", "plain"),
        history=tuple(meta.get("history", ())),
    )


def write_folder(folder: ModelFolder, out: Path) -> None:
    """Write everything that `read_folder` reads; the same model gives the same bytes."""
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    config = folder.model.config
    for part in (config, config.vision_config, config.text_config, folder.model.language.config):
        part._name_or_path = ""  # where a part came from is history, not a property of the model
    folder.model.save_pretrained(out)
    folder.tokenizer.save_pretrained(out)
    write_json(out / image_processor.FILE_NAME, folder.processor.to_json())
    meta = {
        "family": folder.model.family,
        "template": folder.template,
        "image_aspect_ratio": folder.model.config.image_aspect_ratio,
        "history": list(folder.history),
        "vlforge_version": __version__,
    }
    write_json(out / META_NAME, meta)


def with_stage(folder: ModelFolder, template: str, stage: dict[str, Any]) -> ModelFolder:
    """The folder after one more stage of training with `template`."""
    return replace(folder, template=template, history=(*folder.history, stage))
