"""BLIP-2's training pictures: a random part of each, stretched to a square.

The draws are torchvision's, number by number: the same generator state cuts the
same box. Asking and training differ in this alone; `fit` is what is asked with.

Shapes: S pixels a side.
Source: RandomResizedCrop of torchvision, `blip2_image_train` of
Vision-CAIR/MiniGPT-4@22d8888.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from vlforge.models.parts.image_processor import ImageProcessor

TRIES = 10
"""Boxes drawn before the middle of the picture is taken."""


@dataclass(frozen=True)
class CroppingProcessor(ImageProcessor):
    """An `ImageProcessor` that can also cut at random, as `blip2_image_train` does.

    scale: smallest and largest share of the picture's area.
    ratio: smallest and largest width / height.
    """

    fit_mode: Literal["square", "pad", "stretch", "anyres"] = "stretch"
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def fit_random(self, image: Image.Image, generator: torch.Generator) -> np.ndarray:
        """A part of a picture of any size -> uint8 [S, S, 3]; `generator` is on the CPU."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        left, top, width, height = random_box(image.size, generator, self.scale, self.ratio)
        part = image.crop((left, top, left + width, top + height))
        if part.size != (self.size, self.size):
            part = part.resize((self.size, self.size), self.resample)
        return np.asarray(part)


def random_box(
    size: tuple[int, int],
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of a picture of `size`, in pixels.

    Where no box of the drawn shapes fits, the middle of the picture at the nearest
    allowed ratio, and then no place is drawn.
    """
    width, height = size
    low, high = torch.log(torch.tensor(ratio)).tolist()
    for _ in range(TRIES):
        area = width * height * _between(*scale, generator)
        aspect = torch.exp(torch.tensor(_between(low, high, generator))).item()
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = _below(height - tall + 1, generator)
            return _below(width - wide + 1, generator), top, wide, tall
    wide, tall = width, height
    if width / height < min(ratio):
        tall = round(width / min(ratio))
    elif width / height > max(ratio):
        wide = round(height * max(ratio))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return torch.empty(1).uniform_(low, high, generator=generator).item()


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(0, bound, size=(1,), generator=generator).item())
