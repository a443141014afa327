"""Blurring pictures, or only the faces in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Operator
from vlforge.ops.batch import Batch, Item
from vlforge.ops.image.copies import PictureWriter
from vlforge.ops.image.faces import Face, FaceSearch
from vlforge.ops.image.pixels import rgb_of
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Blur(Operator):
    """Keys of operators that blur: the kernel and its radius in pixels."""

    blur_type: Literal["mean", "box", "gaussian"] = "gaussian"
    radius: float = 2

    op_name: ClassVar[str] = ""

    def check_blur(self) -> None:
        """Refuse keys that make no sense."""
        if not self.radius >= 0:
            raise RecipeError(f"{self.op_name}.radius is {self.radius}, below 0")

    def kernel(self) -> Any:
        """Pillow's filter; `mean` is a fixed 5 x 5 ring without a radius."""
        from PIL import ImageFilter

        if self.blur_type == "mean":
            return ImageFilter.BLUR
        if self.blur_type == "box":
            return ImageFilter.BoxBlur(self.radius)
        return ImageFilter.GaussianBlur(self.radius)


@dataclass(frozen=True, kw_only=True)
class ImageBlurMapper(Blur, PictureWriter):
    """Blur a share of the pictures.

    Each picture is blurred with probability `p`. The draw depends on the recipe's
    seed, the row and the operator's keys alone, so that neither the number of
    workers nor a restart changes it; a picture twice in a row is drawn once.
    `blur_type` is `gaussian` or `box` with a `radius` in pixels, or `mean`, a
    fixed 5 x 5 kernel.

    Copies are upright RGB in the format of the picture, jpeg and webp with
    `quality` (by default 75 and 80, as in Data-Juicer). They lie in `save_dir`, or else in the
    run's folder under `produced/image_blur_mapper`, named after the picture and a
    digest of the copy; `__dj__source_file__` names what they were made from. A
    file that is cut off drops its row; `compat: data_juicer` blurs what there is
    of it, and does not turn a picture that the row carries as bytes.
    """

    p: float = 0.2

    op_name: ClassVar = "image_blur_mapper"

    def __post_init__(self) -> None:
        self.check_blur()
        self.check_copies()
        if not 0 <= self.p <= 1:
            raise RecipeError(f"image_blur_mapper.p is {self.p}, not 0..1")

    def wants(self, file: ImageFile, item: Item, number: int, batch: Batch) -> bool:
        """Whether this picture's draw is below `p`."""
        drawn = (batch.context.seed, item.uid, number, self.p, self.blur_type, self.radius)
        digest = hashlib.blake2b(repr(drawn).encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.p * 2**64

    def change(self, image: Image, seen: Any) -> Image:
        """The picture, blurred."""
        return rgb_of(image, self).filter(self.kernel())


@dataclass(frozen=True, kw_only=True)
class ImageFaceBlurMapper(Blur, FaceSearch, PictureWriter):
    """Blur the faces in pictures; pictures without faces stay as they are.

    Faces are found as in `image_face_count_filter`, with its keys `cv_classifier`,
    `scaleFactor`, `minNeighbors`, `minSize` and `maxSize`; each one's rectangle is
    blurred on its own. Kernel, copies, `__dj__source_file__` and `compat` are
    those of `image_blur_mapper`; the folder is `produced/image_face_blur_mapper`.
    """

    op_name: ClassVar = "image_face_blur_mapper"

    def __post_init__(self) -> None:
        self.check_blur()
        self.check_copies()
        self.check_faces()

    def view(self, image: Image, is_truncated: bool) -> list[Face]:
        """The faces of the picture."""
        return self.faces(image)

    def change(self, image: Image, seen: list[Face]) -> Image:
        """The picture with its faces blurred."""
        before = rgb_of(image, self)
        after, kernel = before.copy(), self.kernel()
        for left, top, width, height in seen:
            box = (left, top, left + width, top + height)
            after.paste(before.crop(box).filter(kernel), box)
        return after
