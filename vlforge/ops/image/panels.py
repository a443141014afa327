"""Finding pictures that are put together of several: plates, collages, figures with panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError
from vlforge.ops.base import Bounds
from vlforge.ops.batch import Batch
from vlforge.ops.image.opencv import load_opencv, need_opencv
from vlforge.ops.image.pixels import PictureJudge, rgb_of
from vlforge.types import Drop

if TYPE_CHECKING:
    from PIL.Image import Image

Line = tuple[int, int, int, int]
"""x and y of one end, then of the other."""

_LONGEST_SIDE = 65_535
"""Only broken files and strips are longer, and the table of all lines grows with the sides."""


@dataclass(frozen=True, kw_only=True)
class ImageSubplotFilter(PictureJudge):
    """Keep rows whose pictures are not put together of panels.

    Edges (Canny) and long straight lines (Hough) are searched. A picture is put
    together if its confidence reaches `min_confidence` and it has at least
    `min_horizontal_lines` and `min_vertical_lines`; `any` drops a row with one
    such picture, `all` one with nothing else. `reversed_range` keeps what would
    be dropped (without effect by `compat: data_juicer`).

    The confidence adds up: enough lines (0.2 each direction), even distances
    (0.15 each), many crossings for the area (0.2), equal lengths (0.05 each).
    Lines are counted with OpenCV, so the counts belong to its version.
    `angle_tolerance` is in degrees, `min_line_length` and `max_line_gap` in pixels.
    A file that is cut off drops its row unless `compat` is set.

    Statistics: `image_subplot_confidence`, `horizontal_peak_count` and
    `vertical_peak_count`, one per picture; `subplot_detected`, whether any
    confidence reaches the bound.
    """

    min_horizontal_lines: int = 3
    min_vertical_lines: int = 3
    min_confidence: float = 0.5
    canny_threshold1: int = 70
    canny_threshold2: int = 190
    hough_threshold: int = 110
    min_line_length: int = 110
    max_line_gap: int = 18
    angle_tolerance: float = 4.0

    stats: ClassVar = (
        "image_subplot_confidence",
        "horizontal_peak_count",
        "vertical_peak_count",
        "subplot_detected",
    )

    def __post_init__(self) -> None:
        need_opencv("image_subplot_filter")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the confidence; the other statistics count only together with it."""
        return ((None, self.min_confidence), (None, None), (None, None), (None, None))

    def view(self, image: Image, is_truncated: bool) -> tuple[float, int, int]:
        """Confidence, horizontal and vertical lines of one picture."""
        if max(image.size) > _LONGEST_SIDE:
            longest = f"has a side of {max(image.size)} pixels"
            raise ImageError("image too large", f"{longest}: lines are searched up to 65535")
        horizontal, vertical = self._lines(rgb_of(image, self))
        enough = (self.min_horizontal_lines, self.min_vertical_lines)
        return confidence(horizontal, vertical, image.size, enough), len(horizontal), len(vertical)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        found = batch.per_image(self, lambda file: batch.files.view(file, self), 3)
        detected = [
            row if isinstance(row, Drop) else max(row, default=-math.inf) >= self.min_confidence
            for row in found[0]
        ]
        return (*found, detected)

    def keep(self, *values: Any) -> bool:
        """Whether the pictures of a row are not put together."""
        least = (self.min_confidence, self.min_horizontal_lines, self.min_vertical_lines)
        has_panels = [
            all(value >= bound for value, bound in zip(picture, least, strict=True))
            for picture in zip(*values[:3], strict=True)
        ]
        if not has_panels:
            return True
        is_reversed = self.reversed_range and self.compat != "data_juicer"
        return (any if self.any_or_all == "any" else all)(has_panels) == is_reversed

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """The drop record: the confidences and their bound."""
        if self.reversed_range:
            return Drop(name, "no panels", self.stats[0], values[0], f">= {self.min_confidence}")
        return Drop(name, "panels", self.stats[0], values[0], f"< {self.min_confidence}")

    def _lines(self, rgb: Image) -> tuple[list[Line], list[Line]]:
        """Lines that are nearly level, and nearly upright ones."""
        import numpy as np

        cv2 = load_opencv()
        grey = cv2.GaussianBlur(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2GRAY), (5, 5), 0)
        edges = cv2.Canny(grey, self.canny_threshold1, self.canny_threshold2)
        found = cv2.HoughLinesP(
            edges,
            1,
            math.pi / 180,
            self.hough_threshold,
            minLineLength=self.min_line_length,
            maxLineGap=self.max_line_gap,
        )
        level: list[Line] = []
        upright: list[Line] = []
        for x1, y1, x2, y2 in () if found is None else found.reshape(-1, 4).tolist():
            angle = abs(math.degrees(math.atan2(y2 - y1, x2 - x1)))
            if min(angle, 180 - angle) <= self.angle_tolerance:
                level.append((x1, y1, x2, y2))
            elif abs(angle - 90) <= self.angle_tolerance:
                upright.append((x1, y1, x2, y2))
        return level, upright


def confidence(
    horizontal: Sequence[Line],
    vertical: Sequence[Line],
    size: tuple[int, int],
    enough: tuple[int, int],
) -> float:
    """How much lines look like the borders of panels, 0..1.

    Args:
        size: width and height of the picture.
        enough: as many horizontal and vertical lines are as good as more.
    """
    if not horizontal or not vertical:
        return 0.0
    width, height = size
    h_count = min(len(horizontal) / max(enough[0], 1), 1.0)
    v_count = min(len(vertical) / max(enough[1], 1), 1.0)
    h_even = _steadiness(_gaps([(y1 + y2) / 2 for _, y1, _, y2 in horizontal]), 0.05 * height)
    v_even = _steadiness(_gaps([(x1 + x2) / 2 for x1, _, x2, _ in vertical]), 0.05 * width)
    is_grid = len(horizontal) > 1 and len(vertical) > 1
    crossings = len(horizontal) * len(vertical) / (width * height) * 10000 if is_grid else 0.0
    h_same = v_same = 0.0
    if len(horizontal) > 1:
        h_same = _steadiness([abs(x2 - x1) for x1, _, x2, _ in horizontal], 0.3 * width)
    if len(vertical) > 1:
        v_same = _steadiness([abs(y2 - y1) for _, y1, _, y2 in vertical], 0.3 * height)
    total = h_count * 0.2 + v_count * 0.2 + h_even * 0.15 + v_even * 0.15
    total += min(crossings / 10, 1.0) * 0.2 + h_same * 0.05 + v_same * 0.05
    return min(total, 1.0)


def _gaps(places: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(sorted(places))]


def _steadiness(values: Sequence[float], least: float) -> float:
    """1 for equal values, less as they vary, half as much where their mean is under `least`."""
    import numpy as np

    mean = float(np.mean(values)) if values else 0.0
    if mean == 0:
        return 0.0
    steadiness = max(0.0, 1 - float(np.std(values)) / mean)
    return steadiness * 0.5 if mean < least else steadiness
