"""What filters on decoded pictures share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import to_rgb
from vlforge.ops.base import ImageFilter, Operator
from vlforge.ops.batch import Batch
from vlforge.types import Need

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class PictureJudge(ImageFilter):
    """A filter on what decoded pictures show.

    A picture that is cut off or damaged drops its row; `compat: data_juicer`
    judges what there is of it.
    """

    needs: ClassVar = Need.PIXELS

    def view(self, image: Image, is_truncated: bool) -> tuple[Any, ...]:
        """One value per statistic of one picture."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return batch.per_image(self, lambda file: batch.files.view(file, self), len(self.stats))


def rgb_of(image: Image, op: Operator) -> Image:
    """RGB of a decoded picture; Data-Juicer clips 16-bit grey where we scale it."""
    is_theirs = op.compat == "data_juicer"
    return image.convert("RGB") if is_theirs and image.mode != "RGB" else to_rgb(image)
