"""Finding pictures that show nothing, or that were blown up from something small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Bounds, ImageFilter
from vlforge.ops.batch import Batch
from vlforge.types import Need

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class ImageDetailFilter(ImageFilter):
    """Keep rows whose pictures have contrast and fine detail; a truncated file is bad.

    `image_contrast` is the standard deviation of the grey levels (0..127.5):
    near 0 for a blank picture. `image_sharpness` is the variance of a 4-neighbour
    Laplacian over the grey levels: small for blurred and enlarged pictures.
    """

    min_contrast: float = 2.0
    min_sharpness: float = 0.0

    needs: ClassVar = Need.PIXELS
    stats: ClassVar = ("image_contrast", "image_sharpness")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of contrast and sharpness."""
        return ((self.min_contrast, None), (self.min_sharpness, None))

    def view(self, image: Image, is_truncated: bool) -> tuple[float, float]:
        """Contrast and sharpness of one picture."""
        if is_truncated:
            raise ImageError("truncated image", "is cut off or damaged: fetch it again")
        from vlforge.data.images import to_rgb

        return contrast_and_sharpness(to_rgb(image).convert("L"))

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        def look(file: ImageFile) -> tuple[float, float]:
            try:
                found: tuple[float, float] = batch.files.view(file, self)
            except ImageError as error:
                if error.reason != "truncated image":
                    raise
                raise ImageError(error.reason, f"image {file.path} {error}") from None
            return found

        return batch.per_image(self, look, 2)


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
