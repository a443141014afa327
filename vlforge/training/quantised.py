"""What a stage goes on with, its language model in 8 or 4 bits where it asks for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlforge.checkpoints.checkpoint import Layout, Parts, meta_model
from vlforge.checkpoints.index import match
from vlforge.checkpoints.vlforge_adapter import VlforgeAdapterLayout
from vlforge.inference.placing import part_in_family, placing, quantising
from vlforge.models.config import ModelSpec
from vlforge.models.families import family_of, find_family
from vlforge.models.folder import ModelFolder, read_folder
from vlforge.models.parts.internlm2 import is_internlm2, llama_config
from vlforge.models.parts.language import build_language, text_config
from vlforge.models.reading import read_config, read_processor, read_tokenizer
from vlforge.training.config import TrainConfig
from vlforge.training.precision import DTYPES
from vlforge.types import Loading, ModelError


def open_base(config: TrainConfig, path: Path, device: torch.device) -> ModelFolder:
    """The model in a folder, ours or in another project's layout, with its adapters merged.

    Raises:
        ModelError: no model, one of another kind, or bitsandbytes is missing.
    """
    layout = _layout_of(path)
    if layout is not None:
        return _merged(layout, path, config, device)
    how: dict[str, Any] = {}
    if config.quantise != "none":
        kind = family_of(read_config(path).get("model_type"))
        if kind is None:
            return read_folder(path)  # which says what the folder is instead
        config_class: Any = find_family(kind).config_class
        how = _placing(config, config_class.from_pretrained(path), device)
    return read_folder(path, dialect=config.tokenizer, **how)


def quantised_parts(config: TrainConfig, spec: ModelSpec, device: torch.device) -> dict[str, Any]:
    """Arguments for reading the language model of parts that are put together."""
    if config.quantise == "none":
        return {}
    with torch.device("meta"):
        fields = read_config(Path(spec.language))
        config_of = llama_config if is_internlm2(fields) else text_config
        bare = build_language(config_of(fields))
    dtype = DTYPES[config.precision]
    asked = quantising(config.quantise, dtype, bare, lambda name: "language")
    return {"quantization_config": asked, "device_map": {"": str(device)}}


def _layout_of(path: Path) -> Layout | None:
    """The layout of what is no plain folder of ours; None where `read_folder` has to say."""
    adapted = VlforgeAdapterLayout()
    if adapted.matches(path):
        return adapted
    if (path / "config.json").is_file() and family_of(read_config(path).get("model_type")):
        return None
    found = match(path) if path.exists() else None
    return None if found is None or getattr(found, "is_part", False) else found


def _merged(layout: Layout, path: Path, config: TrainConfig, device: torch.device) -> ModelFolder:
    found = layout.read(path, Parts())
    how = {} if config.quantise == "none" else _placing(config, found.config, device)
    model = found.build(**how)
    if found.tokenizer is None:
        raise ModelError(f"{path} has no tokenizer; copy it from where the model is from")
    if found.processor is None:
        vision = found.config.vision_config
        processor = read_processor(path, vision, found.config.image_aspect_ratio)
    else:
        processor = found.processor
    dialect = found.dialect if config.tokenizer == "auto" else config.tokenizer
    return ModelFolder(
        model,
        read_tokenizer(found.tokenizer, dialect),
        model.adapt_processor(processor),
        found.template,
        tuple(found.extra.get("history", ())),
    )


def _placing(config: TrainConfig, fields: Any, device: torch.device) -> dict[str, Any]:
    loading = Loading(quantise=config.quantise)
    dtype = DTYPES[config.precision]
    return placing(loading, device, dtype, meta_model(fields), part_in_family)
