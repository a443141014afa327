"""The Mini-Gemini family: a low-resolution encoder whose tokens mine a high-resolution one.

One picture comes in at high resolution. Its low-resolution views are made of it here:
the whole picture, or g x g crops of it and, last, the whole. CLIP turns views into
tokens, ConvNeXt turns the picture into maps, mining joins them (parts/mining.py).

Shapes: I pictures, V views, N tokens a view, C token channels, S pixels a side.
Source: dvlab-research/MGM@769820c.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.base import FamilyConfig, Sizes, VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.parts import convnext
from vlforge.models.parts.connector import build_connector
from vlforge.models.parts.convnext import ConvNextTower
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.mining import MiningConnector, PatchMiner, Views
from vlforge.models.parts.vision import VisionTower
from vlforge.models.reading import load_weights, read_config, read_tensors, read_vision
from vlforge.types import ModelError


class MgmConfig(FamilyConfig):
    """What an `MgmModel` is made of.

    `image_size_high` pixels a side go in; `image_grid` g cuts the low-resolution view
    into g x g crops, `image_global` adds the whole picture.
    """

    model_type = "vlforge_mgm"

    vision_high_config: dict[str, Any] | PreTrainedConfig | None = None
    connector: str = "mlp2x_gelu"
    select_layer: int = -2
    image_size_high: int = 768
    image_grid: int = 1
    image_global: bool = False

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_high_config, dict):
            self.vision_high_config = ConvNextConfig.from_dict(dict(self.vision_high_config))
        super().__post_init__(**kwargs)


def low_views(pixels: Tensor, side: int, grid: int = 1, has_global: bool = False) -> Tensor:
    """[I, 3, S, S] -> [I, V, 3, side, side]: crops row by row, then the whole picture.

    Bilinear without antialiasing and on normalised pixels, in fp32, as published.
    """
    wide = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    view = _resize(wide, side * grid)
    crops = view.unflatten(3, (grid, side)).unflatten(2, (grid, side))
    crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return torch.cat([crops, _resize(view, side)[:, None]], 1) if has_global else crops


class MgmVision(nn.Module):
    """Both encoders, and how the low-resolution views are cut from the picture."""

    def __init__(self, config: MgmConfig):
        super().__init__()
        self.low = VisionTower(config.vision_config, config.select_layer, "patch")
        self.high = ConvNextTower(config.vision_high_config)
        self.grid, self.has_global = config.image_grid, config.image_global
        self.image_size = config.image_size_high

    @property
    def width(self) -> int:
        """Channels of a low-resolution token."""
        return self.low.width

    @property
    def tokens(self) -> int:
        """Tokens of all views of a picture."""
        return self.low.tokens * (self.grid**2 + self.has_global)

    @property
    def dtype(self) -> torch.dtype:
        """The encoders' precision; pixels come in fp32, views are cut before rounding."""
        return self.low.dtype

    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on."""
        return {f"low.{name}" for name in self.low.unused_parameters()}

    def forward(self, pixels: Tensor) -> Views:
        """[I, 3, S, S] normalised."""
        return self.see(self.views(pixels), pixels)

    def views(self, pixels: Tensor) -> Tensor:
        """[I, 3, S, S] -> what the low-resolution encoder looks at; see `low_views`."""
        return low_views(pixels, self.low.image_size, self.grid, self.has_global)

    def see(self, views: Tensor, pixels: Tensor) -> Views:
        """Views [I, V, 3, s, s] and the picture [I, 3, S, S] through their encoders."""
        count, crops = views.shape[1], self.grid**2
        flat = views.to(self.low.dtype)
        # The published batch: the crops of all pictures, then all whole pictures.
        stacked = torch.cat([flat[:, :crops].flatten(0, 1), flat[:, crops:].flatten(0, 1)])
        seen = self.low(stacked)
        parts = [seen[: len(views) * crops].unflatten(0, (-1, crops))]
        if count > crops:
            parts.append(seen[len(views) * crops :][:, None])
        return Views(torch.cat(parts, 1), self.high(pixels.to(self.high.dtype)))


class MgmModel(VisionLanguageModel):
    """CLIP tokens that mine ConvNeXt's maps, through an MLP."""

    config_class = MgmConfig
    config: MgmConfig
    family = "mgm"
    features_are_tensors = False
    _no_split_modules = ("MgmVision", "MiningConnector")

    def build(self, config: MgmConfig) -> None:
        """Both encoders; mining and projector."""
        if config.vision_high_config is None:
            raise ModelError("family mgm needs vision_high_config, the high-resolution encoder")
        if config.image_global and config.image_grid < 2:
            raise ModelError("image_global needs image_grid of 2 or more; with 1 it is the picture")
        self.vision = MgmVision(config)
        _check_windows(config, self.vision)
        miner = PatchMiner(self.vision.width, self.vision.high.width)
        projector = build_connector(
            config.connector, self.vision.width, config.text_config.hidden_size
        )
        self.connector = MiningConnector(miner, projector, config.image_grid, config.image_global)

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the language model."""
        return self.vision.tokens

    def encode_images(self, pixels: Tensor, sizes: Sizes | None = None) -> Tensor:
        """Normalised fp32 pixels [I, 3, S, S] -> projected tokens [I, V * N, D]."""
        with self.vision.high.dropping(self.training):
            return self.project(self.see(pixels), sizes)

    def published_towers(self, *, low: bool = True, high: bool = True) -> tuple[str, ...]:
        """What `optimize_vision_tower` (low) and `…_aux` (high) add to a stage's `train`.

        The second half of the low encoder's layers, the last block of each stage of
        the high one, as expressions over parameter names.
        """
        depth = self.vision.low.config.num_hidden_layers
        layers = [rf"vision\.low\.tower\.encoder\.layers\.{k}\." for k in range(depth // 2, depth)]
        blocks = [
            rf"vision\.high\.tower\.encoder\.stages\.{stage}\.layers\.{count - 1}\."
            for stage, count in enumerate(self.vision.high.config.depths)
        ]
        return (*(layers if low else ()), *(blocks if high else ()))

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """A model of two vision folders and a language model.

        `connector_weights` is an mm_projector.bin; the encoders that it holds replace
        those of the folders, as they are what the connector was trained with.
        """
        if spec.vision_high is None:
            raise ModelError(
                "family mgm needs vision_high: a folder of OpenCLIP's ConvNeXt "
                "(open_clip_config.json, open_clip_pytorch_model.bin)"
            )
        if spec.connector_init != "random":
            raise ModelError("connector_init tags is for llava; mgm's connector starts at random")
        low = read_vision(Path(spec.vision))
        high, weights = _read_high(Path(spec.vision_high))
        high.drop_path_rate = spec.drop_path
        config = MgmConfig(
            vision_config=low.config,
            vision_high_config=high,
            text_config=language.config,
            connector=spec.connector,
            select_layer=spec.select_layer,
            image_aspect_ratio=spec.image_aspect_ratio,
            image_size_high=spec.image_size_high,
            image_grid=spec.image_grid,
            image_global=spec.image_global,
        )
        model = cls(config)
        model.vision.low.load(low)
        model.vision.high.load(weights, Path(spec.vision_high))
        model.language = language
        if spec.connector_weights is not None:
            model.load_connector(Path(spec.connector_weights))
        return model

    def adapt_processor(self, processor: ImageProcessor) -> ImageProcessor:
        """The low-resolution encoder's processor at the high resolution."""
        size = self.vision.image_size
        return replace(processor, size=size, edge=size)

    @torch.no_grad()
    def load_connector(self, path: Path) -> None:
        """Take over an mm_projector.bin: projector, mining and the encoders it may hold.

        Raises:
            ModelError: it is none, or of another model.
        """
        found = {our_name(key): tensor for key, tensor in read_tensors(path).items()}
        own = {n: p for n, p in self.state_dict().items() if not n.startswith("language.")}
        missing = [n for n in own if n.startswith("connector.") and n not in found]
        if missing:
            raise ModelError(
                f"{path} lacks {len(missing)} of the connector's weights, the first "
                f"is {missing[0]}; it is no mm_projector.bin of such a model"
            )
        for name in own.keys() & found.keys():
            if own[name].shape != found[name].shape:
                raise ModelError(
                    f"{path}: {name} has shape {list(found[name].shape)}, and this "
                    f"model's has {list(own[name].shape)}"
                )
            own[name].copy_(found[name])


MINER_NAMES = {"query": "query", "aux": "key", "val": "value"}
"""The published `vlm_uni_*_projector` and ours."""
_PARTS = (
    (r"mm_projector\.", "connector.projector."),
    (r"vlm_uni_(query|aux|val)_projector\.", "connector.miner."),
    (r"vision_tower\.vision_tower\.(?:vision_model\.)?", "vision.low.tower."),
    (r"vision_tower_aux\.(?=vision_st)", "vision.high.tower."),
)


def our_name(key: str) -> str | None:
    """Our name of a tensor of the connector or the encoders, whatever stands before it; or None.

    Source: state-dict names of dvlab-research/MGM@769820c.
    """
    for pattern, begin in _PARTS:
        found = re.search(r"(?:^|\.)" + pattern, key)
        if not found:
            continue
        rest = key[found.end() :]
        if begin == "connector.miner.":
            return f"{begin}{MINER_NAMES[found.group(1)]}.{rest}"
        if begin == "vision.high.tower.":
            named = convnext.our_name(rest)
            return None if named is None else begin + named
        return begin + rest
    return None


def _read_high(folder: Path) -> tuple[ConvNextConfig, dict[str, Tensor]]:
    """Configuration and weights of an OpenCLIP folder, or of transformers' ConvNeXt."""
    if (folder / convnext.CONFIG_NAME).is_file():
        weights = convnext.trunk(read_tensors(convnext.openclip_weights_file(folder)))
        return convnext.config_of({n: tuple(w.shape) for n, w in weights.items()}), weights
    kind = read_config(folder).get("model_type")
    if kind != "convnext":
        raise ModelError(
            f"{folder} is neither an OpenCLIP folder ({convnext.CONFIG_NAME}) nor a ConvNeXt of "
            f"transformers, but {kind!r}"
        )
    model = load_weights(ConvNextModel, folder, torch.float32, is_part=True)
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("layernorm.")}
    return model.config, weights


def _resize(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)


def _check_windows(config: MgmConfig, vision: MgmVision) -> None:
    """Raise where tokens and map positions do not fit each other."""
    tokens, positions = vision.low.tokens, config.image_size_high // vision.high.stride
    asked = math.isqrt(tokens) * config.image_grid
    if math.isqrt(tokens) ** 2 != tokens or positions % asked:
        raise ModelError(
            f"image_size_high {config.image_size_high} gives {positions} positions a side, which "
            f"{tokens} tokens on an image_grid of {config.image_grid} cannot share; take a "
            f"multiple of {asked * vision.high.stride}"
        )
