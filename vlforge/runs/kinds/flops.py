"""The cost of a model that need not exist yet, from the settings of the stages that make it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from vlforge.models.config import ModelSpec, SmallLanguageSpec, SmallVisionSpec
from vlforge.models.cost import (
    LanguageCost,
    ModelCost,
    VisionCost,
    connector_parameters,
    language_cost,
    model_cost,
    vision_cost,
)
from vlforge.recipe.references import split_reference
from vlforge.runs.job import Upstream
from vlforge.types import ModelError

_UNKNOWN_VOCABULARY = 1000
"""Tokens of a tokenizer that is still to be trained."""


def small_vision_cost(spec: Mapping[str, Any] | SmallVisionSpec) -> VisionCost:
    """Cost of the small convolutional encoder with these settings."""
    fields = {**asdict(SmallVisionSpec()), **(asdict(spec) if is_dataclass(spec) else spec)}  # type: ignore[call-overload, dict-item]
    return vision_cost({"model_type": "vlforge_small_vision", **fields})


def small_language_cost(spec: Mapping[str, Any] | SmallLanguageSpec) -> LanguageCost:
    """Cost of the small decoder with these settings."""
    fields = {**asdict(SmallLanguageSpec()), **(asdict(spec) if is_dataclass(spec) else spec)}  # type: ignore[call-overload, dict-item]
    return language_cost(
        {
            "hidden_size": fields["hidden_size"],
            "num_hidden_layers": fields["layers"],
            "num_attention_heads": fields["heads"],
            "intermediate_size": fields["intermediate_size"],
            "tie_word_embeddings": fields["tie_embeddings"],
            "vocab_size": _UNKNOWN_VOCABULARY,
        }
    )


def cost_of(model: ModelSpec | str, inputs: Mapping[str, Upstream]) -> ModelCost | None:
    """Cost of three nouns or of one model, made by stages or lying in folders; None if unknown."""
    if isinstance(model, ModelSpec):
        return _assembled(model, inputs)
    found = split_reference(model)
    upstream = inputs.get(found[0]) if found else None
    if upstream is None:
        config = _read_config(Path(model))
        return _known(config) if config else None
    inner = upstream.settings.get("model")
    if isinstance(inner, Mapping):
        return cost_of(ModelSpec(**inner), upstream.inputs)
    return cost_of(inner, upstream.inputs) if isinstance(inner, str) else None


def _assembled(model: ModelSpec, inputs: Mapping[str, Upstream]) -> ModelCost | None:
    try:
        vision = _vision(model.vision, model.select_layer, inputs)
        language = _language(model.language, inputs)
    except (ModelError, KeyError, TypeError):
        return None
    if vision is None or language is None:
        return None
    joined = connector_parameters(model.connector, vision.width, language.width)
    return ModelCost(vision, language, joined)


def _vision(path: str, select_layer: int, inputs: Mapping[str, Upstream]) -> VisionCost | None:
    upstream = _stage(path, inputs)
    if upstream is not None:
        return small_vision_cost(upstream.settings.get("vision") or {})
    config = _read_config(Path(path))
    return vision_cost(config.get("vision_config", config), select_layer) if config else None


def _language(path: str, inputs: Mapping[str, Upstream]) -> LanguageCost | None:
    upstream = _stage(path, inputs)
    if upstream is not None:
        return small_language_cost(upstream.settings.get("language") or {})
    config = _read_config(Path(path))
    return language_cost(config.get("text_config", config)) if config else None


def _stage(path: str, inputs: Mapping[str, Upstream]) -> Upstream | None:
    found = split_reference(path)
    return inputs.get(found[0]) if found else None


def _known(config: Mapping[str, Any]) -> ModelCost | None:
    try:
        return model_cost(config)
    except (ModelError, KeyError, TypeError):
        return None


def _read_config(folder: Path) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config
