"""What each part of a model costs, from its configuration alone. No torch here.

FLOPs count a multiplication and an addition as two, products only. `saved` is what
autograd keeps of a forward pass, in numbers (not bytes): elements in the working
precision, fp32 ones counted twice as in bf16 training.

Shapes: T tokens, D width, F inner width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.types import ModelError


@dataclass(frozen=True)
class VisionCost:
    """One picture through an encoder.

    tokens of `width` come out; `saved` elements are kept where it trains, of which
    `largest` are of the largest layer; `inputs` elements go into all layers.
    unused_flops: of layers behind the one that features are taken from. gives: elements
    that come out besides the tokens.
    """

    parameters: int
    tokens: int
    width: int
    flops: float
    saved: float = 0.0
    inputs: float = 0.0
    largest: float = 0.0
    unused_flops: float = 0.0
    gives: float = 0.0


@dataclass(frozen=True)
class ConnectorCost:
    """One picture through a connector; `tokens` is what the language model reads of it.

    `flops` of a forward pass, `saved` elements kept as it trains. `fixed_flops` do not
    depend on the picture (queries that all pictures share).
    """

    parameters: int
    tokens: int
    flops: float
    saved: float = 0.0


@dataclass(frozen=True)
class LanguageCost:
    """A decoder: weights; forward FLOPs of one token, of attending to one token, of the head.

    saved: elements kept per token where gradients pass but nothing learns.
    saved_learning: where it learns too. width: of a token.
    last_flops, last_saved, last_saved_learning: of one token, in those products of the last
    layer that rows without a label can be left out of.
    """

    parameters: int
    width: int
    token_flops: float
    attention_flops: float
    head_flops: float
    layers: int = 0
    saved: float = 0.0
    saved_learning: float = 0.0
    last_flops: float = 0.0
    last_saved: float = 0.0
    last_saved_learning: float = 0.0


Config = Mapping[str, Any]


def vision_cost(config: Config, select_layer: int = -2) -> VisionCost:
    """Cost of a vision encoder; layers after `select_layer` are not run.

    Raises:
        ModelError: an encoder of unknown type.
    """
    kind = config.get("model_type")
    if kind == "vlforge_small_vision":
        return _small_vision(config)
    if kind in ("clip", "siglip"):
        config = config["vision_config"]
    if kind in ("clip", "clip_vision_model"):
        return _clip(config, select_layer)
    if kind in ("siglip", "siglip_vision_model"):
        return _siglip(config, select_layer)
    if kind == "vlforge_eva_vit":
        return _eva(config)
    if kind == "vlforge_qwen_vit":
        return _qwen_vit(config)
    raise ModelError(f"the cost of a vision encoder of type {kind!r} is not known")


def _small_vision(config: Config) -> VisionCost:
    side, inputs, parameters, flops, saved = config["image_size"], 3, 0, 0.0, 0.0
    given, largest = 0.0, 0.0
    residual = config.get("residual") or [[3, 3]] * len(config["channels"])
    for channels, kernels in zip(config["channels"], residual, strict=True):
        side //= 2
        weights = 9 * inputs * channels + sum(k * k * channels * channels for k in kernels)
        parameters += weights + (1 + len(kernels)) * 3 * channels
        flops += 2.0 * weights * side * side
        kept = 3.0 * (1 + len(kernels)) * channels * side * side
        saved, largest = saved + kept, max(largest, kept)
        given += 4.0 * inputs * side * side
        inputs = channels
    tokens, width = side * side // config["merge"], inputs * config["merge"]
    parameters += tokens * width + (2 * inputs if config.get("norm", "group") == "group" else 0)
    parameters += inputs * side * side if config.get("place_std", 0.0) > 0 else 0
    return VisionCost(parameters, tokens, width, flops, saved, given, largest)


@dataclass(frozen=True)
class _Tower:
    """A plain vision transformer: what its layers cost, whoever feeds them."""

    width: int
    inner: int
    depth: int
    seen: int
    biases: int = 4
    """How many of query, key, value and output have a bias."""
    bends: int = 2
    """Inner widths that the activation keeps: 2 with GELU, 3 with CLIP's quick GELU."""

    @property
    def layer(self) -> int:
        """Weights of one layer, its two norms included."""
        width, inner = self.width, self.inner
        products = 4 * width * width + 2 * width * inner
        return products + self.biases * width + inner + width + 4 * width

    def flops(self, run: int) -> float:
        """Forward FLOPs of `run` layers."""
        width, seen = self.width, self.seen
        products = 2.0 * seen * (4 * width * width + 2 * width * self.inner)
        return run * (products + 4.0 * seen * seen * width)

    def saved(self, run: int) -> float:
        """Elements kept by `run` layers: norms, q k v and their mix, both sides of GELU."""
        return run * self.seen * (8.0 * self.width + float(self.bends) * self.inner)

    def cost(self, parameters: int, tokens: int, embed_flops: float, run: int) -> VisionCost:
        """Of the whole encoder, `run` layers of which are needed."""
        return VisionCost(
            parameters=parameters,
            tokens=tokens,
            width=self.width,
            flops=self.flops(run) + embed_flops,
            saved=self.saved(run),
            inputs=float(run * self.seen * self.width),
            largest=self.saved(min(run, 1)),
            unused_flops=self.flops(self.depth - run),
        )


def _patches(config: Config, default_image: int = 224, default_patch: int = 16) -> tuple[int, int]:
    patch = int(config.get("patch_size", default_patch))
    return (int(config.get("image_size", default_image)) // patch) ** 2, patch


def _run(depth: int, select_layer: int) -> int:
    return select_layer if select_layer >= 0 else depth + 1 + select_layer


def _clip(config: Config, select_layer: int) -> VisionCost:
    width, depth = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    tokens, patch = _patches(config, default_patch=32)
    bends = 3 if config.get("hidden_act", "quick_gelu") == "quick_gelu" else 2
    tower = _Tower(width, config.get("intermediate_size", 3072), depth, tokens + 1, bends=bends)
    embed = width + 3 * patch * patch * width + (tokens + 1) * width + 4 * width
    return tower.cost(
        depth * tower.layer + embed,
        tokens,
        2.0 * tokens * 3 * patch * patch * width,
        _run(depth, select_layer),
    )


def _siglip(config: Config, select_layer: int) -> VisionCost:
    width, depth = config.get("hidden_size", 768), config.get("num_hidden_layers", 12)
    inner = config.get("intermediate_size", 3072)
    tokens, patch = _patches(config)
    tower = _Tower(width, inner, depth, tokens)
    parameters = depth * tower.layer + (3 * patch * patch + 1) * width + tokens * width + 2 * width
    if config.get("vision_use_head", True):
        pooled = 4 * width * width + 4 * width + 2 * width * inner + inner + width
        parameters += width + pooled + 2 * width
    embed_flops = 2.0 * tokens * 3 * patch * patch * width
    return tower.cost(parameters, tokens, embed_flops, _run(depth, select_layer))


def _eva(config: Config) -> VisionCost:
    width, depth = config.get("hidden_size", 1408), config.get("num_hidden_layers", 39)
    tokens, patch = _patches(config, default_patch=14)
    inner = config.get("intermediate_size", 6144)
    tower = _Tower(width, inner, depth, tokens + 1, biases=3)
    embed = (3 * patch * patch + 1) * width + width + (tokens + 1) * width
    embed_flops = 2.0 * tokens * 3 * patch * patch * width
    return tower.cost(depth * tower.layer + embed, tokens + 1, embed_flops, depth)


def _qwen_vit(config: Config) -> VisionCost:
    width, depth = config.get("width", 1664), config.get("layers", 48)
    tokens, patch = _patches(config, 448, 14)
    tower = _Tower(width, int(width * config.get("mlp_ratio", 4.9231)), depth, tokens)
    embed = 3 * patch * patch * width + 256 * width + 2 * width
    embed_flops = 2.0 * tokens * 3 * patch * patch * width
    return tower.cost(depth * tower.layer + embed, tokens, embed_flops, depth)


def convnext_cost(config: Config, image_size: int) -> VisionCost:
    """Cost of a ConvNeXt's four stages at `image_size` pixels a side.

    `tokens` are the positions of the largest map and `width` the channels of all maps.
    """
    widths = list(config.get("hidden_sizes") or (96, 192, 384, 768))
    depths = list(config.get("depths") or (3, 3, 9, 3))
    patch = int(config.get("patch_size", 4))
    side = image_size // patch
    parameters = (3 * patch * patch + 1) * widths[0] + 2 * widths[0]
    flops = 2.0 * side * side * 3 * patch * patch * widths[0]
    saved, inputs, kept, gives, tokens, before = 0.0, 0.0, 0.0, 0.0, side * side, widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            side //= 2
            parameters += 2 * before + (4 * before + 1) * width
            flops += 2.0 * side * side * 4 * before * width
        block = 49 * width + 8 * width * width
        # Biases of the depthwise kernel, the norm, both products, and the layer scale.
        parameters += depth * (block + width + 2 * width + 5 * width + width)
        flops += 2.0 * depth * block * side * side
        saved += depth * side * side * width * (5.0 + 8.0)
        inputs += depth * side * side * width
        gives += side * side * width
        kept = max(kept, side * side * width * (5.0 + 8.0))
        before = width
    return VisionCost(parameters, tokens, sum(widths), flops, saved, inputs, kept, gives=gives)


def qformer_cost(config: Config, seen: int) -> VisionCost:
    """Cost of a Q-Former that reads `seen` tokens."""
    width, inner = config.get("hidden_size", 768), config.get("intermediate_size", 3072)
    layers, queries = config.get("num_hidden_layers", 12), config.get("query_tokens", 32)
    encoder = config.get("encoder_hidden_size", 1408)
    crossed = len(range(0, layers, config.get("cross_attention_frequency", 2)))
    attention = 4 * width * width + 4 * width + 2 * width
    crossing = 2 * (width * width + width) + 2 * (encoder * width + width) + 2 * width
    mlp = 2 * width * inner + inner + width + 2 * width
    parameters = layers * (attention + mlp) + crossed * crossing + queries * width + 2 * width
    own = 2.0 * queries * (4 * width * width + 2 * width * inner) + 4.0 * queries * queries * width
    cross = 2.0 * (2 * queries * width * width + 2 * seen * encoder * width)
    cross += 4.0 * queries * seen * width
    saved = layers * queries * (10.0 * width + 2.0 * inner) + crossed * 2.0 * seen * width
    inputs, largest = float(layers * queries * width), saved / max(layers, 1)
    flops = layers * own + crossed * cross
    return VisionCost(parameters, queries, width, flops, saved, inputs, largest)


def connector_parameters(
    kind: str, vision_width: int, width: int, inner_width: int | None = None
) -> int:
    """Weights of a linear or MLP connector."""
    widths = _mlp_widths(kind, vision_width, width, inner_width)
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def _mlp_widths(kind: str, vision_width: int, width: int, inner_width: int | None) -> list[int]:
    if kind == "identity":
        return [width]
    depth = 1 if kind == "linear" else int(kind.removeprefix("mlp").removesuffix("x_gelu"))
    return [vision_width, *[inner_width or width] * (depth - 1), width]


def mlp_cost(
    kind: str, tokens: int, vision_width: int, width: int, inner_width: int | None = None
) -> ConnectorCost:
    """Cost of a linear or MLP connector on `tokens` of a picture."""
    widths = _mlp_widths(kind, vision_width, width, inner_width)
    weights = sum(before * after for before, after in itertools.pairwise(widths))
    parameters = connector_parameters(kind, vision_width, width, inner_width)
    saved = tokens * (sum(widths[:-1]) + sum(widths[1:-1]))  # inputs of products and of GELU
    return ConnectorCost(parameters, tokens, 2.0 * tokens * weights, float(saved))


def mining_cost(
    low: VisionCost, high: VisionCost, views: int, projector: str, width: int, folded: bool = True
) -> ConnectorCost:
    """Cost of Mini-Gemini's mining and projector, for `views` low-resolution views.

    `folded` counts `kernels.mining.mine_folded`, else the published order.
    """
    channels, patch = low.width, high.width
    mined = low.tokens * views
    parameters = 2 * channels + channels * channels + channels
    parameters += 2 * (2 * patch + patch * channels + channels)
    query = 2.0 * mined * channels * channels
    if folded:
        keys_and_values = 4.0 * mined * patch * channels + 4.0 * high.tokens * patch
    else:
        keys_and_values = 4.0 * high.tokens * patch * channels + 4.0 * high.tokens * channels
    mlp = mlp_cost(projector, mined, channels, width)
    saved = mlp.saved + mined * (4.0 * channels + 2.0 * patch) + 2.0 * high.tokens
    saved += 0.0 if folded else high.tokens * (2.0 * patch + 2.0 * channels)
    return ConnectorCost(
        parameters + mlp.parameters, mined, query + keys_and_values + mlp.flops, saved
    )


def resampler_cost(vision: VisionCost, width: int, queries: int = 256) -> ConnectorCost:
    """Cost of Qwen-VL's resampler, norm and projection."""
    same = vision.width == width
    parameters = queries * width + (0 if same else vision.width * width)
    parameters += 4 * width * width + 4 * width + 4 * width + 2 * width + width * width
    seen = vision.tokens
    flops = (0.0 if same else 2.0 * seen * vision.width * width) + 4.0 * seen * width * width
    flops += 2.0 * queries * 3 * width * width + 4.0 * queries * seen * width
    saved = seen * (vision.width + 5.0 * width) + queries * 6.0 * width
    return ConnectorCost(parameters, queries, flops, saved)


GATED = ("llama", "mistral", "mixtral", "gemma", "qwen2", "qwen3", "phi3", "internlm2", "qwen")
"""Decoders that are counted here: a gated MLP, causal attention, norms before both."""


def language_cost(config: Config) -> LanguageCost:
    """Cost of a decoder's configuration.

    Raises:
        ModelError: a decoder of a type that is not counted.
    """
    kind = config.get("model_type", "llama")
    if kind not in GATED:
        raise ModelError(f"the cost of a language model of type {kind!r} is not known")
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    inner = config["intermediate_size"] // (2 if kind == "qwen" else 1)
    mixed, keys = _head_widths(config, kind)
    attention = 2 * width * mixed + 2 * width * keys
    experts, active = _experts(config, kind)
    router = width * experts if experts > 1 else 0
    mlp = 3 * width * inner
    layer = attention + experts * mlp + router + _small_weights(config, kind, mixed, keys)
    vocabulary = config["vocab_size"] * width
    is_tied = config.get("tie_word_embeddings", kind == "gemma")
    # Both norms keep their input in fp32; attention q, k, v and its mix; the MLP three halves.
    saved = 4 * width + 2 * mixed + 2 * keys + 3 * active * inner
    learning = saved + 4 * width + mixed + active * inner
    return LanguageCost(
        parameters=depth * layer + vocabulary * (1 if is_tied else 2) + width,
        width=width,
        token_flops=2.0 * depth * (attention + active * mlp + router),
        attention_flops=4.0 * depth * mixed,
        head_flops=2.0 * vocabulary,
        layers=depth,
        saved=float(depth * saved),
        saved_learning=float(depth * learning),
        **_last_layer(kind, width, mixed, inner),
    )


def _last_layer(kind: str, width: int, mixed: int, inner: int) -> dict[str, float]:
    """What a token without a label is spared in the last layer: queries, output, MLP."""
    if kind == "mixtral":
        return {}
    has_queries = kind not in ("qwen", "phi3")
    products = (1 + has_queries) * width * mixed + 3 * width * inner
    return {
        "last_flops": 2.0 * products,
        "last_saved": 3.0 * inner,
        "last_saved_learning": 4.0 * inner,
    }


def _head_widths(config: Config, kind: str) -> tuple[int, int]:
    """Widths of all queries and of all keys."""
    heads = int(config["num_attention_heads"])
    one = int(config.get("head_dim") or config.get("kv_channels") or config["hidden_size"] // heads)
    groups = heads if kind == "qwen" else int(config.get("num_key_value_heads") or heads)
    return heads * one, groups * one


def _experts(config: Config, kind: str) -> tuple[int, int]:
    """Experts a layer has, and how many of them a token goes through."""
    if kind != "mixtral":
        return 1, 1
    return int(config.get("num_local_experts", 8)), int(config.get("num_experts_per_tok", 2))


def _small_weights(config: Config, kind: str, mixed: int, keys: int) -> int:
    """Norms and biases of one layer."""
    width = int(config["hidden_size"])
    if kind == "qwen":
        return 2 * width + 3 * mixed
    if kind == "qwen2":
        return 2 * width + mixed + 2 * keys
    if kind == "qwen3":
        return 2 * width + 2 * (mixed // int(config["num_attention_heads"]))
    biases = mixed + 2 * keys + width if config.get("attention_bias") else 0
    inner = int(config["intermediate_size"])
    return 2 * width + biases + (2 * inner + width if config.get("mlp_bias") else 0)
