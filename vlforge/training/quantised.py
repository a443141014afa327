"""What a stage goes on with, its language model in 8 or 4 bits where it asks for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlforge.checkpoints.checkpoint import Parts, meta_model
from vlforge.checkpoints.vlforge_adapter import VlforgeAdapterLayout
from vlforge.inference.placing import part_in_family, placing, quantising
from vlforge.models.config import ModelSpec
from vlforge.models.families import family_of, find_family
from vlforge.models.folder import ModelFolder, read_folder
from vlforge.models.parts.language import build_language, text_config
from vlforge.models.reading import read_config, read_tokenizer
from vlforge.training.config import TrainConfig
from vlforge.training.precision import DTYPES
from vlforge.types import Loading, ModelError


def open_base(config: TrainConfig, path: Path, device: torch.device) -> ModelFolder:
    """The model in a folder of ours; one with adapters is opened with these merged.

    Raises:
        ModelError: no model of ours, or bitsandbytes is missing.
    """
    layout = VlforgeAdapterLayout()
    if layout.matches(path):
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
        bare = build_language(text_config(read_config(Path(spec.language))))
    dtype = DTYPES[config.precision]
    asked = quantising(config.quantise, dtype, bare, lambda name: "language")
    return {"quantization_config": asked, "device_map": {"": str(device)}}


def _merged(
    layout: VlforgeAdapterLayout, path: Path, config: TrainConfig, device: torch.device
) -> ModelFolder:
    found = layout.read(path, Parts())
    how = {} if config.quantise == "none" else _placing(config, found.config, device)
    model = found.build(**how)
    if found.tokenizer is None or found.processor is None:
        raise ModelError(f"{path} has no tokenizer; copy the stage's folder again")
    return ModelFolder(
        model,
        read_tokenizer(found.tokenizer, config.tokenizer),
        found.processor,
        found.template,
        tuple(found.extra["history"]),
    )


def _placing(config: TrainConfig, fields: Any, device: torch.device) -> dict[str, Any]:
    loading = Loading(quantise=config.quantise)
    dtype = DTYPES[config.precision]
    return placing(loading, device, dtype, meta_model(fields), part_in_family)
