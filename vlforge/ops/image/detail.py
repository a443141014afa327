"""Finding pictures that show nothing, are blurred, or were blown up from something small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlforge.data.images import to_rgb
from vlforge.ops.base import Bounds
from vlforge.ops.image.pixels import PictureJudge
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_SIDE = 512
"""Sharpness is compared at this size, so that it does not depend on the resolution."""


@dataclass(frozen=True, kw_only=True)
class ImageDetailFilter(PictureJudge):
    """Keep rows whose pictures have contrast and fine detail.

    `image_contrast` is the standard deviation of the grey levels (0..127.5):
    near 0 for a blank picture. `image_sharpness` is the variance of a 4-neighbour
    Laplacian over the grey levels: small for blurred and enlarged pictures. It
    depends on the resolution; `image_blur_filter` does not.
    """

    min_contrast: float = 2.0
    min_sharpness: float = 0.0

    stats: ClassVar = ("image_contrast", "image_sharpness")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of contrast and sharpness."""
        return ((self.min_contrast, None), (self.min_sharpness, None))

    def view(self, image: Image, is_truncated: bool) -> tuple[float, float]:
        """Contrast and sharpness of one picture."""
        return contrast_and_sharpness(to_rgb(image).convert("L"))


@dataclass(frozen=True, kw_only=True)
class ImageBlurFilter(PictureJudge):
    """Keep rows whose pictures are not blurred.

    `image_laplacian_variance` is the variance of a 4-neighbour Laplacian over the
    grey levels, with the longest side brought down to 512 pixels (smaller
    pictures stay as they are). Sharp photographs lie above 100; out of focus, by
    2 pixels or more, below 20; the sky and the moon, which show little, in between.

    Ours, not Data-Juicer's. A file that is cut off drops its row.
    """

    min_variance: float = 25.0
    max_variance: float | None = None

    stats: ClassVar = ("image_laplacian_variance",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the variance."""
        return ((self.min_variance, self.max_variance),)

    def view(self, image: Image, is_truncated: bool) -> tuple[float]:
        """The variance of one picture."""
        from PIL.Image import Resampling

        grey = to_rgb(image).convert("L")
        longest = max(grey.size)
        if longest > _LONGEST_SIDE:
            sides = (max(1, round(side * _LONGEST_SIDE / longest)) for side in grey.size)
            grey = grey.resize(tuple(sides), Resampling.BILINEAR)
        return (contrast_and_sharpness(grey)[1],)


@dataclass(frozen=True, kw_only=True)
class ImageBlankFilter(PictureJudge):
    """Keep rows whose pictures show more than one even colour.

    `image_blank_ratios` is the share of pixels that differ from the picture's
    most common colour by at most `tolerance` levels (of 255) in red, green and
    blue: 1 for a blank page, about 0.9 for a page of text, below 0.8 for
    photographs. Of a large picture 512 rows and columns are looked at.

    Ours, not Data-Juicer's. A file that is cut off drops its row.
    """

    max_ratio: float = 0.99
    tolerance: int = 8

    stats: ClassVar = ("image_blank_ratios",)

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 255:
            raise RecipeError(f"image_blank_filter.tolerance is {self.tolerance}, not 0..255")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((None, self.max_ratio),)

    def view(self, image: Image, is_truncated: bool) -> tuple[float]:
        """The share of one picture."""
        import numpy as np
        from PIL.Image import Resampling

        rgb = to_rgb(image)
        if max(rgb.size) > _LONGEST_SIDE:
            width, height = (min(side, _LONGEST_SIDE) for side in rgb.size)
            rgb = rgb.resize((width, height), Resampling.NEAREST)
        dots = np.asarray(rgb).reshape(-1, 3)
        coarse = (dots >> 3) @ np.array([1024, 32, 1], dtype=np.int32)
        is_common = coarse == np.bincount(coarse).argmax()
        colour = np.median(dots[is_common], axis=0)
        is_near = (np.abs(dots - colour.astype(np.int16)) <= self.tolerance).all(axis=1)
        return (float(is_near.mean()),)


def contrast_and_sharpness(grey: Image) -> tuple[float, float]:
    """Standard deviation of the grey levels, and variance of their Laplacian."""
    import numpy as np

    levels = np.asarray(grey, dtype=np.float32)
    contrast = float(levels.std(dtype=np.float64))
    if min(levels.shape) < 3:
        return contrast, 0.0
    middle = levels[1:-1, 1:-1]
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return contrast, float((around - 4 * middle).var(dtype=np.float64))
