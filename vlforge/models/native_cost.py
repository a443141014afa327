"""What a native model of transformers costs, from its configuration alone. No torch here.

Weights are counted to the last one. A picture is one of 640 x 480 pixels where its size
decides how many tokens it takes, cut into tiles as the processors do by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.models.cost import ModelCost
from vlforge.models.part_costs import ConnectorCost, VisionCost, language_cost, vision_cost
from vlforge.types import ModelError

Config = Mapping[str, Any]
PICTURE = (640, 480)
"""Width and height of the picture that is counted where sizes matter."""
DECODERS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Decoders of native models that are others by another name."""


def native_cost(config: Config) -> ModelCost:
    """Cost of a whole configuration, defaults included (`full_config`).

    Raises:
        ModelError: an architecture that is not counted.
    """
    kind = str(config.get("model_type"))
    counts = COUNTED.get(kind)
    if counts is None:
        raise ModelError(f"the cost of a model of type {kind!r} is not known")
    text = dict(config["text_config"])
    text["model_type"] = DECODERS.get(text["model_type"], text["model_type"])
    text["tie_word_embeddings"] = bool(config.get("tie_word_embeddings"))
    language = language_cost(text)
    vision, connector = counts(config, language.width)
    return ModelCost(vision, connector, language)


def full_config(fields: Config) -> dict[str, Any]:
    """A `config.json` with what its class fills in.

    Raises:
        ModelError: transformers has no such model, or refuses the fields.
    """
    from transformers import AutoConfig

    named = {key: value for key, value in fields.items() if key != "model_type"}
    try:
        made: dict[str, Any] = AutoConfig.for_model(
            str(fields.get("model_type")), **named
        ).to_dict()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"its configuration cannot be read: {error}") from None
    return made


@dataclass(frozen=True)
class _Tower:
    """Layers of width W and inner width F over the patches of a picture.

    small: weights of a layer outside of its products. gates: matrices of the MLP.
    """

    width: int
    inner: int
    depth: int
    small: int
    gates: int = 2

    def cost(self, embed: int, seen: int, tiles: int, tokens: int) -> VisionCost:
        """Of `tiles` pictures of `seen` patches each; `embed` weights stand before the layers."""
        products = 4 * self.width**2 + self.gates * self.width * self.inner
        each = self.depth * (2.0 * seen * products + 4.0 * seen * seen * self.width)
        kept = self.depth * seen * (8.0 * self.width + (self.gates + 0.0) * self.inner)
        return VisionCost(
            parameters=self.depth * (products + self.small) + embed,
            tokens=tokens,
            width=self.width,
            flops=tiles * each,
            saved=tiles * kept,
        )


def _llava(config: Config, width: int) -> tuple[VisionCost, ConnectorCost]:
    taken = config.get("vision_feature_layer", -2)
    layers = [taken] if isinstance(taken, int) else list(taken)
    fields = dict(config["vision_config"])
    tower = vision_cost(fields, max(layers))
    grid = _grid(config.get("image_grid_pinpoints"), int(fields["image_size"]))
    tiles = 1 + math.prod(grid) if grid else 1
    vision = VisionCost(
        tower.parameters, tiles * tower.tokens, tower.width, tiles * tower.flops,
        tiles * tower.saved,
    )  # fmt: skip
    # Of the tiles' rows each ends with a token of its own.
    lines = grid[1] * math.isqrt(tower.tokens) if grid else 0
    has_newline = config["model_type"] != "llava"
    inputs = tower.width * len(layers)
    weights = inputs * width + width * width
    biases = 2 * width if config.get("multimodal_projector_bias", True) else 0
    connector = _connector(weights, biases + has_newline * width, vision.tokens, lines, inputs)
    return vision, connector


def _grid(pinpoints: Any, side: int) -> tuple[int, int] | None:
    """Columns and rows of the tiles that a picture is cut into; None where it is not."""
    if not pinpoints:
        return None

    def fit(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        scale = min(width / PICTURE[0], height / PICTURE[1])
        seen = min(PICTURE[0] * PICTURE[1], int(PICTURE[0] * scale) * int(PICTURE[1] * scale))
        return seen, -(height * width - seen)

    height, width = max(((int(h), int(w)) for h, w in pinpoints), key=fit)
    return max(1, width // side), max(1, height // side)


def _idefics(config: Config, width: int) -> tuple[VisionCost, ConnectorCost]:
    fields = dict(config["vision_config"])
    side, patch = int(fields["image_size"]), int(fields["patch_size"])
    seen, inner = (side // patch) ** 2, int(fields["intermediate_size"])
    wide, depth = int(fields["hidden_size"]), int(fields["num_hidden_layers"])
    tower = _Tower(wide, inner, depth, 4 * wide + inner + wide + 4 * wide)
    embed = (3 * patch * patch + 1) * wide + seen * wide + 2 * wide
    # Four tiles along the longer side, and the whole picture.
    tiles, shrink = 4 * 3 + 1, int(config["scale_factor"]) ** 2
    vision = tower.cost(embed, seen, tiles, tiles * seen)
    return vision, _connector(wide * shrink * width, 0, tiles * seen // shrink, 0, wide * shrink)


def _internvl(config: Config, width: int) -> tuple[VisionCost, ConnectorCost]:
    fields = dict(config["vision_config"])
    (high, across), (rows, columns) = _pair(fields["image_size"]), _pair(fields["patch_size"])
    seen, wide = (high // rows) * (across // columns), int(fields["hidden_size"])
    inner = int(fields["intermediate_size"])
    biases = wide + (3 * wide if fields.get("attention_bias") else 0)
    norms = (2 if fields.get("norm_type") == "rms_norm" else 4) * wide
    norms += 2 * wide if fields.get("use_qk_norm") else 0
    tower = _Tower(
        wide, inner, int(fields["num_hidden_layers"]), biases + inner + wide + norms + 2 * wide
    )
    embed = wide + (seen + 1) * wide + (3 * rows * columns + 1) * wide
    embed += 0 if fields.get("use_mean_pooling", True) else 2 * wide
    # Four tiles by three is the shape that comes nearest, with the whole picture beside them.
    tiles, shrink = 4 * 3 + 1, round(1 / float(config["downsample_ratio"])) ** 2
    inputs = wide * shrink
    weights = inputs * width + width * width
    tokens = tiles * seen // shrink
    vision = tower.cost(embed, seen + 1, tiles, tiles * seen)
    return vision, _connector(weights, 2 * inputs + 2 * width, tokens, 0, inputs)


def _qwen(config: Config, width: int) -> tuple[VisionCost, ConnectorCost]:
    fields, kind = dict(config["vision_config"]), str(config["model_type"])
    patch, merge = int(fields["patch_size"]), int(fields["spatial_merge_size"])
    tokens = math.prod(max(1, round(side / (patch * merge))) for side in PICTURE)
    wide = int(fields["embed_dim"] if kind == "qwen2_vl" else fields["hidden_size"])
    inner = int(fields.get("intermediate_size") or wide * fields["mlp_ratio"])
    out = int(fields["hidden_size"] if kind == "qwen2_vl" else fields["out_hidden_size"])
    depth, is_gated = int(fields["depth"]), kind == "qwen2_5_vl"
    small = 4 * wide + (2 if is_gated else 1) * inner + wide + (2 if is_gated else 4) * wide
    embed = 3 * patch * patch * int(fields["temporal_patch_size"]) * wide
    mergers = 1
    if kind == "qwen3_vl":
        embed += wide + int(fields["num_position_embeddings"]) * wide
        mergers += len(fields["deepstack_visual_indexes"])
    tower = _Tower(wide, inner, depth, small, gates=3 if is_gated else 2)
    seen = tokens * merge * merge
    joined = wide * merge * merge
    weights = mergers * (joined * joined + joined * out)
    # The first merger's norm is before patches are joined, those of further ones behind.
    norms = (wide if is_gated else 2 * wide) + (mergers - 1) * 2 * joined
    vision = tower.cost(embed, seen, 1, seen)
    return vision, _connector(weights, norms + mergers * (joined + out), tokens, 0, joined)


def _connector(weights: int, small: int, tokens: int, lines: int, inputs: int) -> ConnectorCost:
    """Products of `weights` on `tokens`; `lines` tokens come without one."""
    return ConnectorCost(
        parameters=weights + small,
        tokens=tokens + lines,
        flops=2.0 * tokens * weights,
        saved=2.0 * tokens * inputs,
    )


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


COUNTED: Mapping[str, Callable[[Config, int], tuple[VisionCost, ConnectorCost]]] = {
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "internvl": _internvl,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
}
"""What counts encoder and connector, by `model_type`."""


def is_counted(fields: Config) -> bool:
    """Whether a `config.json` is that of a native model that is counted here.

    LLaVA's own, which names its encoder by a path, has the same type as transformers'.
    """
    return str(fields.get("model_type")) in COUNTED and "mm_vision_tower" not in fields
