"""The cost of a model that need not exist yet, from the settings of the stages that make it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from vlforge.models.config import ModelSpec, SmallLanguageSpec, SmallVisionSpec
from vlforge.models.cost import ModelCost, model_cost
from vlforge.models.native_cost import full_config, is_counted, native_cost
from vlforge.models.sizes import CONVNEXT_L, EVA_VIT_G, PARTS, QFORMER, QWEN_7B, QWEN_VIT_G
from vlforge.recipe.references import split_reference
from vlforge.runs.job import Upstream
from vlforge.types import ModelError

_UNKNOWN_VOCABULARY = 1000
"""Tokens of a tokenizer that is still to be trained."""

Config = dict[str, Any]


def small_vision_config(spec: Mapping[str, Any] | SmallVisionSpec) -> Config:
    """What the small convolutional encoder's `config.json` will say."""
    fields = {**asdict(SmallVisionSpec()), **(asdict(spec) if is_dataclass(spec) else spec)}  # type: ignore[call-overload, dict-item]
    return {"model_type": "vlforge_small_vision", **fields}


def small_language_config(spec: Mapping[str, Any] | SmallLanguageSpec) -> Config:
    """What the small decoder's `config.json` will say, its vocabulary guessed."""
    fields = {**asdict(SmallLanguageSpec()), **(asdict(spec) if is_dataclass(spec) else spec)}  # type: ignore[call-overload, dict-item]
    return {
        "model_type": "llama",
        "hidden_size": fields["hidden_size"],
        "num_hidden_layers": fields["layers"],
        "num_attention_heads": fields["heads"],
        "intermediate_size": fields["intermediate_size"],
        "tie_word_embeddings": fields["tie_embeddings"],
        "vocab_size": _UNKNOWN_VOCABULARY,
    }


def cost_of(model: ModelSpec | str, inputs: Mapping[str, Upstream]) -> ModelCost | None:
    """Cost of three nouns or of one model, made by stages or lying in folders; None if unknown."""
    if isinstance(model, ModelSpec):
        return _assembled(model, inputs)
    found = split_reference(model)
    upstream = inputs.get(found[0]) if found else None
    if upstream is None:
        config = _read_config(Path(model))
        return _known(config) if config else None
    if upstream.kind == "miniature":
        return None
    inner = upstream.settings.get("model")
    if isinstance(inner, Mapping):
        return cost_of(ModelSpec(**inner), upstream.inputs)
    return cost_of(inner, upstream.inputs) if isinstance(inner, str) else None


def _assembled(model: ModelSpec, inputs: Mapping[str, Upstream]) -> ModelCost | None:
    try:
        text = _language(model.language, inputs)
        parts = _parts(model, inputs)
        return None if text is None or parts is None else model_cost(parts | {"text_config": text})
    except (ModelError, KeyError, TypeError):
        return None


def _parts(model: ModelSpec, inputs: Mapping[str, Upstream]) -> Config | None:
    """What `config.json` of the assembled model will say, but for its language model.

    Encoders that come as bare files (EVA, Q-Former, OpenCLIP) are of published sizes.
    """
    if model.family == "minigpt4":
        return {
            "model_type": "vlforge_minigpt4",
            "vision_config": EVA_VIT_G,
            "qformer_config": QFORMER,
        }
    vision = _vision(model.vision, inputs)
    if model.family == "qwen_vl":
        return {"model_type": "vlforge_qwen_vl", "vision_config": vision or QWEN_VIT_G}
    if vision is None:
        return None
    shared: Config = {
        "model_type": f"vlforge_{model.family}",
        "vision_config": vision,
        "connector": model.connector,
        "select_layer": model.select_layer,
        "image_aspect_ratio": model.image_aspect_ratio,
    }
    if model.family == "llava":
        return shared | {
            "image_grid_pinpoints": [list(pair) for pair in model.image_grid_pinpoints],
            "patch_merge": model.patch_merge,
        }
    high = _read_config(Path(model.vision_high or ""))
    return shared | {
        "vision_high_config": high or CONVNEXT_L,
        "image_size_high": model.image_size_high,
        "image_grid": model.image_grid,
        "image_global": model.image_global,
    }


def _vision(path: str, inputs: Mapping[str, Upstream]) -> Config | None:
    upstream = _stage(path, inputs)
    if upstream is not None:
        return small_vision_config(upstream.settings.get("vision") or {})
    config = _read_config(Path(path))
    if config is None or "visual" in config:
        return None if config is None else QWEN_VIT_G | config["visual"]
    kind = config.get("model_type")
    part = config.get("vision_config")
    return part | {"model_type": f"{kind}_vision_model"} if part else config


def _language(path: str, inputs: Mapping[str, Upstream]) -> Config | None:
    upstream = _stage(path, inputs)
    if upstream is not None and upstream.kind == "miniature":
        return None
    if upstream is not None:
        return small_language_config(upstream.settings.get("language") or {})
    config = _read_config(Path(path))
    return config.get("text_config", config) if config else None


def _stage(path: str, inputs: Mapping[str, Upstream]) -> Upstream | None:
    found = split_reference(path)
    return inputs.get(found[0]) if found else None


def family_of(model: ModelSpec | str, inputs: Mapping[str, Upstream]) -> str | None:
    """The family of a model that a stage makes or that lies in a folder; None if unknown."""
    if isinstance(model, ModelSpec):
        return model.family
    found = split_reference(model)
    upstream = inputs.get(found[0]) if found else None
    if upstream is None:
        kind = str(_ours(_read_config(Path(model)) or {}).get("model_type"))
        return kind.removeprefix("vlforge_") if kind.startswith("vlforge_") else None
    inner = upstream.settings.get("model")
    if isinstance(inner, Mapping):
        return str(inner.get("family", "llava"))
    return family_of(inner, upstream.inputs) if isinstance(inner, str) else None


def _known(config: Mapping[str, Any]) -> ModelCost | None:
    try:
        if is_counted(config):
            return native_cost(full_config(config))
        return model_cost(_ours(config))
    except (ModelError, KeyError, TypeError):
        return None


def _ours(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration as our folders have it; Qwen-VL's and MGen-VL's own name `visual`."""
    if "visual" not in config:
        return config
    text = dict(config) | {"model_type": QWEN_7B["model_type"]}
    vision = QWEN_VIT_G | dict(config["visual"])
    return {"model_type": "vlforge_qwen_vl", "vision_config": vision, "text_config": text}


def _read_config(folder: Path) -> dict[str, Any] | None:
    """What a folder's configuration says; of one that is not there yet, what its name tells.

    What a stage makes (`$made/vicuna-7b`, a miniature) is of no published size.
    """
    if str(folder).startswith("$"):
        return None
    if not folder.exists() and folder.name in PARTS:
        return dict(PARTS[folder.name])
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config
