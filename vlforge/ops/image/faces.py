"""Finding faces with OpenCV's cascades of Haar features."""

from __future__ import annotations

import functools
import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError
from vlforge.ops.base import Bounds, Operator
from vlforge.ops.image.opencv import face_file, load_opencv
from vlforge.ops.image.pixels import PictureJudge, rgb_of
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = {"": 16_000_000, "data_juicer": 64_000_000}
"""Pictures with more, by `compat`, are searched at half their size or less: OpenCV takes 60
bytes a pixel, and crashes where its counts of bytes overflow."""

Face = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, kw_only=True)
class FaceSearch(Operator):
    """Keys of operators that look for faces.

    `cv_classifier` is the path of a cascade, by default the one for frontal
    faces that comes with OpenCV. The others are OpenCV's own: the step between
    the sizes that are tried, how many finds have to agree, and the least and
    largest size as [width, height].
    """

    cv_classifier: str = ""
    scaleFactor: float = 1.1
    minNeighbors: int = 3
    minSize: tuple[int, int] | None = None
    maxSize: tuple[int, int] | None = None

    op_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self.check_faces()

    def check_faces(self) -> None:
        """Refuse keys that make no sense, and a machine without OpenCV or its cascade."""
        if self.scaleFactor <= 1 or self.minNeighbors < 0:
            raise RecipeError(f"{self.op_name} takes scaleFactor above 1 and minNeighbors from 0")
        if self.cv_classifier and not _is_cascade(self._path):
            raise RecipeError(
                f"{self.op_name}.cv_classifier is {self.cv_classifier!r}, which is no cascade"
            )
        assert self._path

    def faces(self, image: Image) -> list[Face]:
        """The faces of a picture, cut at its edges; the last picture's are remembered."""
        settings = (self.scaleFactor, self.minNeighbors, self.minSize, self.maxSize)
        key = (self._path, settings, self.compat)
        if not _last or _last[0].picture() is not image or _last[0].key != key:
            found = _search(rgb_of(image, self), self._path, settings, MOST_PIXELS[self.compat])
            _last[:] = [_Found(weakref.ref(image), key, found)]
        return _last[0].faces

    @functools.cached_property
    def _path(self) -> str:
        return face_file(self.op_name, self.cv_classifier)


@functools.cache
def _finder(path: str) -> _Finder:
    return _Finder(path)


class _Finder:
    """A cascade that forgets before its memory grows too large.

    OpenCV keeps room for the widest and the tallest picture it has met, at once:
    after a strip and a tower that would be gigabytes.
    """

    def __init__(self, path: str):
        self._path = path
        self._cascade: Any = None
        self._sides = (0, 0)

    def find(self, grey: Any, **keys: Any) -> Any:
        """Boxes of faces in a grey picture."""
        height, width = grey.shape
        sides = (max(width, self._sides[0]), max(height, self._sides[1]))
        is_new = self._cascade is None or sides[0] * sides[1] > 2 * MOST_PIXELS[""]
        if is_new:
            self._cascade, sides = load_opencv().CascadeClassifier(self._path), (width, height)
        self._sides = sides
        return self._cascade.detectMultiScale(grey, **keys)

    def forget(self) -> None:
        """Start anew: after a failed allocation the cascade would fail for ever."""
        self._cascade = None


def _is_cascade(path: str) -> bool:
    cv2 = load_opencv()
    try:
        return not cv2.CascadeClassifier(path).empty()
    except (cv2.error, SystemError):  # which of the two depends on the file
        return False


@dataclass(frozen=True)
class _Found:
    """What a search found: several operators look at the same picture one after the other."""

    picture: weakref.ref[Any]
    key: Any
    faces: list[Face]


_last: list[_Found] = []


def _search(rgb: Image, path: str, settings: tuple[Any, ...], most_pixels: int) -> list[Face]:
    import numpy as np

    scale, neighbours, *extremes = settings
    cv2 = load_opencv()
    factor = max(1, math.ceil(math.sqrt(rgb.width * rgb.height / most_pixels)))
    small = rgb.reduce(factor) if factor > 1 else rgb
    bounds = [None if size is None else [side // factor for side in size] for size in extremes]
    grey = cv2.cvtColor(np.asarray(small), cv2.COLOR_RGB2GRAY)
    try:
        found = _finder(path).find(
            grey, scaleFactor=scale, minNeighbors=neighbours, minSize=bounds[0], maxSize=bounds[1]
        )
    except cv2.error:
        _finder(path).forget()
        size = f"{rgb.width} x {rgb.height} pixels"
        raise ImageError("faces cannot be searched", f"is {size}: OpenCV gave up on it") from None
    return [_cut(rgb, *(int(side) * factor for side in box)) for box in found]


def _cut(image: Image, left: int, top: int, width: int, height: int) -> Face:
    left, top = max(left, 0), max(top, 0)
    return left, top, min(width, image.width - left), min(height, image.height - top)


@dataclass(frozen=True, kw_only=True)
class ImageFaceCountFilter(FaceSearch, PictureJudge):
    """Keep rows whose pictures show so many faces.

    Faces are found by OpenCV's cascade of Haar features, so the counts belong to
    the version of OpenCV. A file that is cut off drops its row; `compat:
    data_juicer` searches what there is of it, and does not turn a picture that
    the row carries as bytes. 16-bit grey is scaled; by `compat` it is clipped.
    Pictures over 16 megapixels, by `compat` over 64, are searched at half their
    size or less: the search takes 60 bytes of memory a pixel.

    `cv_classifier` is the path of another cascade; `scaleFactor`, `minNeighbors`,
    `minSize` and `maxSize` ([width, height]) go to OpenCV as they are.

    Statistics: `face_counts`, one per picture.
    """

    min_face_count: int = 1
    max_face_count: int = 1

    stats: ClassVar = ("face_counts",)
    op_name: ClassVar = "image_face_count_filter"

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the count."""
        return ((self.min_face_count, self.max_face_count),)

    def view(self, image: Image, is_truncated: bool) -> tuple[int]:
        """The number of faces."""
        return (len(self.faces(image)),)


@dataclass(frozen=True, kw_only=True)
class ImageFaceRatioFilter(FaceSearch, PictureJudge):
    """Keep rows whose largest face takes a share of its picture within bounds.

    The share is that of the area, 0 without faces. Faces are found as in
    `image_face_count_filter`, whose further keys and `compat` it has.

    Statistics: `face_ratios`, one per picture.
    """

    min_ratio: float = 0.0
    max_ratio: float = 0.4

    stats: ClassVar = ("face_ratios",)
    op_name: ClassVar = "image_face_ratio_filter"

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def view(self, image: Image, is_truncated: bool) -> tuple[float]:
        """Area of the largest face / area of the picture."""
        largest = max((width * height for _, _, width, height in self.faces(image)), default=0)
        return (largest / (image.width * image.height),)
