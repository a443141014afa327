"""What a model costs, from its `config.json` alone. No torch here.

FLOPs count a multiplication and an addition as two, products only. A frozen
part costs its forward pass; a part behind which something trains also passes
gradients through (twice); a training part computes its own gradients too
(three times).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.types import ModelError


@dataclass(frozen=True)
class VisionCost:
    """Weights of an encoder; tokens, their width and forward FLOPs of one picture."""

    parameters: int
    tokens: int
    width: int
    flops: float


@dataclass(frozen=True)
class LanguageCost:
    """Weights of a decoder; forward FLOPs of one token, of attending to one token, of the head."""

    parameters: int
    width: int
    token_flops: float
    attention_flops: float
    head_flops: float


def vision_cost(config: Mapping[str, Any], select_layer: int = -2) -> VisionCost:
    """Cost of a vision encoder's configuration; layers after `select_layer` are not run.

    Raises:
        ModelError: an encoder of unknown type.
    """
    kind = config.get("model_type")
    if kind == "vlforge_small_vision":
        return _small_vision(config)
    if kind == "clip":
        config = config["vision_config"]
    elif kind != "clip_vision_model":
        raise ModelError(f"the cost of a vision encoder of type {kind!r} is not known")
    width, inner = config.get("hidden_size", 768), config.get("intermediate_size", 3072)
    depth, patch = config.get("num_hidden_layers", 12), config.get("patch_size", 32)
    tokens = (config.get("image_size", 224) // patch) ** 2
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    embed = width + 3 * patch * patch * width + (tokens + 1) * width + 4 * width
    run = select_layer if select_layer >= 0 else depth + 1 + select_layer
    seen = tokens + 1
    per_layer = 2 * seen * (4 * width * width + 2 * width * inner) + 4 * seen * seen * width
    flops = run * per_layer + 2.0 * tokens * 3 * patch * patch * width
    return VisionCost(depth * layer + embed, tokens, width, flops)


def _small_vision(config: Mapping[str, Any]) -> VisionCost:
    side, inputs, parameters, flops = config["image_size"], 3, 0, 0.0
    residual = config.get("residual") or [[3, 3]] * len(config["channels"])
    for channels, kernels in zip(config["channels"], residual, strict=True):
        side //= 2
        weights = 9 * inputs * channels + sum(k * k * channels * channels for k in kernels)
        parameters += weights + (1 + len(kernels)) * 3 * channels
        flops += 2.0 * weights * side * side
        inputs = channels
    tokens, width = side * side // config["merge"], inputs * config["merge"]
    parameters += tokens * width + (2 * inputs if config.get("norm", "group") == "group" else 0)
    parameters += inputs * side * side if config.get("place_std", 0.0) > 0 else 0
    return VisionCost(parameters, tokens, width, flops)


def language_cost(config: Mapping[str, Any]) -> LanguageCost:
    """Cost of a Llama-shaped decoder's configuration."""
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    keys = (config.get("num_key_value_heads") or heads) * head_width
    products = 2 * width * heads * head_width + 2 * width * keys
    products += 3 * width * config["intermediate_size"]
    vocabulary = config["vocab_size"] * width
    tables = vocabulary * (1 if config.get("tie_word_embeddings") else 2)
    return LanguageCost(
        parameters=depth * (products + 2 * width) + tables + width,
        width=width,
        token_flops=2.0 * depth * products,
        attention_flops=4.0 * depth * heads * head_width,
        head_flops=2.0 * vocabulary,
    )


def connector_parameters(kind: str, vision_width: int, width: int) -> int:
    """Weights of a connector."""
    if kind == "identity":
        return 0
    depth = 1 if kind == "linear" else int(kind.removeprefix("mlp").removesuffix("x_gelu"))
    return (vision_width + 1) * width + (depth - 1) * (width + 1) * width


@dataclass(frozen=True)
class ModelCost:
    """A LLaVA-shaped model's cost; see `sample_flops` for what training one sample takes."""

    vision: VisionCost
    language: LanguageCost
    connector_parameters: int

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.vision.parameters + self.connector_parameters + self.language.parameters

    def trainable(self, train: Collection[str]) -> int:
        """Weights of the named parts."""
        sizes = {
            "vision": self.vision.parameters,
            "connector": self.connector_parameters,
            "language": self.language.parameters,
        }
        return sum(size for name, size in sizes.items() if name in train)

    def sample_flops(
        self, text_tokens: float, supervised: float, images: float, train: Collection[str]
    ) -> float:
        """FLOPs of one sample; `train` names what learns, nothing for a forward pass.

        The output layer counts for supervised rows only, which is how the loop
        computes it; a cached frozen encoder costs less than said here.
        """
        length = text_tokens + images * self.vision.tokens
        before = {"vision", "connector"} & set(train)
        language = length * self.language.token_flops
        language += length * length / 2 * self.language.attention_flops
        language += supervised * self.language.head_flops
        times_language = 3 if "language" in train else 2 if before else 1
        times_vision = 3 if "vision" in train else 1
        times_connector = 3 if before else 1
        connector = 2.0 * images * self.vision.tokens * self.connector_parameters
        return (
            times_language * language
            + times_vision * images * self.vision.flops
            + times_connector * connector
        )


def model_cost(config: Mapping[str, Any]) -> ModelCost:
    """Cost of a model folder's `config.json`.

    Raises:
        ModelError: not a LLaVA-shaped configuration.
    """
    if config.get("model_type") != "vlforge_llava":
        raise ModelError(f"the cost of a model of type {config.get('model_type')!r} is not known")
    vision = vision_cost(config["vision_config"], config.get("select_layer", -2))
    language = language_cost(config["text_config"])
    kind = config.get("connector", "mlp2x_gelu")
    return ModelCost(vision, language, connector_parameters(kind, vision.width, language.width))
