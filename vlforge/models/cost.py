"""What a model costs, from its `config.json` alone. No torch here.

FLOPs count a multiplication and an addition as two, products only. A frozen
part costs its forward pass; a part behind which something trains also passes
gradients through (twice); a training part computes its own gradients too
(three times). Memory is what autograd keeps for the backward pass in bf16.

`vlforge.models.part_costs` counts the parts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlforge.models.config import Lean
from vlforge.models.part_costs import (
    ConnectorCost,
    LanguageCost,
    VisionCost,
    convnext_cost,
    language_cost,
    mining_cost,
    mlp_cost,
    qformer_cost,
    resampler_cost,
    vision_cost,
)
from vlforge.types import ModelError

BF16 = 2
"""Bytes of a kept number."""


@dataclass(frozen=True)
class ModelCost:
    """A model's cost by part; see `sample_flops` for what training one sample takes.

    `vision.tokens` is what the encoder gives and `connector.tokens` what the language
    model reads of a picture.
    """

    vision: VisionCost
    connector: ConnectorCost
    language: LanguageCost

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(self.by_part().values())

    @property
    def image_tokens(self) -> int:
        """Tokens of a picture in the language model."""
        return self.connector.tokens

    def by_part(self) -> dict[str, int]:
        """Weights of vision, connector and language."""
        return {
            "vision": self.vision.parameters,
            "connector": self.connector.parameters,
            "language": self.language.parameters,
        }

    def trainable(self, train: Collection[str]) -> int:
        """Weights of the named parts."""
        return sum(size for name, size in self.by_part().items() if name in train)

    def sample_flops(
        self,
        text_tokens: float,
        supervised: float,
        images: float,
        train: Collection[str],
        lean: Lean = Lean(),
    ) -> float:
        """FLOPs of one sample; `train` names what learns, nothing for a forward pass.

        A cached frozen encoder costs less than said here.
        """
        length = text_tokens + images * self.image_tokens
        before = {"vision", "connector"} & set(train)
        language = length * self.language.token_flops
        language += length * length / 2 * self.language.attention_flops
        language += (supervised if lean.supervised_head else length) * self.language.head_flops
        if lean.takes_last_rows(self.language.width):
            language -= (length - supervised) * self.language.last_flops
        times_language = 3 if "language" in train else 2 if before else 1
        frozen = 1 if lean.frozen_graph or not train else 2
        times_vision = 3 if "vision" in train else frozen
        times_connector = 3 if before else 1
        unused = 0.0 if lean.unused_layers else self.vision.unused_flops
        return (
            times_language * language
            + images * (times_vision * self.vision.flops + unused)
            + times_connector * images * self.connector.flops
        )

    def sample_bytes(
        self,
        text_tokens: float,
        supervised: float,
        images: float,
        train: Collection[str],
        checkpointing: Collection[str] = (),
        lean: Lean = Lean(),
    ) -> float:
        """Bytes that autograd keeps of one sample until its backward pass, in bf16.

        Of layers of the parts in `checkpointing` (vision, language) only the inputs
        are kept, and one layer at a time is computed again. Nothing is kept of a
        frozen part that no gradient passes.
        """
        length = text_tokens + images * self.image_tokens
        before = {"vision", "connector"} & set(train)
        kept = 0.0
        if "vision" in train or (train and not lean.frozen_graph):
            vision = self.vision
            again = vision.inputs + vision.largest
            kept += images * (again if "vision" in checkpointing else vision.saved)
        if before:
            kept += images * self.connector.saved
        if before or "language" in train:
            language = self.language
            learns = "language" in train
            per_token = language.saved_learning if learns else language.saved
            if "language" in checkpointing:
                layers = max(language.layers, 1)
                per_token = layers * language.width + per_token / layers
            elif lean.takes_last_rows(language.width):
                spared = language.last_saved_learning if learns else language.last_saved
                kept -= (length - supervised) * spared
            vocabulary = language.head_flops / 2 / language.width
            rows = supervised if lean.supervised_head else length
            kept += length * (per_token + 3 * language.width) + rows * 2 * vocabulary
        return BF16 * kept


def model_cost(config: Mapping[str, Any]) -> ModelCost:
    """Cost of a model folder's `config.json`, of any family.

    Where a family cuts pictures by their size, one that fills the largest grid is meant.

    Raises:
        ModelError: a configuration of none of the families, or with a part that
            is not counted.
    """
    kind = str(config.get("model_type"))
    counted = {
        "vlforge_llava": _llava,
        "vlforge_mgm": _mgm,
        "vlforge_minigpt4": _minigpt4,
        "vlforge_qwen_vl": _qwen_vl,
    }
    if kind not in counted:
        raise ModelError(f"the cost of a model of type {kind!r} is not known")
    language = language_cost(_part(config, "text_config"))
    return counted[kind](config, language)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise ModelError(f"the configuration has no {name}; its cost cannot be told")
    return part


def _llava(config: Mapping[str, Any], language: LanguageCost) -> ModelCost:
    tile = vision_cost(_part(config, "vision_config"), config.get("select_layer", -2))
    kind, inner = config.get("connector", "mlp2x_gelu"), config.get("connector_width")
    if config.get("image_aspect_ratio") != "anyres":
        return ModelCost(
            tile, mlp_cost(kind, tile.tokens, tile.width, language.width, inner), language
        )
    side = int(_part(config, "vision_config")["image_size"])
    grids = [(w // side, h // side) for w, h in config.get("image_grid_pinpoints") or ()]
    columns, rows = max(grids or [(2, 2)], key=lambda grid: (math.prod(grid), min(grid)))
    tiles = 1 + columns * rows
    projected = mlp_cost(kind, tiles * tile.tokens, tile.width, language.width, inner)
    has_newline = config.get("patch_merge", "flat") == "spatial_unpad"
    connector = replace(
        projected,
        parameters=projected.parameters + has_newline * language.width,
        tokens=projected.tokens + has_newline * rows * math.isqrt(tile.tokens),
    )
    names = ("flops", "saved", "inputs", "largest", "unused_flops")
    vision = replace(tile, **{name: tiles * getattr(tile, name) for name in names})
    return ModelCost(vision, connector, language)


def _mgm(config: Mapping[str, Any], language: LanguageCost) -> ModelCost:
    low = vision_cost(_part(config, "vision_config"), config.get("select_layer", -2))
    side = int(config.get("image_size_high", 768))
    high = convnext_cost(_part(config, "vision_high_config"), side)
    views = int(config.get("image_grid", 1)) ** 2 + bool(config.get("image_global"))
    kind = config.get("connector", "mlp2x_gelu")
    vision = VisionCost(
        parameters=low.parameters + high.parameters,
        tokens=low.tokens * views,
        width=low.width,
        flops=low.flops * views + high.flops,
        saved=low.saved * views + high.saved,
        inputs=low.inputs * views + high.inputs,
        largest=max(low.largest * views, high.largest),
        unused_flops=low.unused_flops * views,
        gives=high.gives,
    )
    return ModelCost(vision, mining_cost(low, high, views, kind, language.width), language)


def _minigpt4(config: Mapping[str, Any], language: LanguageCost) -> ModelCost:
    eva = vision_cost(_part(config, "vision_config") | {"model_type": "vlforge_eva_vit"})
    queries = qformer_cost(_part(config, "qformer_config"), eva.tokens)
    vision = VisionCost(
        parameters=eva.parameters + 2 * eva.width + queries.parameters,
        tokens=queries.tokens,
        width=queries.width,
        flops=eva.flops + queries.flops,
        saved=eva.saved + queries.saved,
        inputs=eva.inputs + queries.inputs + eva.tokens * eva.width,
        largest=max(eva.largest, queries.largest),
    )
    return ModelCost(
        vision, mlp_cost("linear", vision.tokens, vision.width, language.width), language
    )


def _qwen_vl(config: Mapping[str, Any], language: LanguageCost) -> ModelCost:
    vision = vision_cost(_part(config, "vision_config") | {"model_type": "vlforge_qwen_vit"})
    return ModelCost(vision, resampler_cost(vision, language.width), language)
