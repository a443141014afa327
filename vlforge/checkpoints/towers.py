"""Vision encoders that a checkpoint holds, or only points to.

LLaVA and its relatives name their encoder (`openai/clip-vit-large-patch14-336`) and
often carry its weights too; its shape is written in neither place. The encoders that
the published models use are known here, so that such a checkpoint is read by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.weights import Lazy, Weights, has_weights, open_weights
from vlforge.models.parts.image_processor import FILE_NAME, ImageProcessor
from vlforge.models.parts.vision import vision_config
from vlforge.models.reading import read_config, read_processor
from vlforge.types import ModelError

_CLIP = {"model_type": "clip_vision_model", "hidden_act": "quick_gelu"}
_CLIP_L = _CLIP | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_SIGLIP = {"model_type": "siglip_vision_model"}
KNOWN: Mapping[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": _CLIP_L | {"image_size": 336},
    "openai/clip-vit-large-patch14": _CLIP_L | {"image_size": 224},
    "openai/clip-vit-base-patch16": _CLIP | {"image_size": 224, "patch_size": 16},
    "google/siglip-so400m-patch14-384": _SIGLIP | {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "patch_size": 14, "image_size": 384,
    },
    "google/siglip-base-patch16-224": _SIGLIP | {"image_size": 224, "patch_size": 16},
}  # fmt: skip
"""Configurations of published encoders by their names on the hub."""

_SHAPE = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act",
    "num_attention_heads", "patch_size", "image_size",
)  # fmt: skip
_DROPPED = ("text_model.", "visual_projection.", "text_projection.", "logit_", "vision_proj")
"""What else a whole CLIP or SigLIP holds."""


@dataclass(frozen=True)
class Tower:
    """An encoder: its configuration, its weights if they lie apart, its image processor.

    weights: names below the tower (`encoder.layers.0.…`); empty where the checkpoint
        itself holds them.
    """

    config: PreTrainedConfig
    weights: Weights
    processor: ImageProcessor | None = None


def read_tower(folder: Path, fit_mode: str) -> Tower:
    """The encoder in a folder; of a whole CLIP or SigLIP its tower.

    Raises:
        ModelError: no folder there, or one of something else.
    """
    if not folder.is_dir():
        raise ModelError(f"no vision encoder at {folder}; check the path")
    config = vision_config(read_config(folder))
    weights = open_weights(folder) if has_weights(folder) else {}
    processor = read_processor(folder, config, fit_mode) if (folder / FILE_NAME).exists() else None
    return Tower(config, tower_weights(weights), processor)


def tower_weights(weights: Weights, prefix: str = "") -> dict[str, Lazy]:
    """What below `prefix` is the tower's, under the names that transformers 5 has for it."""
    found = {}
    for name, lazy in weights.items():
        if not name.startswith(prefix):
            continue
        below = name.removeprefix(prefix)
        if not below.startswith(_DROPPED) and not below.endswith("position_ids"):
            found[below.removeprefix("vision_model.")] = lazy
    return found


def find_tower(name: str, beside: Path, given: Path | None, fit_mode: str) -> Tower:
    """The encoder that a checkpoint calls `name`: the user's folder, one on this disk, or known.

    Args:
        beside: the checkpoint, which a relative name may start from.

    Raises:
        ModelError: it is nowhere; says how to name it.
    """
    if given is not None:
        return read_tower(given, fit_mode)
    for folder in (beside / name, Path(name)) if name else ():
        if (folder / "config.json").is_file():
            return read_tower(folder, fit_mode)
    config = known_config(name)
    if config is not None:
        return Tower(config, {})
    raise ModelError(
        f"{beside} leaves its vision encoder {name!r} out; name its folder with --vision"
    )


def known_config(name: str) -> PreTrainedConfig | None:
    """Configuration of a published encoder, by the end of its name; None if it is unknown."""
    for known, fields in KNOWN.items():
        if Path(name).name == Path(known).name:
            return vision_config(fields)
    return None


def known_name(config: PreTrainedConfig) -> str | None:
    """Name on the hub of the published encoder that has this configuration."""
    for name, fields in KNOWN.items():
        known = vision_config(fields).to_dict()
        ours = config.to_dict()
        if all(ours.get(key) == known.get(key) for key in _SHAPE):
            return name
    return None


def cut_tower(config: PreTrainedConfig, held: Weights, layer: int) -> tuple[PreTrainedConfig, int]:
    """Configuration and selected layer of a tower that is saved without its last layers.

    LLaVA-NeXT drops SigLIP's last layer and its head before training; such a
    checkpoint is whole all the same, as nothing after the selected layer runs.
    """
    numbers = [int(n) for n in re.findall(r"(?m)^encoder\.layers\.(\d+)\.", "\n".join(held))]
    depth, found = int(config.num_hidden_layers), max(numbers, default=-1) + 1
    fields = config.to_dict()
    has_head = any(name.startswith("head.") for name in held)
    if fields.get("vision_use_head", True) and config.model_type == "siglip_vision_model":
        fields["vision_use_head"] = has_head
    run = layer if layer >= 0 else depth + 1 + layer
    if run <= found < depth:
        fields["num_hidden_layers"] = found
        layer = run - found - 1
    return vision_config(fields), layer
