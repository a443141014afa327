"""Pictures to pixels: bytes on the CPU, normalisation wherever the model is.

`fit` gives uint8 pictures of one size, which are a quarter of the float tensors
that processors usually return; `normalise` turns a batch of them into pixels.

Shapes: B pictures, S pixels a side.
Source: CLIPImageProcessor of transformers (PIL), LLaVA expand2square@c121f04.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlforge.models.parts.anyres import Size, as_bytes, cut_tiles
from vlforge.types import ModelError

FILE_NAME = "preprocessor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageProcessor:
    """How a picture becomes what the vision encoder takes.

    `size` is the encoder's side. `square` resizes the shorter edge to `edge`
    and crops the centre; `pad` first makes the picture square on a ground of
    the mean colour; `stretch` resizes both sides to `size`; `anyres` gives the
    whole picture and tiles of it, as `pinpoints` (width and height in pixels) allow.
    """

    size: int
    fit_mode: Literal["square", "pad", "stretch", "anyres"] = "square"
    edge: int = 0
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resample: int = int(Image.Resampling.BICUBIC)
    pinpoints: tuple[Size, ...] = ()

    def fit(self, image: Image.Image) -> np.ndarray:
        """An RGB picture of any size -> uint8 [S, S, 3]; its tiles [T, S, S, 3] with anyres."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.fit_mode == "anyres":
            if not self.pinpoints:
                raise ModelError("image_aspect_ratio anyres needs image_grid_pinpoints")
            return as_bytes(cut_tiles(image, self.pinpoints, self.size, self.resample))
        if self.fit_mode == "stretch":
            if image.size != (self.size, self.size):
                image = image.resize((self.size, self.size), self.resample)
            return np.asarray(image)
        if self.fit_mode == "pad":
            image = expand_to_square(image, tuple(int(255 * channel) for channel in self.mean))
        edge = self.edge or self.size
        width, height = image.size
        longer = int(edge * max(width, height) / min(width, height))
        target = (edge, longer) if width <= height else (longer, edge)
        if image.size != target:
            image = image.resize(target, self.resample)
        left, top = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pictures: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> fp32 [B, 3, S, S] (channels last in memory)."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=pictures.device)
        shift = torch.tensor(
            [m / s for m, s in zip(self.mean, self.std, strict=True)], device=pictures.device
        )
        return (pictures.to(torch.float32) * scale - shift).permute(0, 3, 1, 2)

    def to_json(self) -> dict[str, Any]:
        """The fields of transformers' CLIP processor, so that it reads the file too."""
        side = {"height": self.size, "width": self.size}
        crops = self.fit_mode != "stretch"
        fields: dict[str, Any] = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.edge or self.size} if crops else side,
            "resample": self.resample,
            "do_center_crop": crops,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        if self.pinpoints:
            # Height first: so transformers' LlavaNextImageProcessor has them.
            fields["image_grid_pinpoints"] = [[height, width] for width, height in self.pinpoints]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], fit_mode: str = "square") -> ImageProcessor:
        """Read a processor file; `fit_mode` is the model's `image_aspect_ratio`.

        Raises:
            ModelError: sizes that are not those of a square encoder.
        """
        size = fields.get("size", {})
        size = {"shortest_edge": size} if isinstance(size, int) else size
        crop = fields.get("crop_size") if fields.get("do_center_crop", True) else None
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        side = (crop or size).get("height") or size.get("shortest_edge")
        if not side or (crop or size).get("width", side) != side:
            raise ModelError(
                f"{FILE_NAME}: size {size} and crop_size {crop} do not give square pictures"
            )
        return cls(
            size=side,
            fit_mode=fit_mode if crop or fit_mode in ("pad", "anyres") else "stretch",
            edge=size.get("shortest_edge", 0),
            mean=tuple(fields.get("image_mean", CLIP_MEAN)),
            std=tuple(fields.get("image_std", CLIP_STD)),
            resample=fields.get("resample", int(Image.Resampling.BICUBIC)),
            pinpoints=tuple((w, h) for h, w in fields.get("image_grid_pinpoints") or ()),
        )


def expand_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of the smallest square, on a ground of `colour`."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def small_processor(image_size: int) -> ImageProcessor:
    """For `SmallVisionModel`: the whole picture, pixels in [-1, 1]."""
    half = (0.5, 0.5, 0.5)
    return ImageProcessor(size=image_size, fit_mode="stretch", mean=half, std=half)
