"""OpenCLIP's ConvNeXt: pixels to the feature maps of its four stages.

The blocks are transformers' ConvNeXt, onto which the names of timm (in OpenCLIP's files
and in Mini-Gemini's checkpoints) are mapped; neither open_clip nor timm is needed.

Shapes: I pictures, S pixels a side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel
from transformers.models.convnext.modeling_convnext import ConvNextDropPath, ConvNextLayer

from vlforge.models.parts.image_processor import CLIP_MEAN, CLIP_STD
from vlforge.models.parts.recompute import Recompute
from vlforge.types import ModelError

CONFIG_NAME = "open_clip_config.json"
WEIGHT_NAMES = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")
PUBLISHED_DROP_PATH = 0.1
"""OpenCLIP's rate of the last block; it rises to it linearly from 0."""
_EPS, _EPS_XXLARGE, _XXLARGE = 1e-6, 1e-5, 384
_NAMES = (
    (r"^(?:vision_)?stem\.0\.", "embeddings.patch_embeddings."),
    (r"^(?:vision_)?stem\.1\.", "embeddings.layernorm."),
    (r"^(?:vision_)?stages\.(\d+)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^(?:vision_)?stages\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
)
_LEAVES = {
    "gamma": "layer_scale_parameter",
    "conv_dw": "dwconv",
    "norm": "layernorm",
    "mlp.fc1": "pwconv1",
    "mlp.fc2": "pwconv2",
}


def our_name(timm: str) -> str | None:
    """transformers' name of timm's `stem…`/`stages…` (or `vision_stem…`); None: not a part."""
    for pattern, begin in _NAMES:
        name, found = re.subn(pattern, begin, timm)
        if not found:
            continue
        if ".layers." not in name:
            return name
        head, leaf = re.fullmatch(r"(.*\.layers\.\d+\.)(.*)", name).groups()
        for theirs, ours in _LEAVES.items():
            if leaf == theirs or leaf.startswith(theirs + "."):
                return head + ours + leaf.removeprefix(theirs)
    return None


def timm_name(ours: str) -> str:
    """The way back, without a prefix."""
    name = ours.replace("embeddings.patch_embeddings.", "stem.0.")
    name = name.replace("embeddings.layernorm.", "stem.1.").removeprefix("encoder.")
    name = name.replace("downsampling_layer.", "downsample.")
    for theirs, leaf in _LEAVES.items():
        name = re.sub(rf"\.layers\.(\d+)\.{leaf}(?=\.|$)", rf".blocks.\1.{theirs}", name)
    return name


def config_of(shapes: Mapping[str, Sequence[int]], drop_path: float = 0.0) -> ConvNextConfig:
    """The configuration that weights under our names have: depths and widths are in them.

    Raises:
        ModelError: stages are missing, or are no ConvNeXt's.
    """
    depths: dict[int, int] = {}
    widths: dict[int, int] = {}
    for name, shape in shapes.items():
        found = re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv\.bias", name)
        if found:
            stage, block = map(int, found.groups())
            depths[stage] = max(depths.get(stage, 0), block + 1)
            widths[stage] = shape[0]
    stem = shapes.get("embeddings.patch_embeddings.weight")
    if sorted(depths) != [0, 1, 2, 3] or stem is None:
        raise ModelError(f"ConvNeXt weights have stages {sorted(depths)}, not 0 to 3 and a stem")
    return ConvNextConfig(
        hidden_sizes=[widths[stage] for stage in range(4)],
        depths=[depths[stage] for stage in range(4)],
        patch_size=stem[-1],
        num_channels=stem[1],
        layer_norm_eps=_EPS_XXLARGE if widths[0] == _XXLARGE else _EPS,
        drop_path_rate=drop_path,
    )


def openclip_weights_file(folder: Path) -> Path:
    """The weights of an OpenCLIP folder, whose pixels are checked to be CLIP's.

    Raises:
        ModelError: not such a folder, or pixels normalised otherwise.
    """
    file = folder / CONFIG_NAME
    try:
        fields: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is no OpenCLIP folder: it has no {CONFIG_NAME}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    pixels = fields.get("preprocess_cfg", {})
    if (tuple(pixels.get("mean", CLIP_MEAN)), tuple(pixels.get("std", CLIP_STD))) != (
        CLIP_MEAN,
        CLIP_STD,
    ):
        raise ModelError(
            f"{file}: pixels are normalised by {pixels.get('mean')}, the low-resolution encoder's "
            "by CLIP's numbers; both look at the same pixels"
        )
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"{folder} lacks {WEIGHT_NAMES[0]}; fetch it")


def trunk(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Of OpenCLIP's weights those of the four stages, under our names; heads and text are left."""
    found = {}
    for name, weight in weights.items():
        ours = our_name(name.removeprefix("visual.trunk."))
        if ours is not None:
            found[ours] = weight
    return found


class ConvNextTower(nn.Module):
    """The four stages of a ConvNeXt, each one's map kept.

    Drop path is off unless the configuration has a rate and `dropping` is entered:
    the published training drops blocks of the frozen encoder too.

    recomputes: blocks are computed a second time in the backward pass; see `recompute.py`.
    """

    recomputes: bool = False

    def __init__(self, config: ConvNextConfig):
        super().__init__()
        self.config = config
        self.tower = ConvNextModel(config)
        self.tower.layernorm = nn.Identity()  # of the pooled output, which nobody asks for
        for module in self.tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = max(config.layer_norm_eps, _EPS)  # transformers fixes it at 1e-6

    @property
    def width(self) -> int:
        """Channels of all maps together."""
        return sum(self.config.hidden_sizes)

    @property
    def stride(self) -> int:
        """Pixels a side that one position of the largest map stands for."""
        return int(self.config.patch_size)

    @property
    def dtype(self) -> torch.dtype:
        """What the pixels have to be."""
        return self.tower.dtype

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """[I, 3, S, S] normalised -> maps [I, C_s, S / stride / 2^s, …] of stages s = 0 to 3."""
        hidden = self.tower.embeddings(pixels)
        maps = []
        for stage in self.tower.encoder.stages:
            for step in (*stage.downsampling_layer, *stage.layers):
                again = self.recomputes and isinstance(step, ConvNextLayer)
                hidden = Recompute(step)(step, hidden) if again else step(hidden)
            maps.append(hidden)
        return tuple(maps)

    @contextmanager
    def dropping(self, is_on: bool) -> Iterator[None]:
        """Let blocks drop out at their rates meanwhile, whatever mode the module is in."""
        paths = [m for m in self.tower.modules() if isinstance(m, ConvNextDropPath)]
        before = [path.training for path in paths]
        try:
            for path in paths:
                path.training = is_on
            yield
        finally:
            for path, mode in zip(paths, before, strict=True):
                path.training = mode

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], where: Path) -> None:
        """Take over weights under our names.

        Raises:
            ModelError: weights that are missing or of another shape.
        """
        try:
            self.tower.load_state_dict(dict(weights))
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise ModelError(f"{where}: {line[:200]}") from None
