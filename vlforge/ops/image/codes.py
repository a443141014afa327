"""Finding QR codes, which carry links and payment addresses into the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlforge.data.images import to_rgb
from vlforge.ops.base import Bounds
from vlforge.ops.image.opencv import load_opencv, need_opencv
from vlforge.ops.image.pixels import PictureJudge

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class ImageQrcodeFilter(PictureJudge):
    """Keep rows whose pictures show so many QR codes, by default none.

    OpenCV's detector looks for their three corner marks, in larger
    pictures at 2048 pixels; what they say is not read. With the
    default bounds set `any_or_all: all` to drop a row with one code in any of
    its pictures.

    Ours, not Data-Juicer's. A file that is cut off drops its row.

    Statistics: `qrcode_counts`, one per picture.
    """

    min_qrcode_count: int = 0
    max_qrcode_count: int = 0

    stats: ClassVar = ("qrcode_counts",)

    def __post_init__(self) -> None:
        need_opencv("image_qrcode_filter")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the count."""
        return ((self.min_qrcode_count, self.max_qrcode_count),)

    def view(self, image: Image, is_truncated: bool) -> tuple[int]:
        """The number of codes."""
        import numpy as np
        from PIL.Image import Resampling

        cv2 = load_opencv()
        grey = to_rgb(image).convert("L")
        grey.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Resampling.BOX)
        try:
            is_found, corners = cv2.QRCodeDetectorAruco().detectMulti(np.asarray(grey))
        except cv2.error:  # its geometry fails on some shapes that are no codes
            return (0,)
        return (len(corners) if is_found else 0,)
