"""Checkpoints in the layout that LLaVA itself writes.

Language keys as in Llama, `model.mm_projector.*`, and usually the vision tower
under `model.vision_tower.vision_tower.vision_model.*`; settings in `mm_*` keys
of the configuration.

Source: haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig

from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.vision import vision_config
from vlforge.models.reading import read_config
from vlforge.types import ModelError

TOWER, PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."


def read_llava(path: Path, vision: Path | None = None) -> LlavaModel:
    """A LLaVA-1.5 checkpoint as a `LlavaModel`, in fp32.

    Args:
        vision: folder of the CLIP tower; by default what the configuration
            names, beside the checkpoint.

    Raises:
        ModelError: a layout that is not read yet, or weights that do not land.
    """
    fields = read_config(path)
    if fields.get("mm_patch_merge_type", "flat") != "flat":
        raise ModelError(
            f"{path}: mm_patch_merge_type {fields['mm_patch_merge_type']!r} is not read; only flat"
        )
    if "mm_vision_tower" not in fields:
        raise ModelError(
            f"{path}: config.json names no mm_vision_tower; this is not LLaVA's layout"
        )
    vision = vision or path / fields["mm_vision_tower"]
    config = LlavaConfig(
        vision_config=vision_config(read_config(vision)),
        text_config=_language_config(fields),
        connector=fields.get("mm_projector_type", "linear"),
        select_layer=fields.get("mm_vision_select_layer", -2),
        select_feature=fields.get("mm_vision_select_feature", "patch"),
        image_aspect_ratio="pad" if fields.get("image_aspect_ratio") == "pad" else "square",
    )
    model = LlavaModel(config)
    state = {our_key(key): tensor.float() for key, tensor in _weights(vision, TOWER).items()}
    state |= {our_key(key): tensor.float() for key, tensor in _weights(path).items()}
    _land(model, state, path)
    return model.eval()


def our_key(key: str) -> str:
    """The name of one of LLaVA's tensors in a `LlavaModel`."""
    if key.startswith(TOWER):
        return "vision.tower." + key.removeprefix(TOWER).removeprefix("vision_model.")
    if key.startswith(PROJECTOR):
        return "connector." + key.removeprefix(PROJECTOR)
    return f"language.{key}"


def _language_config(fields: dict[str, Any]) -> LlamaConfig:
    """Llama's part of LLaVA's flat configuration."""
    own = {"model_type", "architectures", "transformers_version", "torch_dtype", "_name_or_path"}
    kept = {
        key: value
        for key, value in fields.items()
        if not key.startswith(("mm_", "tune_", "freeze_", "unfreeze_")) and key not in own
    }
    return LlamaConfig(**kept)


def _weights(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a folder, sharded or not, `.safetensors` or `.bin`."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ModelError(f"{folder} holds no model.safetensors and no pytorch_model.bin")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        files = [folder / name for name in sorted(names)]
    state: dict[str, Tensor] = {}
    for file in files:
        is_safe = file.suffix == ".safetensors"
        state |= load_file(file) if is_safe else torch.load(file, weights_only=True)
    return {prefix + key: tensor for key, tensor in state.items()}


def _land(model: LlavaModel, state: dict[str, Tensor], path: Path) -> None:
    """Load `state`; every tensor has to find its place, position tables of old files apart."""
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    state = {key: value for key, value in state.items() if "rotary_emb" not in key}
    missing, unexpected = model.load_state_dict(state, strict=False)
    lost = [key for key in missing if key not in model.all_tied_weights_keys]
    if lost or unexpected:
        raise ModelError(
            f"{path}: {len(lost)} weights are missing and {len(unexpected)} have no place, "
            f"the first is {[*lost, *unexpected][0]}"
        )
